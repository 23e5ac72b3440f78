"""Every method on each OOD set of the openood benchmark, and whether the images of the set are complete."""
from itertools import product

from recipes import dismax_score
from reporting.comparison import grouped, networks
from reporting.load import OWN_SCORE
from reporting.names import in_order, sdde_script_score, title_of
from reporting.openood import COMMON_SCORE
from reporting.tables import Section
from reporting.verdicts import mean_and_std, number

LEGEND = """\
AUROC and FPR95 (%) on each OOD set by itself, mean ± sample standard deviation over n seeds, of the best epoch on
  validation images (for single networks and for digits: on test images). The OOD images are the positive class. FPR95
  is the share of in-distribution images that are rejected when 95 % of the OOD images are rejected. A tie counts half.
Each method is scored with logit-average, the common score, and with the score of its paper's release. average is MPS
  after calibration on validation images; logit-average is MDS of a single network.
images: their number, and whether they are all of OpenOOD's. complete: all, verified by the publisher's checksum.
  complete, unverified: all, from files without a published checksum. other: a subset, or images selected by us."""
# the release's score of a single network → what the openood benchmark calls it
OF_SINGLE = {"MPS": "average", "ES": "ES", "MDS": COMMON_SCORE, "MMLES": "MMLES"}
UNVERIFIED = "from files that no checksum covers"


def rows_of(dataset, runs):
    """Tidy: a row per network × recipe × OOD set × method × score, of which AUROC and FPR95 are in per cent."""
    rows = []
    for (model, changed), part in grouped([run for run in runs if run.id_dataset == dataset],
                                          lambda run: (run.model, run.changed)):
        places = dict.fromkeys(place for run in part for place in run.cells("openood", "best", "images")
                               if place[0] not in ("id", "validation") and not place[0].startswith("corrupted"))
        for place, method in product(places, in_order({run.method for run in part})):
            of_method = [run for run in part if run.method == method]
            rows += _rows_of_method(dataset, of_method, place, {"id_dataset": dataset, "model": model,
                                                                "changed": changed})
    return rows


def _rows_of_method(dataset, runs, place, address):
    """The rows of one method on one OOD set: of seeds with the same images, for its own score and the common one."""
    tested = [(run, images) for run in runs if (images := run.cells("openood", "best", "images").get(place))]
    for (count, note), seeds in grouped(tested, lambda pair: pair[1]):
        runs = [run for run, _ in seeds]
        for score in dict.fromkeys([own_score(dataset, runs[0], place[0]), COMMON_SCORE]):
            values = {}
            for metric in ("auroc", "fpr95"):
                cells = [run.cells("openood", "best", metric, score) for run in runs]
                found = [100 * of_run[place][0] for of_run in cells if place in of_run]
                values["n"] = len(found)
                values[metric], values[f"{metric}_std"] = mean_and_std(found)
            if values["n"]:
                yield {**address, "ood_group": place[0], "dataset": place[1], "method": runs[0].method, "score": score,
                       **values, "images": int(count), "status": status(note), "note": note}


def own_score(dataset, run, group):
    """The release's score for a method, under the benchmark's name for it; the common score where there is none."""
    if run.from_files:
        return OWN_SCORE
    if run.members == 1:
        return OF_SINGLE.get(dismax_score(dataset, run.method, group), COMMON_SCORE)
    return sdde_script_score(dataset, run.method) or COMMON_SCORE


def status(note):
    """Whether the images are the benchmark's, from the note of their row."""
    return "complete" if not note else "complete, unverified" if note == UNVERIFIED else "other"


def sections(rows):
    """A Section per network and recipe."""
    headers = ["OOD set", "images", "method", "scored with", "n", "AUROC (%)", "FPR95 (%)"]
    for title, part, notes in networks(rows):
        lines, before = [], None
        for row in part:
            place = [f"{row['ood_group'].replace('_', ' ')}: {title_of(row['dataset'])}",
                     f"{row['images']:,}, {row['status']}"]
            lines.append([*(["", ""] if place == before else place), title_of(row["method"]), row["score"],
                          str(row["n"]), number(row["auroc"], row["auroc_std"], 2),
                          number(row["fpr95"], row["fpr95_std"], 2)])
            before = place
        notes += dict.fromkeys(f"{row['dataset']}: {row['note']}." for row in part if row["note"])
        yield Section(title, headers, lines, " ".join(notes))
