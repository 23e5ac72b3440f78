"""Runs that are in no table: damaged, incomplete, copied, of another run; each with its reason, and the others stay."""
import json
import shutil

import pytest
from conftest import script
from made_up import ensemble

from reporting.load import read_runs
from utils import run_dir
from utils.io import UserError


def run_of(folder, seed=1, method="de"):
    return folder / f"mnist/lenet/{method}/seed{seed}"


def change_config(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def of_another_seed(run):
    shutil.copy(run.parent / "seed2/log.csv", run / "log.csv")
    change_log(run, "0.5", "0.25")


def change_log(run, old, new):
    (run / "log.csv").write_text((run / "log.csv").read_text().replace(old, new))


def folder_in_place_of(path):
    path.unlink()
    path.mkdir()


def change_metrics(run, change):
    lines = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(map(change, lines)))


def signed(run, *rows):
    """Rows with the closing line that fits them, as a mistaken or forging writer would leave them."""
    refuse, run_dir._refuse_impossible = run_dir._refuse_impossible, lambda rows, path: None
    try:
        run_dir.write_metrics(run, rows)
    finally:
        run_dir._refuse_impossible = refuse


@pytest.mark.parametrize("damage, reason", [
    (lambda run: (run / "config.json").write_text("{"), "is damaged"),
    (lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"), "is damaged"),
    (lambda run: (run / "config.json").write_text("[" * 100_000), "is damaged"),
    (lambda run: (run / "config.json").write_text("[]"), "is damaged (it holds a list)"),
    (lambda run: (run / "config.json").write_text("{}"), "run is missing"),
    (lambda run: (run / "config.json").unlink(), "it has no config.json"),
    (lambda run: folder_in_place_of(run / "config.json"), "could not read config.json: Is a directory"),
    (lambda run: change_config(run, run={"dataset": "mnist", "model": "lenet", "loss": "de", "seed": 1}),
     "run does not say dataset, model, method and seed"),
    (lambda run: change_config(run, best_epoch=None), "best_epoch is missing or of another type"),
    (lambda run: change_config(run, train_seconds="long"), "train_seconds is missing or no number"),
    (lambda run: change_config(run, overrides={"lr": 3}), "an override does not say"),
    (lambda run: change_config(run, sessions=[]), "its sessions do not say"),
    (lambda run: change_config(run, recipe={}), "the epochs of its recipe"),
    (lambda run: change_config(run, method={"members": 0}), "the members of its method"),
    (lambda run: change_config(run, train_seconds=-5), "a time or an accuracy is negative"),
    (lambda run: change_config(run, train_seconds=10**400), "train_seconds is missing or no number"),
    (lambda run: change_config(run, parameters=10**400), "its parameters are missing or not positive"),
    (lambda run: change_config(run, recipe={"epochs": 10**18}), "config.json 1000000000000000000: it was not trained"),
    (lambda run: cut(run / "log.csv"), "log.csv"),
    (lambda run: cut(run / "log.csv", 0), "log.csv has 0 epochs, config.json 300"),
    (lambda run: (run / "log.csv").unlink(), "it has no log.csv"),
    (lambda run: folder_in_place_of(run / "log.csv"), "could not read log.csv: Is a directory"),
    (lambda run: folder_in_place_of(run / "metrics.csv"), "could not read metrics.csv: Is a directory"),
    (lambda run: change_log(run, "\n7,0.5", "\n7,1.5"), "an accuracy that is missing or not between 0 and 1"),
    (lambda run: change_log(run, "\n7,0.5", "\n7,nan"), "an accuracy that is missing or not between 0 and 1"),
    (lambda run: change_log(run, "\n7,0.5", "\n7,0.75"), "a better accuracy than that of epoch 1"),
    (lambda run: change_log(run, "0.5", "half"), "log.csv is damaged"),
    (lambda run: change_log(run, "\n7,", "\n8,"), "not trained to its end"),
    (of_another_seed, "log.csv and config.json disagree"),
    (lambda run: change_config(run, best_epoch=301), "log.csv and config.json disagree"),
    (lambda run: cut(run / "metrics.csv"), "is incomplete or was changed"),
    (lambda run: cut(run / "metrics.csv", 0), "is damaged or empty"),
    (lambda run: (run / "metrics.csv").write_bytes(2 * (run / "metrics.csv").read_bytes()), "was changed"),
    (lambda run: change_metrics(run, lambda line: line.replace("auroc,0.", "auroc,0.1")), "was changed"),
    (lambda run: change_metrics(run, lambda line: "" if "fpr95" in line else line), "is incomplete or was changed"),
    (lambda run: signed(run, ("openood", "svhn", "far", "best", "minmax", "auroc", 1.5)), "is impossible"),
    (lambda run: signed(run, ("openood", "svhn", "far", "best", "minmax", "auroc", float("nan"))), "is impossible"),
    (lambda run: signed(run, *2 * [("openood", "svhn", "far", "best", "minmax", "auroc", 0.5)]), "has a row twice"),
    (lambda run: signed(run, ("openood", "cifar10", "id", "best", "", "accuracy", 0.5)), "images of cifar10"),
    (lambda run: change_config(run, run={"dataset": "mnist", "model": "lenet", "method": "ncl", "seed": 1}),
     "its config.json is that of mnist/lenet/ncl/seed1: it was moved or copied"),
])
def test_a_run_whose_files_are_not_right_is_left_out_with_the_reason(tmp_path, damage, reason):
    for seed in (1, 2, 3):
        ensemble(tmp_path, "de", seed, 0.9 + seed / 100)
    damage(run_of(tmp_path))
    results = read_runs(tmp_path)
    assert [run.seed for run in results.runs] == [2, 3]
    (left_out,) = results.left_out
    assert left_out.folder == run_of(tmp_path) and reason in left_out.reason
    done = script("analyze.py", "--results-dir", tmp_path)
    assert "ours, as published, n = 2/5" in done.stdout and "Left out: " in done.stdout
    assert "Left out: mnist/lenet/de/seed1: " in (tmp_path / "tables/openood_mnist.md").read_text()


def test_a_copied_folder_is_no_seed(tmp_path):
    """Neither with the config of the original, nor with the number of the seed changed by hand."""
    ensemble(tmp_path, "de", 1, 0.9)
    ensemble(tmp_path, "de", 3, 0.91)
    shutil.copytree(run_of(tmp_path, 1), run_of(tmp_path, 2))
    results = read_runs(tmp_path)
    assert [run.seed for run in results.runs] == [3], "nobody can say which of the two is right"
    assert {run.folder for run in results.left_out} == {run_of(tmp_path, 1), run_of(tmp_path, 2)}
    assert all("the same seed is in 2 folders, mnist/lenet/de/seed1 and mnist/lenet/de/seed2" in run.reason
               for run in results.left_out)
    change_config(run_of(tmp_path, 2), run={"dataset": "mnist", "model": "lenet", "method": "de", "seed": 2})
    assert all("the same log.csv is in 2 folders" in run.reason for run in read_runs(tmp_path).left_out)
    ensemble(tmp_path, "de", 2, 0.95)
    assert not read_runs(tmp_path).left_out
    shutil.copy(run_of(tmp_path, 1) / "metrics.csv", run_of(tmp_path, 2) / "metrics.csv")
    assert ["the same metrics.csv is in 2 folders" in run.reason for run in read_runs(tmp_path).left_out] == 2 * [True]
    shutil.rmtree(run_of(tmp_path, 2))
    assert [run.seed for run in read_runs(tmp_path).runs] == [1, 3]


def test_a_network_that_was_not_trained_here_needs_no_log(tmp_path):
    run = ensemble(tmp_path, "de", 1, 0.9, train_seconds=None, best_accuracy=None, last_accuracy=None)
    (run / "log.csv").unlink()
    (found,) = read_runs(tmp_path).runs
    assert found.log == [] and found.members == 5


def test_when_all_are_left_out_it_is_said_and_when_there_is_none_what_to_type(tmp_path):
    with pytest.raises(UserError, match="no evaluated run below .*make demo"):
        read_runs(tmp_path)
    trained = tmp_path / "mnist/lenet/de/seed2"
    trained.mkdir(parents=True)
    (trained / "weights.pt").write_text("")
    (left,) = read_runs(tmp_path).left_out
    assert left.reason == f"it is not evaluated: python evaluate.py {trained}"
    shutil.rmtree(trained)
    ensemble(tmp_path, "de", 1, 0.9)
    (run_of(tmp_path) / "config.json").write_text("{")
    done = script("analyze.py", "--results-dir", tmp_path)
    assert "Left out: " in done.stdout and "is damaged" in done.stdout


def test_cells_are_found_by_group_and_set(tmp_path):
    rows = [("dismax", "svhn", "far", "last", "MPS", "auroc", 0.75, "a note"),
            ("dismax", "svhn", "far", "best", "MPS", "auroc", 0.5)]
    run = ensemble(tmp_path, "de", 1, 0.9)
    run_dir.write_metrics(run, rows)
    (found,) = read_runs(tmp_path).runs
    assert found.cells("dismax", "last", "auroc", "MPS") == {("far", "svhn"): (0.75, "a note")}
    assert found.cells("dismax", "last", "auroc", "ES") == {}


def test_a_trained_run_without_metrics_is_named(results_dir, tmp_path):
    shutil.copytree(results_dir, tmp_path / "results")
    run = tmp_path / "results/digits/lenet/softmax/seed2"
    (run / "metrics.csv").unlink()
    said = script("analyze.py", "--results-dir", tmp_path / "results").stdout
    assert f"Left out: {run}: it is not evaluated: python evaluate.py" in said.replace("\n", " ")
