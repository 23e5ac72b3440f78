"""The `dismax` benchmark: DisMax's Table 2, single networks under the paper's protocol and a held-out one."""
from data.datasets import OUTLIERS
from recipes import dismax_score
from reporting import papers
from reporting.comparison import Benchmark, Column, Protocol
from reporting.names import is_dismax_method, title_of

LEGEND = """\
as published: the epoch with the best test accuracy. The release's local search fits the temperature on the test images,
  and the ECE is measured on the same images. A run whose search ends at a bound is dropped. In detection, a tie counts
  against the in-distribution sample. Rows that no paper has are marked "release's protocol".
least ECE: the smallest ECE of all temperatures on the test images. The release's search does not always find it.
held-out protocol: the last epoch. The temperature is fitted by NLL on one stratified half of the test images, and the
  ECE is measured on the other half; then the halves are exchanged. A tie counts half.
Values are mean ± sample standard deviation over seeds. In AUPR the OOD images are the positive class. DisMax is scored
  with MPS for near OOD sets (ImageNet-O: MMLES) and with MMLES for the others; the table of scores has all scores. † is
  with fractional probability regularization (FPR).
Δ is our mean minus the paper's. ok: |Δ| ≤ max(τ, 2·√(s²/n of the paper + s²/n of ours)), with τ = 0.3 for ACC, 1.0 for
  near and 1.5 for other OOD sets. outside tolerance: |Δ| is larger. ?: the images are not the paper's, not verified or
  not complete, so there is no verdict. For ECE, τ is a quarter of the paper's value, and the whole tolerance is below
  half of it.
train (s): median training time of a seed, without selection and evaluation. × SoftMax: median ratio to SoftMax on the
  same seed and device."""
SCORES_LEGEND = """\
AUROC (%) of the last epoch, mean ± sample standard deviation over seeds. A tie counts half.
*: the score that DisMax's release uses for this method and this group of OOD sets."""
PAPER_COLUMNS = {"cifar10": "near_aupr", "cifar100": "near_aupr", "tinyimagenet_resize": "tinyimagenet_auroc",
                 "lsun_resize": "lsun_auroc", "svhn": "svhn_aupr", "imagenet_o": "imagenet_o_auroc"}


def columns(dataset, runs):
    """The columns of Table 2, and the user's own OOD sets (evaluate.py --ood)."""
    groups = {**OUTLIERS.get(dataset, {}), **ood_sets(runs, "dismax", ("ood",) if dataset in OUTLIERS else GROUPS)}
    found = [Column("ACC (%)", "id", (dataset,), "accuracy", paper="acc", tau=0.3),
             Column("ECE", "id", (dataset,), "ece", 1, 4, "ece", 4, tau=0.25, relative=True),
             Column("least ECE", "id", (dataset,), "least_ece", 1, 4)]
    for group, names in groups.items():
        metric = "auroc" if group in ("far", "ood") or dataset == "imagenet1k" else "aupr_out"
        for name in names:
            title = f"{group.replace('_', ' ')}: {title_of(name)} {metric.split('_')[0].upper()} (%)"
            found.append(Column(title, group, (name,), metric, paper=PAPER_COLUMNS.get(name, ""),
                                tau=1.0 if group == "near" else 1.5))
    return found


GROUPS = ("near", "far", "very_far", "ood")


def ood_sets(runs, benchmark, of_groups=GROUPS):
    """ood_group → sets, of what some runs were tested on."""
    groups = {}
    for run in runs:
        for group, name in run.cells(benchmark, "last", "images"):
            if group in of_groups and name not in groups.setdefault(group, []):
                groups[group].append(name)
    return groups


def _published_metric(metric):
    return {"accuracy": "accuracy", "ece": "ece_as_published", "least_ece": "ece_fitted_on_test"}.get(
        metric, f"{metric}_published")


def _held_out_metric(metric):
    return {"ece": "ece_cross_fitted", "least_ece": None}.get(metric, metric)


def is_single(run):
    return run.members == 1


HELD_OUT = Protocol("held-out protocol", "last", dismax_score, _held_out_metric, published=False)
BENCHMARK = Benchmark(
    name="dismax", columns=columns, papers=papers.dismax, baseline="softmax",
    protocols=(Protocol("as published", "best", dismax_score, _published_metric, published=True), HELD_OUT),
    includes=is_single, scores_include=is_single, all_scores=HELD_OUT,
    own_score=lambda dataset, method, group: dismax_score(dataset, method, group) if is_dismax_method(method) else None,
    legend=LEGEND, scores_legend=SCORES_LEGEND)
