"""Search the weight of a diversity loss, like SDDE's *_hopt.sh: train once with each weight, rank by near-OOD AUROC.

  python run_scripts/search_weight.py gradcam mnist                          ranked by the AUROC of validation outliers
  python run_scripts/search_weight.py gradcam mnist --select published       ranked by the near test sets, as published
  python run_scripts/search_weight.py gradcam digits --select published --epochs 2 --weights 0 0.1

As published, ADP is searched with alpha 0.2 and beta 0.1, and DICE with each of four learning rates of its
discriminator. SDDE draws DICE's pairs of weight and learning rate at random; this script tries each pair once.

A search trains one run per weight (DICE: 28 runs). Runs go to results/search/<trial>/…, and the ranking goes to
results/search/<dataset>_<method>.csv. A search can be stopped and continued; finished runs are not repeated.
"""
import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import pandas as pd
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: make our packages importable

from data.openood import VALIDATION_OOD, benchmark
from recipes import BLOCKS, DIVERSITIES, sdde_score
from utils import run_dir
from utils.io import UserError, write_text
from utils.plugins import add_plugin_argument, load_plugins
from utils.recipe import flag
from utils.script import run_script

ROOT = Path(__file__).resolve().parents[1]


def main():
    load_plugins()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=list(DIVERSITIES), help="the diversity loss")
    parser.add_argument("dataset", choices=["digits", *dict.fromkeys(b.dataset for b in BLOCKS if b.paper == "sdde")],
                        help="the data set")
    parser.add_argument("--select", choices=("validation", "published"), default="validation", help="rank by the AUROC "
                        "of validation outliers (default), or of the near test sets as published")
    parser.add_argument("--weights", type=float, nargs="+", help="weights to try (default: the published grid)")
    parser.add_argument("--seed", default="1", help="seed of each run (default: 1)")
    parser.add_argument("--epochs", help="epochs of each run, for a shortened search")
    parser.add_argument("--data-dir", default="data", help="folder of the prepared data sets (default: data)")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="folder of runs (default: results)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the accelerator if there is one)")
    add_plugin_argument(parser)
    args = parser.parse_args()
    args.data_dir, args.results_dir = Path(args.data_dir).resolve(), args.results_dir.resolve()  # `do` is in ROOT
    common = ["--data-dir", args.data_dir, *(["--device", args.device] if args.device else []),
              *(word for path in args.plugin for word in ("--plugin", path.resolve()))]
    model = next((b.networks[0] for b in BLOCKS if b.paper == "sdde" and b.dataset == args.dataset), "lenet")
    check_rankable(args.dataset, args.data_dir, args.select)
    found = []
    for trial in trials(args.method, args.weights):
        folder = args.results_dir / "search" / folder_name(trial)
        run = run_dir.run_folder(folder, args.dataset, model, args.method, args.seed)
        do("train.py", "--dataset", args.dataset, "--model", model, "--method", args.method, "--seed", args.seed,
           *(word for name, value in trial.items() for word in (flag(name), value)), "--results-dir", folder, *common,
           *(["--epochs", args.epochs] if args.epochs else []))
        do("evaluate.py", run, "--if-changed", *common)
        weight = {"weight": trial.pop("diversity_weight")}
        found.append({**weight, **trial, **aurocs_of(run, args.method, args.dataset)})
    table = pd.DataFrame(found).sort_values(args.select, ascending=False, ignore_index=True)
    write_text(args.results_dir / "search" / f"{args.dataset}_{args.method}.csv", table.to_csv(index=False))
    formats = [".2f" if name in ("validation", "published") else "g" for name in table]
    print(f"\n{args.method} on {args.dataset}, AUROC (%) by {sdde_score(args.dataset, args.method)}, best first by "
          f"{args.select}\n\n{tabulate(table, headers='keys', showindex=False, floatfmt=formats)}")


def check_rankable(dataset, data_dir, select):
    """UserError, before anything is trained, if the images that trials are ranked by are missing."""
    images = benchmark(dataset, data_dir)
    if select == "published" and not images.groups.get("near"):
        raise UserError(f"no near OOD set of {dataset} is prepared: "
                        f"python data/prepare.py {' '.join(images.missing.get('near', ()))}")
    if select == "validation" and images.validation_outliers is None:
        name = VALIDATION_OOD.get(dataset)
        raise UserError(f"{dataset} has no validation outliers. " + (
            f"Prepare them with python data/prepare.py {name}, or use" if name else "Use") + " --select published")


def trials(method, weights=None):
    """[{recipe field: value}] of a search: each weight, by default of the published grid, with each combination of the
    other settings that the published search gives the method."""
    axes = {"diversity_weight": weights or DIVERSITIES[method].grid, **DIVERSITIES[method].search}
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def folder_name(trial):
    """The weight and the other settings of the trial: 0.2, or 0.2_discriminator_lr_1e-05."""
    weight, *others = trial.items()
    return "_".join([f"{weight[1]:g}", *(f"{name}_{value:g}" for name, value in others)])


def do(*words):
    """Run one of our scripts; exit with its status if it fails."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def aurocs_of(run, method, dataset):
    """AUROC in per cent with the method's own score: of the validation outliers, and the mean over the near sets."""
    metrics = pd.DataFrame(run_dir.read_metrics(run), columns=run_dir.METRIC_COLUMNS)
    chosen = metrics[(metrics.benchmark == "openood") & (metrics.checkpoint == "best") & (metrics.metric == "auroc")
                     & (metrics.score == sdde_score(dataset, method))]
    return {name: 100 * chosen[chosen.ood_group == group].value.mean()
            for name, group in (("validation", "validation"), ("published", "near"))}


if __name__ == "__main__":
    run_script("search_weight.py", main)
