"""The `openood` benchmark: SDDE's table, each method with its script's score and all with a common one."""
from data.datasets import OPENOOD, OUTLIERS
from reporting import papers
from reporting.comparison import Benchmark, Column, Protocol
from reporting.dismax import GROUPS, ood_sets
from reporting.names import sdde_score

COMMON_SCORE = "logit-average"
LEGEND = """\
Images, splits and metrics of OpenOOD v1.5. The temperature is fitted on validation images, and the epoch is the one
  that is best on them (single networks, and digits: on test images). near and far are unweighted means over the sets of
  a group.
as published: each method is scored with what its released script names, and ECE leaves out confidences of exactly 1.
  Rows that are in no paper are marked release's protocol.
common score: every method is scored with logit-average, and ECE counts every sample.
Mean ± sample standard deviation over seeds. In AUROC and FPR95 the OOD images are the positive class (FPR95:
  in-distribution images flagged when 95 % of the OOD images are); NLL in nats, Brier score from 0 to 2.
Δ is ours minus the paper's: ok where |Δ| ≤ max(τ, 2·√(s²/n of the paper + s²/n of ours)), τ = 1.0 near and 1.5 far;
  outside tolerance where it is more; ? where a set is missing or has other images than OpenOOD's, or unverified ones,
  so that nothing can be said.
train (s): median training time of a seed, without selection and evaluation. × DE: its median ratio to DE's on the same
  seed and device."""
SCORES_LEGEND = """\
AUROC (%), mean over the sets of a group, of the epoch that is best on validation images (single networks, and digits:
  on test images); mean ± sample standard deviation over seeds; a tie counts half.
* what the method's released script scores it with."""


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


COMMON = Protocol("common score", "best", lambda dataset, method, group: COMMON_SCORE, lambda metric: metric,
                  published=False)
BENCHMARK = Benchmark(
    name="openood", columns=columns, papers=papers.sdde, includes=includes, baseline="de",
    protocols=(Protocol("as published", "best", lambda dataset, method, group: sdde_score(dataset, method),
                        _published_metric, published=True), COMMON),
    all_scores=COMMON,
    own_score=lambda dataset, method, group: None if method.endswith("_stable") else sdde_score(dataset, method),
    legend=LEGEND, scores_legend=SCORES_LEGEND)
