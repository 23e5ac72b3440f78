"""The `openood` benchmark: SDDE's table, each method with its script's score, and all with a common score."""
from data.datasets import OPENOOD, OUTLIERS
from reporting import papers
from reporting.comparison import Benchmark, Column, Protocol
from reporting.dismax import GROUPS, ood_sets
from reporting.names import sdde_script_score

COMMON_SCORE = "logit-average"
LEGEND = """\
Images, splits and metrics are those of OpenOOD v1.5. The temperature is fitted on validation images, and the epoch is
  the best one on them (for single networks and for digits: on test images). near and far are unweighted means over the
  sets of a group.
as published: each method has the score of its released script, and ECE omits confidences of exactly 1. Rows that no
  paper has are marked "release's protocol".
common score: every method is scored with logit-average, and ECE counts every sample.
Values are mean ± sample standard deviation over seeds. In AUROC and FPR95 the OOD images are the positive class. FPR95
  is the share of in-distribution images that are rejected when 95 % of the OOD images are rejected. NLL is in nats, and
  the Brier score goes from 0 to 2.
Δ is our mean minus the paper's. ok: |Δ| ≤ max(τ, 2·√(s²/n of the paper + s²/n of ours)), with τ = 1.0 for near and 1.5
  for far. outside tolerance: |Δ| is larger. ?: a set is missing, has other images than OpenOOD's or unverified images,
  so there is no verdict.
train (s): median training time of a seed, without selection and evaluation. × DE: median ratio to DE's time on the same
  seed and device."""
SCORES_LEGEND = """\
AUROC (%), mean over the sets of a group, of the best epoch on validation images (for single networks and for digits: on
  test images). Values are mean ± sample standard deviation over seeds. A tie counts half.
*: the score of the method's released script."""


def columns(dataset, runs):
    known = OPENOOD.get(dataset) or OUTLIERS.get(dataset, {})
    groups = {**known, **ood_sets(runs, "openood", ("ood",) if known else GROUPS)}
    found = [Column("ACC (%)", "id", (dataset,), "accuracy"), Column("ECE", "id", (dataset,), "ece", 1, 4),
             Column("NLL", "id", (dataset,), "nll", 1, 4), Column("Brier", "id", (dataset,), "brier", 1, 4)]
    for metric, tau in (("auroc", {"near": 1.0, "far": 1.5}), ("fpr95", {})):
        for group, names in groups.items():
            title = f"{'own sets' if group == 'ood' else group.replace('_', ' ')} {metric.upper()} (%)"
            found.append(Column(title, group, tuple(names), metric, paper=f"{group}_{metric}" if tau else "",
                                paper_digits=2, tau=tau.get(group, 0.0)))
    return found


def includes(run):
    """Ensembles, SoftMax beside them, and scores from files. The other single networks have the dismax tables; those of
    scores and of sets have all."""
    return run.members > 1 or run.method == "softmax" or run.from_files


def _published_metric(metric):
    return f"{metric}_published" if metric in ("ece", "nll") else metric


COMMON_PROTOCOL = Protocol("common score", "best", lambda dataset, method, group: COMMON_SCORE, lambda metric: metric,
                           published=False)
BENCHMARK = Benchmark(
    name="openood", columns=columns, papers=papers.sdde, includes=includes, baseline="de",
    protocols=(Protocol("as published", "best", lambda dataset, method, group: sdde_script_score(dataset, method),
                        _published_metric, published=True), COMMON_PROTOCOL),
    all_scores=COMMON_PROTOCOL,
    own_score=lambda dataset, method, group: None if method.endswith("_stable") else sdde_script_score(dataset, method),
    legend=LEGEND, scores_legend=SCORES_LEGEND)
