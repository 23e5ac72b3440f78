"""The note under a table: the runs of its rows, what is missing, and what was left out."""
from reporting import papers
from reporting.names import is_known, title_of


def notes_of(benchmark, dataset, model, lines, columns, results):
    """Sentences on the runs of one network: number and devices, rows without a published value, images that differ from
    the paper's, seeds that the release drops, and runs that are left out."""
    runs = list({run.folder: run for line in lines for run in line.runs}.values())
    devices = ", ".join(sorted({run.device for run in runs}))
    return " ".join([
        f"{len(runs)} run{'s' * (len(runs) != 1)} on {devices}.",
        *_unpublished(dataset, model, lines),
        *_dropped(lines),
        *image_notes(benchmark, runs, columns),
        *left_out_notes(results, dataset, model),
    ])


def _unpublished(dataset, model, lines):
    known = {row["method"] for row in [*papers.dismax(), *papers.sdde()]
             if (row["id_dataset"], row["model"]) == (dataset, model)}
    if not known:
        yield f"{title_of(model)} on {title_of(dataset)} is in neither paper."
    elif others := dict.fromkeys(line.title for line in lines if line.method and line.method not in known):
        yield f"Without a published row: {'; '.join(others)}."
    if others := dict.fromkeys(line.method for line in lines if line.method and not is_known(line.method)):
        yield f"Not registered, so listed under {'its' if len(others) == 1 else 'their'} own name: {', '.join(others)}."


def _dropped(lines):
    for line in lines:
        for cell in line.cells:
            if cell.dropped_n:
                n = cell.ours_n + cell.dropped_n
                yield (f"{line.title}, {cell.column}: {cell.dropped_n} of {n} seeds dropped, as in the release, since "
                       "the temperature search ended at a bound.")


def image_notes(benchmark, runs, columns):
    """Which sets of a group are missing, and which images differ from the paper's."""
    tested = {(row[2], row[1]) for run in runs for row in run.rows if row[0] == benchmark.name}
    recorded = {}  # (ood_group, set) → notes
    for run in runs:
        for checkpoint in ("last", "best"):
            for place, (_, note) in run.cells(benchmark.name, checkpoint, "images").items():
                recorded.setdefault(place, {})[note] = None
    for group, names in dict.fromkeys((column.group, column.datasets) for column in columns):
        absent = [name for name in names if (group, name) not in tested]
        if len(names) > 1 and absent:
            there = len(names) - len(absent)
            yield f"{group} is a mean over {there} of {len(names)} sets: {', '.join(absent)} missing."
    for place in dict.fromkeys((column.group, name) for column in columns for name in column.datasets):
        if place in tested and place not in recorded:
            yield f"{place[1]}: the images that were used are not recorded."
        yield from (f"{place[1]}: {note}." for note in recorded.get(place, ()) if note)


def left_out_notes(results, dataset, model=None):
    """A sentence for each run that is in no table."""
    for run in results.left_out:
        if run.id_dataset == dataset and model in (None, run.model):
            yield f"Left out: {'/'.join(run.folder.parts[-4:])}: {run.reason}."
