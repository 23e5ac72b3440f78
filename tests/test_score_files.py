"""Scores that others computed become rows of the tables (analyze.py --scores); what is no score file is refused."""
import numpy as np
import pytest
from conftest import script
from made_up import ensemble
from test_tables import rows_of

from metrics.detection import detection_metrics
from reporting.score_files import read_scores
from utils.io import UserError


def dump(folder, **changes):
    """A folder as OpenOOD leaves it for CIFAR-10: its names of the sets, −1 as the labels of OOD images."""
    rng, content = np.random.default_rng(0), {}
    for name, shift, count in (("cifar10", 2, 90), ("cifar100", 1, 80), ("tin", 0.5, 70), ("texture", 0, 60)):
        label = np.arange(count) % 10 if name == "cifar10" else np.full(count, -1)
        pred = np.where(np.arange(count) < 81, label, 0)  # 9 of the 90 are 0, of which one is right
        content[name] = {"pred": pred, "conf": rng.normal(shift, 1, count), "label": label}
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in content.items():
        np.savez(folder / f"{name}.npz", **{**arrays, **changes.get(name, {})})
    return content


def test_openoods_dumps_become_rows_beside_ours(tmp_path):
    content = dump(tmp_path / "ash")
    dump(tmp_path / "ash2", tin={"conf": content["tin"]["conf"] + 0.1})
    ensemble(tmp_path / "results", "de", 1, 0.9)
    said = script("analyze.py", "--results-dir", tmp_path / "results", "--scores", f"ash={tmp_path / 'ash'}",
                  f"ash={tmp_path / 'ash2'}", f"resnet34/mine={tmp_path / 'ash'}").stdout
    assert "CIFAR-10, openood" in said and "MNIST, openood" in said
    near = {name: 100 * detection_metrics(content["cifar10"]["conf"], content[name]["conf"])["auroc"]
            for name in ("cifar100", "tin", "texture")}
    row, *_ = rows_of(tmp_path / "results", "openood_cifar10_sets")
    assert row[0] == "near: CIFAR-100" and row[1] == "80, other" and row[3:5] == ["own score", "2"]
    assert row[5] == f"{near['cifar100']:.2f} ± 0.00"
    text = (tmp_path / "results/tables/openood_cifar10.md").read_text()
    assert "scores from files, common score, n = 2" in text and "scores from files, common score, n = 1" in text
    assert f"{near['texture']:.2f}" in text and "which of its images were scored is not known" in text
    assert "Δ to the paper" not in text.split("scores from files, common score, n = 1")[1].split("\n")[0]


def test_the_metrics_are_those_of_our_functions_and_groups_those_of_the_benchmarks(tmp_path):
    content = dump(tmp_path)
    run = read_scores("ash", tmp_path, 1)
    assert (run.id_dataset, run.method, run.seed) == ("cifar10", "ash", 1)
    assert run.cells("openood", "best", "accuracy")["id", "cifar10"][0] == pytest.approx(
        np.mean(content["cifar10"]["pred"] == content["cifar10"]["label"]))
    aurocs = run.cells("openood", "best", "auroc", "own score")
    assert set(aurocs) == {("near", "cifar100"), ("near", "tinyimagenet"), ("far", "textures")}
    expected = detection_metrics(content["cifar10"]["conf"], content["tin"]["conf"])
    assert aurocs["near", "tinyimagenet"][0] == expected["auroc"]
    assert set(run.cells("dismax", "last", "aupr_out", "own score")) == {("near", "cifar100")}


@pytest.mark.parametrize("changes, message", [
    ({"tin": {"conf": np.zeros(69)}}, "tin.npz: 69 scores, 70 predictions and 70 labels. Each image needs one of each"),
    ({"tin": {"label": np.full(71, -1)}}, "tin.npz: 70 scores, 70 predictions and 71 labels"),
    ({"tin": {"conf": np.full(70, np.nan)}}, "tin.npz has scores that are NaN or infinite"),
    ({"tin": {"conf": np.full(70, "a")}}, "tin.npz is not a score file"),
    ({"tin": {"pred": np.full(70, "a")}}, "pred and label must be class numbers"),
    ({"tin": {key: np.zeros(0) for key in ("pred", "conf", "label")}}, "tin.npz has no scores"),
    ({"cifar100": {"label": np.zeros(80)}}, "cannot tell .*--dataset cifar10"),
    ({"cifar10": {"label": np.full(90, -1)}}, "cannot tell"),
])
def test_what_is_no_set_of_scores_is_refused_in_words(tmp_path, changes, message):
    dump(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_scores("ash", tmp_path, 1)
    done = script("analyze.py", "--scores", f"ash={tmp_path}", "--results-dir", tmp_path, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_missing_and_damaged_files_are_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="there are no .npz files"):
        read_scores("ash", tmp_path, 1)
    dump(tmp_path)
    np.savez(tmp_path / "tin.npz", conf=np.zeros(3))
    with pytest.raises(UserError, match="tin.npz is not a score file"):
        read_scores("ash", tmp_path, 1)
    (tmp_path / "tin.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="tin.npz is not a score file"):
        read_scores("ash", tmp_path, 1)
    done = script("analyze.py", "--scores", "ash", check=False)
    assert done.returncode == 2 and "'ash' is not NAME=DIR" in done.stderr


def test_our_own_score_files_are_read_back(tmp_path, results_dir):
    """The AUROC of evaluate.py's dump is that of its metrics.csv."""
    run = results_dir / "digits/lenet/softmax/seed1"
    said = script("analyze.py", "--results-dir", tmp_path, "--scores", f"again={run / 'scores/MPS'}",
                  "--scores", f"other={run / 'scores/ES'}").stdout
    assert "digits 0–6" in said and "again" in said and "other" in said, "the flag may be repeated"
    again = read_scores("again", run / "scores/MPS", 1)
    from reporting.load import read_runs

    ours = next(one for one in read_runs(results_dir).runs if one.folder == run)
    assert again.cells("dismax", "last", "auroc", "own score") == ours.cells("dismax", "last", "auroc", "MPS")
