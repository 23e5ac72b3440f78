"""The model card of an exported run: data, recipe, accuracy, OOD detection and limits, from the run's own records."""
from tabulate import tabulate

from data.datasets import CATALOG
from recipes import BLOCKS
from reporting.names import sdde_script_score, title_of


def model_card(run, config, rows, calibration, detection, graphs):
    """Markdown text.

    Args:
        run, config: of run_dir.load_run. rows: of run_dir.read_metrics; those of the last checkpoint are used.
        calibration: of the last checkpoint. detection: score, reject_rate, threshold and so on. graphs: file names.
    """
    last = [row for row in rows if row[3] == "last"]
    network, method, data = (title_of(name) for name in (run.model, run.name, run.dataset))
    changed = ", ".join(f"{key} {value['used']} instead of {value['published']}"
                        for key, value in config.get("overrides", {}).items())
    recipe = "\n".join(f"- {key}: {value}" for key, value in run.recipe.as_dict().items())
    graph_text = "".join(f"\n- `{name}`: uint8 images (N, 3 or 1, {detection['size']}, {detection['size']}) → logits, "
                         "probability, score, in_distribution" for name in graphs)
    return f"""# {network} with {method} on {data}

{config["num_classes"]} classes, seed {run.seed}. Rejects images that belong to none of them.

## Files

- `model.safetensors`: the state dict of the last epoch, before calibration
- `config.json`: recipe, class names and versions; `calibration.json`: temperature and thresholds{graph_text}

`python detect.py THIS_FOLDER photo.jpg` classifies or rejects images. Score: {detection["score"]};
images below {detection["threshold"]:.6g} are rejected, which are {100 * detection["reject_rate"]:g} % of the
in-distribution images. Temperature: {detection["temperature"]:.6g}.

## Training

{f"Changed from the recipe in recipes.py: {changed}." if changed else
 "The published recipe." if is_published(run) else "The recipe in recipes.py; no paper trains this network here."}

{recipe}

## Accuracy and calibration

{metric_table(last, lambda row: row[2] == "id" and row[5].startswith(("accuracy", "ece", "nll")),
              ("benchmark", "metric"), (0, 5))}

## Detection of other images

{metric_table(
    last, lambda row: row[5] in ("auroc", "fpr95") and row[4] in shown_scores(run, detection["score"], row[0]),
    ("benchmark", "OOD set", "group", "score", "metric"), (0, 1, 2, 4, 5))}

## Limits

- Temperature and thresholds were fitted on {calibration["images"]:,} test images of {data}, so measured
  calibration and the rejected share are those of such images. They differ on images from elsewhere.
- Detection was measured on the sets above only. One seed; no interval is given.
- Images are resized to {detection["size"]}×{detection["size"]} pixels. Other crops or decoders may change scores.
"""


def is_published(run):
    """Whether a paper trains this network on this data set."""
    return any(block.paper and run.dataset == block.dataset and run.model in block.networks for block in BLOCKS)


def shown_scores(run, score, benchmark):
    published = sdde_script_score(run.dataset, run.name) if run.dataset in CATALOG else None
    return (score,) if benchmark == "dismax" else (published or "logit-average",)


def metric_table(rows, wanted, columns, places):
    found = [[*(row[k] for k in places), f"{row[6]:.4f}"] for row in rows if wanted(row)]
    return tabulate(found, headers=[*columns, "value"], tablefmt="github") if found else "Not measured."
