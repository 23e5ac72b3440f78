"""Calibration under corruption: CIFAR-10-C and CIFAR-100-C, as SDDE's test_ece scripts for severities 1 and 5."""
import math

from reporting.comparison import networks
from reporting.names import in_order, title_of
from reporting.tables import Section
from reporting.verdicts import mean_and_std, number

LEGEND = """\
Each metric is a mean over the corruptions of the test images, then mean ± sample standard deviation over n seeds. The
  checkpoint is that of the best epoch. The four validation corruptions of the benchmark are left out.
own T: the temperature is fitted by NLL on validation images under the same corruption, as SDDE's scripts do for
  CIFAR-C. clean T: on clean validation images, as they do for ImageNet-C. T = 1: not calibrated.
ECE has 15 bins and is a fraction, NLL is in nats, the Brier score goes from 0 to 2. For all of them lower is better. No
  published values exist: SDDE's figure has no numbers, and the corruptions that its scripts averaged are not known."""
METRICS = {  # column → (metric of a corrupted set, of the clean one, unit, digits)
    "ACC (%)": ("accuracy", "accuracy", 100, 2), "ECE, T = 1": ("ece_uncalibrated", "ece_uncalibrated", 1, 4),
    "ECE, own T": ("ece", "ece", 1, 4), "ECE, clean T": ("ece_clean_temperature", "ece", 1, 4),
    "NLL, own T": ("nll", "nll", 1, 4), "NLL, clean T": ("nll_clean_temperature", "nll", 1, 4),
    "Brier, own T": ("brier", "brier", 1, 4), "Brier, clean T": ("brier_clean_temperature", "brier", 1, 4)}
SEVERITIES_SHOWN = (0, 1, 5)  # severities; the CSV has all


def rows_of(dataset, runs):
    """Tidy: a row per run × severity × column: the mean over the corruptions that were tested, and how many."""
    rows = []
    for run in (run for run in runs if run.id_dataset == dataset):
        groups = {place[0] for place in run.cells("openood", "best", "images") if place[0].startswith("corrupted_")}
        severities = {int(group.removeprefix("corrupted_")): group for group in groups}
        if not severities:
            continue
        from data.corruptions import VALIDATION  # here, because it takes half a second

        for severity in sorted({0, *severities}):
            group = severities.get(severity, "id")
            for column, (corrupted, clean, unit, _) in METRICS.items():
                cells = run.cells("openood", "best", corrupted if severity else clean)
                values = [unit * value for (own, name), (value, _) in cells.items()
                          if own == group and not name.endswith(tuple(VALIDATION))]
                rows.append({
                    "id_dataset": dataset, "model": run.model, "method": run.method, "changed": run.changed,
                    "seed": run.seed, "severity": severity, "column": column,
                    "corruptions": len(values) if severity else 0,
                    "value": mean_and_std(values)[0], "note": _note(run, group)})
    return rows


def _note(run, group):
    notes = {note for (own, _), (_, note) in run.cells("openood", "best", "images").items() if own == group}
    return "; ".join(sorted(notes - {""}))


def sections(rows):
    """A Section per network and recipe."""
    headers = ["severity", "method", "n", "corruptions", *METRICS]
    for title, part, notes in networks(rows):
        lines = []
        for severity in (severity for severity in SEVERITIES_SHOWN if any(row["severity"] == severity for row in part)):
            for method in in_order({row["method"] for row in part}):
                own = [row for row in part if (row["severity"], row["method"]) == (severity, method)]
                if own:
                    lines.append([str(severity) if severity else "0 (clean)", title_of(method), *_texts(own)])
        notes += [f"{note}." for note in dict.fromkeys(row["note"] for row in part if row["severity"]) if note]
        yield Section(title, headers, lines, " ".join(notes))


def _texts(rows):
    """n, how many corruptions, and a text per column, of one method and severity."""
    counts = sorted({row["corruptions"] for row in rows} - {0})
    texts = [str(len({row["seed"] for row in rows})), "/".join(map(str, counts))]
    for column, (_, _, _, digits) in METRICS.items():
        values = [row["value"] for row in rows if row["column"] == column and math.isfinite(row["value"])]
        texts.append(number(*mean_and_std(values), digits))
    return texts
