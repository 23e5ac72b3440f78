"""results/report.html: the tables and, for each network, pictures of its runs (`python analyze.py --report`)."""
import html

import numpy as np

from data.datasets import OUTLIERS
from metrics.calibration import cross_fitted_logits, probabilities_of
from metrics.detection import detection_metrics
from reporting import plots
from reporting.comparison import grouped
from reporting.names import dismax_score, in_order, title_of
from reporting.tables import one_line
from utils.io import write_text

STYLE = """:root { color-scheme: light dark; --line: #8886; --stripe: #8881; --soft: #888 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem }
h1 { border-bottom: 2px solid var(--line) } nav ul { columns: 20rem }
.table { overflow-x: auto } table { border-collapse: collapse; margin: .5rem 0 }
td, th { padding: .2em .8em; text-align: left; white-space: nowrap }
thead { border-bottom: 2px solid var(--line) } tbody tr:nth-child(even) { background: var(--stripe) }
figure { margin: 1rem 0 } img { max-width: 100%; background: white }
.legend { color: var(--soft); font-size: .9rem }"""


def write_report(results_dir, pages, results):
    """Figures to results_dir/figures/, and the page: its contents, and of each data set the pictures, then the tables.

    Args:
        pages: (data set, [(its title, name and HTML of a table)]) in order.
        results: what load.read_runs gives.
    """
    contents, body = [], []
    for dataset, tables in pages:
        title = html.escape(one_line(title_of(dataset)))
        links = "".join(f'<li><a href="#{html.escape(name, quote=True)}">{html.escape(one_line(heading))}</a></li>'
                        for heading, name, _ in tables)
        contents.append(f"<h2>{title}</h2><ul>{links}</ul>")
        body.append(f"<h1>{title}</h1>")
        of_set = [run for run in results.runs if run.id_dataset == dataset]
        for (model, changed), chosen in grouped(of_set, lambda run: (run.model, run.changed)):
            for picture, what in pictures(results_dir, dataset, model, chosen):
                caption = html.escape(one_line(f"{title_of(model)}{f', {changed}' if changed else ''}: {what}"))
                body.append(f'<figure><figcaption>{caption}</figcaption><img src="figures/'
                            f'{html.escape(picture.name, quote=True)}" alt="{caption}"></figure>')
        body += [table for _, _, table in tables]
    left_out = "".join(f"<li>{html.escape(one_line(f'{run.folder}: {run.reason}'))}</li>" for run in results.left_out)
    body += [f"<h1>Left out</h1><ul>{left_out}</ul>"] if left_out else []
    write_text(results_dir / "report.html", "\n".join([
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        "<title>Results: OOD detection and calibration</title>",
        '<meta name="viewport" content="width=device-width, initial-scale=1">', f"<style>{STYLE}</style></head><body>",
        "<h1>Results</h1><nav>", *contents, "</nav>", *body, "</body></html>\n"]))


def pictures(results_dir, dataset, model, runs):
    """Draw one network's figures: the first seed's logits (last epoch), every seed's log; of ensembles and of what is
    not there nothing. Yields (path, what it shows)."""
    histograms, reliability, curves = {}, {}, {}
    for method in in_order({run.method for run in runs if run.members == 1}):
        own, title = [run for run in runs if run.method == method], title_of(method)
        if logs := [([row["epoch"] for row in run.log], [row["selection_acc"] for row in run.log])
                    for run in own if run.log]:
            curves[title] = logs
        score = dismax_score(dataset, method, "far")
        scored = saved_scores(own[0].folder, dataset, score)
        if dataset not in scored or not (own[0].folder / "logits" / f"{dataset}.npz").exists():
            continue  # results/reference: neither scores nor logits are committed
        logits, labels = saved_logits(own[0].folder, dataset)
        inside = scored.pop(dataset)
        aurocs = {title_of(name): detection_metrics(inside, values)["auroc"] for name, values in scored.items()}
        histograms[title] = score, inside, {title_of(name): values for name, values in scored.items()}, aurocs
        reliability[title] = {"T = 1": (probabilities_of(logits), labels), "T cross-fitted": (
            probabilities_of(cross_fitted_logits(logits, labels)[0]), labels)}
    changed = "_changed" if runs[0].changed else ""
    for draw, methods, what in (
        (plots.score_histograms, histograms, "scores"), (plots.reliability_diagrams, reliability, "reliability"),
        (plots.training_curves, curves, "training"),
    ):
        path = results_dir / "figures" / f"{dataset}_{model}{changed}_{what}.png"
        if methods:
            draw(path, f"{title_of(dataset)}, {title_of(model)}", methods)
            yield path, what


def saved_scores(run, dataset, score):
    """set → (n) scores, of the in-distribution set and of its OOD sets, of the last epoch's checkpoint."""
    names = [dataset, *(name for group in OUTLIERS.get(dataset, {}).values() for name in group)]
    paths = {name: run / "scores" / score / f"{name}.npz" for name in names}
    return {name: np.load(path)["conf"] for name, path in paths.items() if path.exists()}


def saved_logits(run, dataset):
    """(n, C) float64 of the last epoch's checkpoint on the in-distribution set, and the labels (n)."""
    content = np.load(run / "logits" / f"{dataset}.npz")
    return content["logits"].mean(0).astype(np.float64), content["labels"]
