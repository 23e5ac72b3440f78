"""Compare all evaluated runs with the papers' numbers.

  python analyze.py                                             every data set with runs
  python analyze.py --dataset cifar10                           one data set
  python analyze.py --results-dir results/epochs1               another folder of runs, for instance shortened ones
  python analyze.py --report                                    also figures/*.png, and report.html with everything
  python analyze.py --saliency                                  the report with saliency maps of ensembles, computed
                                                                from their weights and the images
  python analyze.py --corrupted                                 only calibration under corruption
  python analyze.py --scores ash=DIR                            with a row for scores that were computed elsewhere
  python analyze.py --check                                     only compare complete published rows with their
                                                                tolerances; fails, and names the cells, if one is off

The command writes these tables to <results-dir>/tables/ as CSV (tidy), Markdown and LaTeX, and prints those with *:
  dismax_<dataset> *               DisMax's Table 2: the paper's rows, and ours under both protocols
  dismax_<dataset>_scores          AUROC of every method under every score, held-out protocol
  dismax_<dataset>_paired          each method minus SoftMax on the same seed, and what of the gain is due to the score
  openood_<dataset> *              the openood benchmark: the paper and ours, as published and with a common score
  openood_<dataset>_scores         near and far AUROC of every method under every score
  openood_<dataset>_sets           every method on each OOD set
  openood_<dataset>_paired *       each method minus DE on the same seed, and the part of the gain due to the score
                                   (printed if the paper has the data set); …_paired_scores: with one score for both
  openood_<dataset>_epochs         training of the ensembles: the selected epoch, its effect, and losses from the logs
  corrupted_<dataset> *            calibration under corruption
  runs                             one row per run: device, seconds, versions, accuracies (CSV only)
Runs with damaged, incomplete or contradictory files are left out and named.
"""
import utils.threads  # noqa: F401, I001  Ctrl-C while the rest is imported

import argparse
import gc
import re
import sys
from pathlib import Path

from recipes import DATASETS
from reporting import corrupted, dismax, epoch_selection, ood_sets, openood, paired_gains, softmax_gains
from reporting.check import check
from reporting.comparison import compare, score_sections, score_rows, sections, tidy
from reporting.load import read_runs
from reporting.names import title_of
from reporting.tables import Table, as_csv, one_line, printable, publish
from utils.io import UserError, write_text
from utils.plugins import add_plugin_argument, load_plugins
from utils.script import named_folder, run_script


def main():
    load_plugins()  # the titles of its methods and networks
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="folder of runs (default: results)")
    parser.add_argument("--dataset", help=f"{', '.join(DATASETS)}, or a set of your own (default: all with runs)")
    parser.add_argument("--report", action="store_true", help="also draw figures and write report.html")
    parser.add_argument("--saliency", action="store_true", help="like --report, with saliency maps of the first seed "
                        "of each ensemble, computed from its weights and the images in --data-dir")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="data sets for --saliency (default: data)")
    parser.add_argument("--corrupted", action="store_true", help="only the tables of calibration under corruption")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a cell of a complete published "
                        "row is outside its tolerance")
    parser.add_argument("--scores", nargs="+", action="extend", default=[], type=named_folder, metavar="NAME=DIR",
                        help="folders of <set>.npz files with pred, conf and label, for instance from OpenOOD, as rows "
                        "of the tables. NAME is a method or network/method; the same NAME again is another seed")
    add_plugin_argument(parser)
    args = parser.parse_args()
    if args.dataset and not re.fullmatch(r"[\w-]+", args.dataset):
        raise UserError(f"--dataset {args.dataset} cannot be the name of a data set")
    gc.disable()  # half a million rows have no reference cycles, and the search for cycles takes a third of the time
    results = read_runs(args.results_dir, args.dataset or "*", needed=not args.scores)
    for k, (name, folder) in enumerate(args.scores):
        from reporting.score_files import add_scores, read_scores  # here, because it imports much of SciPy

        seed = 1 + sum(other == name for other, _ in args.scores[:k])
        add_scores(results.runs, read_scores(name, folder, seed, args.dataset))
    if args.check:
        lines, outside = check(results.runs, args.dataset)
        print(printable("\n".join([*lines, *left_out_lines(results)])))
        sys.exit(outside > 0)
    pages = list(write_tables(args.results_dir / "tables", results, args.corrupted))
    print(printable("\n".join([*left_out_lines(results), f"Written to {args.results_dir / 'tables'}/"])))
    if args.saliency:
        print("\n".join(compute_saliency(results.runs, args.data_dir)))
    if args.report or args.saliency:
        from reporting.html import write_report  # here, because it imports matplotlib

        write_report(args.results_dir, pages, results)
        print(f"Written to {args.results_dir}/report.html")


def compute_saliency(runs, data_dir):
    """Bring saliency.npz of the first seed of each ensemble up to date. Yields a line for each run."""
    from engine.saliency import write_saliency

    first = {}
    for run in sorted((run for run in runs if run.members > 1), key=lambda run: run.seed):
        first.setdefault((run.id_dataset, run.model, run.method, run.changed), run)
    for run in first.values():
        try:
            made = write_saliency(run.folder, data_dir)
        except UserError as error:
            yield one_line(f"No saliency maps of {run.folder}: {error}")
        else:
            yield f"Saliency maps of {run.folder}: {'made' if made else 'there already'}"


def left_out_lines(results):
    return [one_line(f"Left out: {run.folder}: {run.reason}") for run in results.left_out]


def write_tables(folder, results, only_corrupted=False):
    """Write and print the tables. Yields (data set, [(title, name and HTML of a table)])."""
    there = {run.id_dataset for run in results.runs}
    datasets = [*(name for name in DATASETS if name in there), *sorted(there - set(DATASETS))]
    if not only_corrupted:
        write_text(folder / "runs.csv", as_csv([run_row(run) for run in results.runs]))
    for dataset in datasets:
        tables = [*corrupted_tables(dataset, results.runs)]
        if not only_corrupted:
            tables = [*dismax_tables(dataset, results), *openood_tables(dataset, results), *tables]
        yield dataset, [(table.title, table.name, publish(table, folder)) for table in tables]
    if only_corrupted and not any(corrupted.rows_of(dataset, results.runs) for dataset in datasets):
        raise UserError("no run was evaluated on corrupted images. Prepare them and evaluate again: python "
                        "data/prepare.py cifar10_c (or python data/sources/corruptions.py cifar10)")


def run_row(run):
    session = run.config["sessions"][-1]
    return {
        "id_dataset": run.id_dataset, "model": run.model, "method": run.method, "seed": run.seed,
        "folder": run.folder, "changed": run.changed, "epochs": run.epochs,
        **{key: run.config.get(key) for key in ("parameters", "selection_split", "last_accuracy", "best_accuracy",
                                                "best_epoch", "train_seconds", "wall_clock_seconds")},
        **{key: session.get(key) for key in ("device", "torch", "commit")}}


def comparison_tables(benchmark, dataset, results, name, title):
    """A benchmark's comparison with the paper, and every method under every score."""
    if lines := compare(benchmark, dataset, results.runs):
        yield Table(name, title, list(sections(benchmark, dataset, lines, results)), benchmark.legend,
                    tidy(dataset, lines))
        rows = score_rows(benchmark, dataset, results.runs)
        yield Table(f"{name}_scores", f"{title}: AUROC (%) under every score",
                    list(score_sections(benchmark, dataset, rows)), benchmark.scores_legend, rows, shown=False)


def dismax_tables(dataset, results):
    """The DisMax benchmark's, of a data set with single networks."""
    title, name = f"{title_of(dataset)}, dismax", f"dismax_{dataset}"
    yield from comparison_tables(dismax.BENCHMARK, dataset, results, name, title)
    if rows := softmax_gains.rows_of(dataset, results.runs):
        yield Table(f"{name}_paired", f"{title}: method minus SoftMax, seed by seed",
                    list(softmax_gains.sections(rows)), softmax_gains.LEGEND, rows, shown=False)


def openood_tables(dataset, results):
    """The openood benchmark's: every single OOD set; and the comparison, of a data set with ensembles."""
    title, name = f"{title_of(dataset)}, openood", f"openood_{dataset}"
    runs = [run for run in results.runs if run.id_dataset == dataset]
    if any(run.members > 1 or run.from_files for run in runs):
        yield from comparison_tables(openood.BENCHMARK, dataset, results, name, title)
    if rows := ood_sets.rows_of(dataset, runs):
        yield Table(f"{name}_sets", f"{title}: every OOD set", list(ood_sets.sections(rows)), ood_sets.LEGEND, rows,
                    shown=False)
    if rows := paired_gains.rows_of(dataset, runs):
        of_paper = any(row["paper"] == row["paper"] for row in rows)
        yield Table(f"{name}_paired", f"{title}: method minus DE, seed by seed",
                    list(paired_gains.sections(dataset, rows, runs)), paired_gains.LEGEND, rows, shown=of_paper)
        yield Table(f"{name}_paired_scores", f"{title}: method minus DE, one score for both",
                    list(paired_gains.score_sections(rows)), paired_gains.LEGEND, rows, shown=False)
    if any(run.members > 1 for run in runs) and (rows := epoch_selection.rows_of(dataset, runs)):
        yield Table(f"{name}_epochs", f"{title}: training and the selected epoch", list(epoch_selection.sections(rows)),
                    epoch_selection.LEGEND, rows, shown=False)


def corrupted_tables(dataset, runs):
    if rows := corrupted.rows_of(dataset, runs):
        yield Table(f"corrupted_{dataset}", f"{title_of(dataset)}: calibration under corruption",
                    list(corrupted.sections(rows)), corrupted.LEGEND, rows)


if __name__ == "__main__":
    run_script("analyze.py", main)
