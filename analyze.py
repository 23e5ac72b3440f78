"""Put all evaluated runs beside the papers' numbers.

  python analyze.py                                             every data set with runs
  python analyze.py --dataset cifar10                           one of them
  python analyze.py --results-dir results/epochs1               another folder of runs (a shortened try, say)
  python analyze.py --report                                    also figures/*.png, and report.html with everything
  python analyze.py --check                                     only say whether complete published rows are within
                                                                their tolerances; fails, naming the cells, if not

Prints, and writes to <results-dir>/tables/ as CSV, Markdown and LaTeX:
  dismax_<dataset>          the layout of DisMax's Table 2, the paper and ours under both protocols; the CSV is tidy
  dismax_<dataset>_scores   AUROC of every method under every score, honest protocol
  openood_<dataset>         the openood benchmark: the paper and ours, as published and with one score for all
  openood_<dataset>_scores  near and far AUROC of every method under every score
  openood_<dataset>_paired  each method minus DE on the same seed, and which part of the gain is the score that it is
                            read by; …_paired_scores: the same with one score for both, every score
  openood_<dataset>_course  how the ensembles' training went: the chosen epoch, its worth, and what the logs say
  runs                      one row a run: device, wall-clock, versions, accuracies (CSV only)
"""
import argparse
import sys
from pathlib import Path

from data.datasets import CATALOG
from recipes import DATASETS
from reporting import course, dismax_tables, openood_tables, paired
from reporting.check import check
from reporting.names import METHODS, TITLES
from reporting.reading import read_runs
from reporting.tables import publish
from utils.io import UserError, write_text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    parser.add_argument("--dataset", choices=DATASETS)
    parser.add_argument("--report", action="store_true", help="also draw figures and write report.html")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a complete published row is off")
    args = parser.parse_args()
    table, metrics = read_runs(args.results_dir, args.dataset or "*")
    if args.check:
        lines, outside = check(metrics, args.dataset)
        print("\n".join(lines))
        sys.exit(outside > 0)
    tables, pages = args.results_dir / "tables", []
    write_text(tables / "runs.csv", table.to_csv(index=False))
    for dataset in (name for name in DATASETS if name in set(table.dataset)):
        ours, of_set, page = metrics[metrics.dataset == dataset], table[table.dataset == dataset], ""
        if set(METHODS) & set(ours.loss):
            page += dismax(tables, dataset, ours, of_set)
        if set(ours.loss) - set(METHODS):
            page += openood(tables, dataset, ours, of_set)
        pages.append((dataset, page))
    print(f"Written to {tables}/")
    if args.report:
        from reporting.page import write_report  # here, because it brings torch and matplotlib

        write_report(args.results_dir, pages, table, METHODS, TITLES)
        print(f"Written to {args.results_dir}/report.html")


def dismax(tables, dataset, ours, table):
    """The DisMax benchmark's tables of one data set, written and as HTML."""
    name, title = tables / f"dismax_{dataset}", CATALOG[dataset].title
    tidy = dismax_tables.compare(dataset, ours)
    write_text(name.with_suffix(".csv"), tidy.to_csv(index=False))
    page = publish(name, title, dismax_tables.sections(dataset, tidy, table), dismax_tables.LEGEND)
    name, tidy = tables / f"dismax_{dataset}_scores", dismax_tables.scores(ours)
    write_text(name.with_suffix(".csv"), tidy.to_csv(index=False))
    return page + publish(name, f"{title}: AUROC (%) under every score", dismax_tables.score_sections(tidy),
                          "honest protocol: last epoch; a tie counts half.", show=False)


def openood(tables, dataset, ours, table):
    """The openood benchmark's tables of one data set, written and as HTML."""
    name, title = tables / f"openood_{dataset}", f"{CATALOG[dataset].title}, openood"
    tidy = openood_tables.compare(dataset, ours)
    write_text(name.with_suffix(".csv"), tidy.to_csv(index=False))
    page = publish(name, title, openood_tables.sections(dataset, tidy, ours, table), openood_tables.LEGEND)
    name, tidy = tables / f"openood_{dataset}_scores", openood_tables.scores(ours)
    write_text(name.with_suffix(".csv"), tidy.to_csv(index=False))
    page += publish(name, f"{title}: AUROC (%) under every score",
                    openood_tables.score_sections(tidy, dataset), openood_tables.LEGEND, show=False)
    name, tidy = tables / f"openood_{dataset}_paired", paired.compare(dataset, ours)
    if len(tidy):  # a seed of DE and another method
        write_text(name.with_suffix(".csv"), tidy.to_csv(index=False))
        page += publish(name, f"{title}: method minus DE, seed by seed", paired.sections(dataset, tidy, ours),
                        paired.LEGEND, show=tidy.paper.notna().any())
        page += publish(tables / f"{name.name}_scores", f"{title}: method minus DE, one score for both",
                        paired.score_sections(tidy), paired.LEGEND, show=False)
    name, tidy = tables / f"openood_{dataset}_course", course.course(ours, table)
    if len(tidy):
        write_text(name.with_suffix(".csv"), tidy.to_csv(index=False))
        page += publish(name, f"{title}: how training went", course.sections(tidy), course.LEGEND, show=False)
    return page


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"analyze.py: {error}")
