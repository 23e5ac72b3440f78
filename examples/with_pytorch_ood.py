"""Apply the metrics of pytorch-ood and of OpenOOD to the scores of a run, and compare them with ours.

  python examples/with_pytorch_ood.py results/digits/lenet/dismax/seed1 MMLES

evaluate.py writes scores/<score>/<set>.npz in OpenOOD's form: pred (n), the predicted class; conf (n), larger = more
in-distribution; label (n), −1 for out-of-distribution images. This example needs: pip install pytorch-ood.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from pytorch_ood.metrics import OODMetrics
from sklearn.metrics import auc, precision_recall_curve, roc_curve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from metrics.detection import detection_metrics

NAMES = ("auroc", "aupr_in", "aupr_out", "fpr95")


def ours(id_file, ood_file):
    found = detection_metrics(np.load(id_file)["conf"], np.load(ood_file)["conf"])
    return [found[name] for name in NAMES]


def pytorch_ood(id_file, ood_file):
    metrics = OODMetrics()
    for file in (np.load(id_file), np.load(ood_file)):
        # its scores are larger for OOD images; float32 would make some different scores equal
        metrics.update(torch.from_numpy(-file["conf"].astype(np.float64)), torch.from_numpy(file["label"]))
    found = metrics.compute()
    return [float(found[name]) for name in ("AUROC", "AUPR-IN", "AUPR-OUT", "FPR95TPR")]


def openood(id_file, ood_file):
    """OpenOOD 1.5's definitions (openood/evaluators/metrics.py), OOD positive for AUROC and the false positive rate."""
    files = [np.load(id_file), np.load(ood_file)]
    conf = np.concatenate([file["conf"] for file in files])
    is_ood = np.concatenate([file["label"] for file in files]) == -1
    false_positives, true_positives, _ = roc_curve(is_ood, -conf)
    precision_in, recall_in, _ = precision_recall_curve(~is_ood, conf)
    precision_out, recall_out, _ = precision_recall_curve(is_ood, -conf)
    return [auc(false_positives, true_positives), auc(recall_in, precision_in), auc(recall_out, precision_out),
            false_positives[np.argmax(true_positives >= 0.95)]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of an evaluated run")
    parser.add_argument("score", help="name of a score, a folder in the run's scores/")
    args = parser.parse_args()
    folder = args.run / "scores" / args.score
    id_file = folder / f"{json.loads((args.run / 'config.json').read_text())['run']['dataset']}.npz"
    if not id_file.exists():
        parser.error(f"{id_file} is not there: is the run evaluated, and is {args.score} one of its scores?")
    print(f"{'':32}{''.join(f'{name:>11}' for name in NAMES)}")
    for ood_file in sorted(set(folder.glob("*.npz")) - {id_file}):
        for reader in (ours, pytorch_ood, openood):
            values = "".join(f"{value:11.6f}" for value in reader(id_file, ood_file))
            print(f"{ood_file.stem:18}{reader.__name__:14}{values}")


if __name__ == "__main__":
    main()
