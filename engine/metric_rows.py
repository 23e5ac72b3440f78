"""The rows of metrics.csv: from the outputs of a run to every score and metric of the two benchmarks.

A row is (benchmark, dataset, ood_group, score, metric, value) and sometimes a note. On other ranks than the first,
which only help to run the network, there are none.
"""
import numpy as np
import torch

from data import corruptions
from data.datasets import CATALOG, CORRUPTED
from engine.build import score_functions
from losses.calibration import SCORE_TYPES
from metrics import calibration
from metrics.detection import detection_metrics
from metrics.ensemble import ensemble_scores
from metrics.published import (
    published_calibration_error,
    published_detection_metrics,
    published_negative_log_likelihood,
    published_temperature,
)
from utils.io import UserError

# ---- the benchmark of the DisMax paper: whole test sets, the mean of the members' logits at temperature 1 ----

def dismax_rows(cache, id_split, ood_splits, detector_scores=None):
    """Both protocols of the DisMax paper; and the temperatures that were fitted.

    Args:
        id_split: the Split of in-distribution test images.
        ood_splits: [(Split, group)].
        detector_scores: function of a Split to {detector: (n) scores}.
    """
    outputs = cache.outputs(id_split)
    rows, temperatures, dataset = [], {}, id_split.name
    if outputs:
        logits = outputs.logits.mean(0)  # (N, n, C) → (n, C)
        quality, temperatures = quality_metrics(logits.astype(np.float64), outputs.labels)
        rows = [images_row(id_split, "id", outputs)]
        rows += [("dismax", dataset, "id", "", metric, *value) for metric, value in quality.items()]
        id_scores, published = every_score(logits), published_scores(logits)
    id_detected = detector_scores(id_split) if detector_scores else {}
    for split, group in ood_splits:
        outputs = cache.outputs(split)
        detected = detector_scores(split) if detector_scores else {}
        if outputs:
            logits = outputs.logits.mean(0)
            rows.append(images_row(split, group, outputs))
            ood_scores, published_ood = {**every_score(logits), **detected}, published_scores(logits)
            for score, values in {**id_scores, **id_detected}.items():
                found = detection_metrics(values, ood_scores[score])
                if score in published:
                    as_published = published_detection_metrics(published[score], published_ood[score])
                    found |= {f"{metric}_published": value for metric, value in as_published.items()}
                rows += [("dismax", split.name, group, score, metric, value) for metric, value in found.items()]
    return rows, temperatures


def every_score(logits):
    """score → (n) float64 of logits (n, C), computed in float64: the six, the energy and those of plugins."""
    z = torch.from_numpy(logits).double()
    return {name: _one_an_image(name, score(z), len(z)) for name, score in score_functions().items()}


def _one_an_image(name, scores, count):
    """Scores (n) of a function as an array. UserError when, of a plugin, they are something else."""
    if not isinstance(scores, torch.Tensor) or scores.shape != (count,) or not scores.isfinite().all():
        found = f"a {type(scores).__name__}" if not isinstance(scores, torch.Tensor) else (
            "NaN or infinity" if scores.shape == (count,) else f"a tensor of shape {tuple(scores.shape)}")
        raise UserError(f"the score {name} must give {count} finite numbers for as many images, and gives {found}")
    return scores.double().numpy()


def published_scores(logits):
    """score → (n) of DisMax's six as its release computes them: in float32, with MPS a probability."""
    z = torch.from_numpy(logits).float()
    scores = {name: score_functions()[name](z).numpy() for name in SCORE_TYPES}
    return scores | {"MPS": z.softmax(1).amax(1).numpy()}


def images_row(split, group, outputs):
    """How many images of a set's test split were used. The note says how they differ from the publisher's set: "" if
    they are its verified whole."""
    count = len(outputs.labels)
    expected = CATALOG[split.name].counts.get("test", 0) if split.name in CATALOG else count
    part = f"{count:,} of its {expected:,} images" if count != expected else ""
    return ("dismax", split.name, group, "", "images", count, ", ".join(filter(None, [part, split.origin_note])))


def quality_metrics(logits, labels):
    """metric → (value,) or (value, note): accuracy and calibration under both protocols; and the temperatures.

    fitted_on_test: the temperature of the least ECE, measured on the same test images. as_published: the release's
    local search for it, with a note where the release drops the run. cross_fitted: each half of the test images under
    the temperature of the other half, by NLL; of a single image, under 1.
    """
    test_t = calibration.fit_temperature(logits, labels, "ece")
    release = published_temperature(logits, labels)
    crossed, crossed_t = logits, (1.0, 1.0)
    if len(labels) > 1:
        crossed, crossed_t = calibration.cross_fitted_logits(logits, labels, "nll")
    dropped = "dropped by the release: its temperature search ended at a bound" if release.dropped else ""
    found = {"accuracy": (calibration.accuracy(logits, labels),)}
    for suffix, z in (("uncalibrated", logits), ("fitted_on_test", logits / test_t), ("cross_fitted", crossed)):
        probabilities = calibration.probabilities_of(z)
        found |= {
            f"ece_{suffix}": (calibration.expected_calibration_error(probabilities, labels),),
            f"nll_{suffix}": (calibration.negative_log_likelihood(z, labels),),
            f"brier_{suffix}": (calibration.brier_score(probabilities, labels),),
        }
    found |= {"temperature_fitted_on_test": (test_t,), "ece_as_published": (release.ece, dropped),
              "temperature_as_published": (release.temperature, dropped)}
    return found, {"temperature_fitted_on_test_ece": test_t, "temperature_as_published": release.temperature,
                   "temperatures_cross_fitted_nll": crossed_t}


# ---- the `openood` benchmark: images by list, temperature and selection on validation images ----

def openood_rows(cache, benchmark, detector_scores=None):
    """Every score of members and of their mean logits; and the temperature, 1 without validation images.

    Args:
        benchmark: a data.openood.PreparedBenchmark.
    """
    id_split = benchmark.test.splits["test"]
    outputs, rows, temperature, dataset = cache.outputs(id_split), [], None, id_split.name
    id_detected = detector_scores(id_split) if detector_scores else {}
    if outputs:
        test = outputs.rows(benchmark.test.index["test"])
        temperature = fitted_temperature(outputs, benchmark.validation.index["test"])
        quality = calibrated_metrics(outputs.logits.mean(0)[test], outputs.labels[test], temperature)
        rows = [("openood", dataset, "id", "", "images", len(test), benchmark.test.note)]
        rows += [("openood", dataset, "id", "", metric, value) for metric, value in quality.items()]
        id_scores = {**openood_scores(outputs.logits[:, test], temperature),
                     **{name: values[test] for name, values in id_detected.items()}}
    chosen_by = {"validation": [benchmark.validation_outliers]} if benchmark.validation_outliers else {}
    for group, subsets in {**benchmark.groups, **chosen_by}.items():
        for subset in subsets:
            logits, detected = subset_outputs(cache, subset, detector_scores)
            if temperature and logits.shape[1]:
                ood_scores = {**openood_scores(logits, temperature), **detected}
                rows.append(("openood", subset.name, group, "", "images", len(subset), subset.note))
                rows += [("openood", subset.name, group, score, metric, value) for score, values in id_scores.items()
                         for metric, value in detection_metrics(values, ood_scores[score]).items()]
    return rows, temperature


def fitted_temperature(outputs, index):
    """By NLL on the images of a split at these positions; 1 without images."""
    validation = outputs.rows(index)
    if not len(validation):
        return 1.0
    return calibration.fit_temperature(outputs.logits.mean(0)[validation], outputs.labels[validation])


def subset_outputs(cache, subset, detector_scores=None):
    """Logits (N, n, C) and {detector: (n) scores} of a Subset, whose images may come from several splits."""
    logits, detected = [], {}
    for name, index in subset.index.items():
        outputs = cache.outputs(subset.splits[name])
        scores = detector_scores(subset.splits[name]) if detector_scores else {}
        if outputs:
            rows = outputs.rows(index)
            logits.append(outputs.logits[:, rows])
            for detector, values in scores.items():
                detected.setdefault(detector, []).append(values[rows])
    none = np.zeros((1, 0, 1), np.float32)
    return (np.concatenate(logits, 1) if logits else none,
            {detector: np.concatenate(parts) for detector, parts in detected.items()})


def openood_scores(logits, temperature):
    """score → (n): SDDE's, of logits (N, n, L) over the temperature, and DisMax's and plugins', of the mean logits as
    they are."""
    own = every_score(logits.astype(np.float64).mean(0))
    shown = [name for name in own if name in ("ES", "MMLS", "MMLES", "MMLEPS") or name not in PUBLISHED_SCORES]
    of_members = {name: values.numpy() for name, values in ensemble_scores(logits, temperature).items()}
    return {**of_members, **{name: own[name] for name in shown}}


PUBLISHED_SCORES = (*SCORE_TYPES, "energy")  # MPS, MDS and the energy have their counterparts among SDDE's


def corrupted_rows(cache, benchmark, temperature, data_dir):
    """Calibration under corruption, with a temperature of its own for each corruption and with the clean one."""
    dataset, rows = benchmark.test.name, []
    name = CORRUPTED.get(dataset)
    for corruption, severity in corruptions.available_corruptions(name, data_dir) if name else []:
        outputs = cache.corrupted_outputs(name, corruption, severity, data_dir)
        if outputs and temperature:
            test, own = outputs.rows(benchmark.test.index["test"]), fitted_temperature(
                outputs, benchmark.validation.index["test"])  # on corrupted images
            logits, labels = outputs.logits.mean(0)[test], outputs.labels[test]
            quality, clean = (calibrated_metrics(logits, labels, t) for t in (own, temperature))
            quality |= {f"{metric}_clean_temperature": clean[metric] for metric in ("ece", "nll", "brier")}
            place = "openood", f"{name}_{corruption}", f"corrupted_{severity}", ""
            rows.append((*place, "images", len(test), corruptions.note(name, corruption, severity, data_dir)))
            rows += [(*place, metric, value) for metric, value in quality.items()]
    return rows


def calibrated_metrics(logits, labels, temperature):
    """Accuracy, and calibration of (n, L) logits before and after they are divided by the temperature."""
    found = {"accuracy": calibration.accuracy(logits, labels)}
    for suffix, z in (("_uncalibrated", logits), ("", logits / temperature)):
        probabilities = calibration.probabilities_of(z)
        found |= {
            f"ece{suffix}": calibration.expected_calibration_error(probabilities, labels),
            f"ece_published{suffix}": published_calibration_error(probabilities.astype(np.float32), labels),
            f"nll{suffix}": calibration.negative_log_likelihood(z, labels),
            f"nll_published{suffix}": published_negative_log_likelihood(z, labels),
            f"brier{suffix}": calibration.brier_score(probabilities, labels),
        }
    return found
