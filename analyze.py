"""Put all evaluated runs beside the papers' numbers.

  python analyze.py                                             every data set with runs
  python analyze.py --dataset cifar10                           one of them
  python analyze.py --results-dir results/epochs1               another folder of runs (a shortened try, say)
  python analyze.py --report                                    also figures/*.png, and report.html with everything

Prints, and writes to <results-dir>/tables/ as CSV, Markdown and LaTeX:
  dismax_<dataset>          the layout of DisMax's Table 2, the paper and ours under both protocols; the CSV is tidy
  dismax_<dataset>_scores   AUROC of every method under every score, honest protocol
  openood_<dataset>         the openood benchmark: the paper and ours, as published and with one score for all
  openood_<dataset>_scores  near and far AUROC of every method under every score
  runs                      one row a run: device, wall-clock, versions, accuracies (CSV only)
"""
import argparse
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd

import runs
from data.catalog import CATALOG, OUTLIERS
from files import UserError, write_text
from recipes import DATASETS, PUBLISHED, PUBLISHED_SEEDS, published_score
from reporting import openood_tables
from reporting.tables import publish
from reporting.verdicts import number, verdict

PAPERS = Path(__file__).resolve().parent / "results" / "papers"
METHODS = {"softmax": "SoftMax", "isomax": "IsoMax", "isomaxplus": "IsoMax+", "dismax": "DisMax",
           "dismax_fpr": "DisMax†"}
ENSEMBLES = {"de": "DE", "ncl": "NCL", "adp": "ADP", "dice": "DICE", "gradcam": "SDDE",
             "input_gradient": "input gradient", "oe": "OE", "gradcam_oe": "SDDE + OE"}
MODELS = {"densenetbc100": "DenseNetBC100", "resnet34": "ResNet34", "wideresnet2810": "WideResNet-28-10",
          "resnet18_32x32": "ResNet18", "resnet18": "ResNet18", "resnet50": "ResNet50", "lenet": "LeNet"}

# which weights, which ECE, and which ending of the detection metrics in metrics.csv
Protocol = namedtuple("Protocol", "weights ece ending")
PROTOCOLS = {
    "as published": Protocol("best", "ece_fitted_on_test", "_published"),
    "honest": Protocol("last", "ece_cross_fitted", ""),
}
LEGEND = """\
as published: the epoch with the best test accuracy; temperature fitted, and ECE measured, on the same test images;
  detection by the published code's rules (a tie counts against the in-distribution sample).
honest: the last epoch; temperature fitted on one stratified half of the test images and ECE measured on the other, and
  the other way round; a tie counts half.
Mean ± sample standard deviation over seeds. In AUPR the outliers are the positive class. DisMax is read with MPS for
  near outliers (ImageNet-O: MMLES) and MMLES for the others, see README; the table of scores has all. † with FPR.
Δ is ours minus the paper's: ok where |Δ| ≤ max(τ, 2·√(s²/n of the paper + s²/n of ours)), τ = 0.3 for ACC, 0.005 for
  ECE, 1.0 for near and 1.5 for other outliers; OFF where it is more."""

# one column of the table: where it stands in metrics.csv and in the paper's CSV, and how far off is still the same
Column = namedtuple("Column", "title set group metric scale digits paper tau")
PAPER_COLUMNS = {"cifar10": "near_aupr", "cifar100": "near_aupr", "tinyimagenet_resize": "tinyimagenet_auroc",
                 "lsun_resize": "lsun_auroc", "svhn": "svhn_aupr", "imagenet_o": "imagenet_o_auroc"}
TITLES = {"tinyimagenet_resize": "TinyImageNet-r", "lsun_resize": "LSUN-r", **{k: v.title for k, v in CATALOG.items()}}


def columns_of(dataset):
    yield Column("ACC (%)", dataset, "id", "accuracy", 100, 2, "acc", 0.3)
    yield Column("ECE", dataset, "id", "ece", 1, 4, "ece", 0.005)
    for group, names in OUTLIERS[dataset].items():
        metric = "auroc" if group == "far" or dataset == "imagenet1k" else "aupr_out"
        for name in names:
            title = f"{group.replace('_', ' ')}: {TITLES[name]} {metric.split('_')[0].upper()} (%)"
            yield Column(title, name, group, metric, 100, 2, PAPER_COLUMNS.get(name), 1.0 if group == "near" else 1.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    parser.add_argument("--dataset", choices=DATASETS)
    parser.add_argument("--report", action="store_true", help="also draw figures and write report.html")
    args = parser.parse_args()
    table, metrics = read_runs(args.results_dir, args.dataset or "*")
    tables, pages = args.results_dir / "tables", []
    write_text(tables / "runs.csv", table.to_csv(index=False))
    for dataset in (name for name in DATASETS if name in set(table.dataset)):
        ours, title = metrics[metrics.dataset == dataset], CATALOG[dataset].title
        page = ""
        if set(METHODS) & set(ours.loss):
            single = table[(table.dataset == dataset) & table.loss.isin(list(METHODS))]
            page += dismax_tables(tables, dataset, title, ours, single)
        if set(ours.loss) - set(METHODS):
            page += ensemble_tables(tables, dataset, title, ours)
        pages.append((dataset, page))
    print(f"Written to {tables}/")
    if args.report:
        from reporting.page import write_report  # here, because it brings torch and matplotlib

        write_report(args.results_dir, pages, table, METHODS, TITLES)
        print(f"Written to {args.results_dir}/report.html")


def dismax_tables(tables, dataset, title, ours, table):
    name, tidy = f"dismax_{dataset}", compare(dataset, ours)
    write_text(tables / f"{name}.csv", tidy.to_csv(index=False))
    page = publish(tables / name, title, sections(dataset, tidy, table), LEGEND)
    tidy = scores(ours)
    write_text(tables / f"{name}_scores.csv", tidy.to_csv(index=False))
    return page + publish(tables / f"{name}_scores", f"{title}: AUROC (%) under every score", score_sections(tidy),
                          "honest protocol: last epoch; a tie counts half.", show=False)


def ensemble_tables(tables, dataset, title, ours):
    name, names = f"openood_{dataset}", {**ENSEMBLES, **METHODS}
    papers = pd.read_csv(PAPERS / "sdde_ood.csv")
    beside = ours[~ours.loss.isin(list(METHODS)) | (ours.loss == "softmax")]  # single networks have tables of their own
    tidy = openood_tables.compare(dataset, beside, papers, names)
    write_text(tables / f"{name}.csv", tidy.to_csv(index=False))
    parts = openood_tables.sections(tidy, beside, MODELS)
    page = publish(tables / name, f"{title}, openood", parts, openood_tables.LEGEND)
    tidy = openood_tables.scores(ours)
    write_text(tables / f"{name}_scores.csv", tidy.to_csv(index=False))
    return page + publish(
        tables / f"{name}_scores", f"{title}, openood: AUROC (%) under every score",
        openood_tables.score_sections(tidy, dataset, names, MODELS), openood_tables.LEGEND, show=False)


def read_runs(results_dir, dataset):
    """(a row a run, a row a metric of a run) of every evaluated run."""
    rows, frames = [], []
    for run in runs.find(results_dir, dataset):
        config = runs.read_config(run)
        changed = ", ".join(f"{field} {c['used']} (published {c['published']})"
                            for field, c in config["overrides"].items())
        session = config["sessions"][-1]
        rows.append({
            **config["run"], "folder": run, "changed": changed, "epochs": config["recipe"]["epochs"],
            **{key: config[key] for key in (
                "parameters", "last_accuracy", "best_accuracy", "best_epoch", "wall_clock_seconds")},
            **{key: session[key] for key in ("device", "torch", "commit")},
        })
        frame = pd.read_csv(run / "metrics.csv", keep_default_na=False)
        frames.append(frame.assign(**config["run"], changed=changed, note=frame.get("note", "")))
    if not rows:
        where = results_dir if dataset == "*" else results_dir / dataset
        raise UserError(f"no evaluated run below {where}. "
                        "`make demo` makes some in a minute, `make reproduce-cifar10` the paper's")
    metrics = pd.concat(frames, ignore_index=True)
    return pd.DataFrame(rows), metrics.assign(note=metrics.note.fillna(""))


# ---- ours beside the paper's ----


def compare(dataset, metrics):
    """Tidy: a row a model × method × protocol × column, with the paper's value, ours, and what to think of it."""
    metrics = metrics[(metrics.benchmark == "dismax") & metrics.loss.isin(list(METHODS))]
    papers = pd.concat([pd.read_csv(path) for path in sorted(PAPERS.glob("dismax_*.csv"))]).fillna({"loss": ""})
    papers = papers[papers.dataset == dataset]
    rows = []
    for model in (m for m in MODELS if m in set(metrics.model)):
        mine, theirs = metrics[metrics.model == model], papers[papers.model == model]
        for loss, method, paper in methods_of(theirs):
            ours = mine[mine.loss == loss]
            if paper is None and ours.empty:
                continue
            for changed in sorted(set(mine.changed)) if loss else [""]:  # "": the recipe as it stands
                for column in columns_of(dataset):
                    for protocol in PROTOCOLS:
                        values = seed_values(ours[ours.changed == changed], dataset, loss, column, protocol)
                        rows.append({
                            "dataset": dataset, "model": model, "loss": loss, "method": method, "changed": changed,
                            "protocol": protocol, "column": column.title,
                            **verdict(column, paper, PUBLISHED_SEEDS.get(dataset), values, comparable=not changed)})
    return pd.DataFrame(rows)


def methods_of(theirs):
    """(loss, name, the paper's row or None): ours in our order, then those that the paper only quotes, loss ""."""
    by_loss = {row.loss: row for row in theirs.itertuples() if row.loss}
    for loss, name in METHODS.items():
        yield loss, by_loss[loss].method if loss in by_loss else name, by_loss.get(loss)
    for row in theirs.itertuples():
        if not row.loss:
            yield "", row.method, row


def seed_values(ours, dataset, loss, column, protocol):
    """Our values of one cell, one a seed, in the table's unit."""
    weights, ece, ending = PROTOCOLS[protocol]
    metric = {"accuracy": "accuracy", "ece": ece}.get(column.metric, column.metric + ending)
    score = published_score(dataset, loss, column.group) if loss and column.group != "id" else ""
    chosen = (ours.set == column.set) & (ours.weights == weights) & (ours.metric == metric) & (ours.score == score)
    return ours[chosen].value.to_numpy(float) * column.scale


def sections(dataset, tidy, table):
    """(network, headers, rows, note) in the layout of Table 2."""
    columns = list(columns_of(dataset))
    for model, part in tidy.groupby("model", sort=False):
        of_paper = PUBLISHED_SEEDS[dataset] if model in PUBLISHED.get(dataset, ()) else None
        rows = []
        for method, cells in part.groupby("method", sort=False):
            for k, (label, texts) in enumerate(lines_of(cells, columns, of_paper)):
                rows.append(["" if k else method, label, *texts])  # a method is named in its first row only
        done = table[table.model == model]
        note = f"{len(done)} runs on {', '.join(sorted(set(done.device)))}"
        if done.wall_clock_seconds.notna().any():
            note += f"; training took {done.wall_clock_seconds.median():.0f} s a run (median)"
        note += "."
        yield MODELS[model], ["method", "", *(c.title for c in columns)], rows, note


def lines_of(cells, columns, of_paper):
    """One method's lines, (label, texts): the paper's, then ours under each protocol, with Δ where it can be judged."""
    by = {(c.changed, c.protocol, c.column): c for c in cells.itertuples()}
    paper = [by[cells.changed.iloc[0], "honest", column.title] for column in columns]
    if any(np.isfinite(c.paper) for c in paper):
        yield "paper", [number(c.paper, c.paper_std, 1 if column.scale == 100 else 4)
                        for c, column in zip(paper, columns)]
    if not cells.loss.iloc[0]:
        return  # only quoted
    for changed in dict.fromkeys(cells.changed):
        for protocol in PROTOCOLS:
            ours = [by[changed, protocol, column.title] for column in columns]
            seeds = max(c.ours_n for c in ours)
            label = f"ours, {protocol}"
            if seeds:
                label += f", n = {seeds}" + (f"/{of_paper}" if of_paper else "")
            if changed:
                label += f", {'SHORTENED' if 'epochs' in changed else 'CHANGED'}: {changed}"
            yield label, [our_number(c, column, seeds) for c, column in zip(ours, columns)]
            if any(c.verdict for c in ours):
                yield "Δ to the paper", [f"{c.delta:+.{column.digits}f} {c.verdict}" if c.verdict else ""
                                         for c, column in zip(ours, columns)]


def our_number(cell, column, seeds):
    if not cell.ours_n:
        return "missing"
    return number(cell.ours, cell.ours_std, column.digits) + (f" (n = {cell.ours_n})" if cell.ours_n != seeds else "")


# ---- every method under every score ----


def scores(metrics):
    """Tidy: AUROC of every score on every outlier set, mean, std and n over seeds; last epoch."""
    chosen = metrics[(metrics.benchmark == "dismax") & (metrics.metric == "auroc") & (metrics.weights == "last")
                     & metrics.loss.isin(list(METHODS))]
    by = chosen.groupby(["model", "changed", "set", "loss", "score"], sort=False).value
    return (100 * by.agg(["mean", "std"])).assign(n=by.size()).reset_index()


def score_sections(tidy):
    for (model, changed), part in tidy.groupby(["model", "changed"], sort=False):
        names = list(dict.fromkeys(part.score))
        rows = []
        for (outliers, loss), cells in part.groupby(["set", "loss"], sort=False):
            by = cells.set_index("score")
            rows.append([TITLES[outliers], METHODS[loss], *(number(by["mean"][s], by["std"][s], 2) for s in names)])
        yield MODELS[model], ["outliers", "method", *names], rows, f"CHANGED RECIPE: {changed}" if changed else ""


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"analyze.py: {error}")
