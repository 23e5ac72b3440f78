"""Searching a diversity loss's weight: the published trials, ranked by what was asked for."""
import pandas as pd
import pytest
from conftest import script

from data.openood import PreparedBenchmark
from recipes import recipe_of
from run_scripts import search_weight
from utils.io import UserError


def test_a_search_ranks_weights_by_what_it_was_told_to(tmp_path, data_dir):
    words = ["run_scripts/search_weight.py", "gradcam", "digits", "--weights", 0, 0.005, "--epochs", 1,
             "--data-dir", data_dir, "--results-dir", tmp_path, "--device", "cpu"]
    said = script(*words, "--select", "published").stdout
    table = pd.read_csv(tmp_path / "search/digits_gradcam.csv")
    assert sorted(table.weight) == [0, 0.005] and table.published.is_monotonic_decreasing and "minmax" in said
    assert " 0.005" in said, "weights are not rounded away"
    assert "Nothing to do" in script(*words, "--select", "published").stdout, "not trained twice"


@pytest.mark.parametrize("select, said", [
    ("validation", "digits has no validation outliers. Use --select published"),
    ("published", "no near OOD set of digits is prepared: python data/prepare.py digits_789"),
])
def test_a_search_that_cannot_be_ranked_is_refused_before_it_trains(select, said, tmp_path, data_dir):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/digits").symlink_to(data_dir / "digits")
    done = script("run_scripts/search_weight.py", "gradcam", "digits", "--select", select, "--data-dir",
                  tmp_path / "data", "--results-dir", tmp_path / "results", check=False)
    assert done.returncode == 1 and said in done.stderr and not (tmp_path / "results").exists()


def test_which_validation_outliers_to_prepare_is_said(monkeypatch):
    monkeypatch.setattr(search_weight, "benchmark", lambda *_: PreparedBenchmark(None, None, {}))
    with pytest.raises(UserError, match="prepare.py emnist_letters, or use --select published"):
        search_weight.check_rankable("mnist", None, "validation")


@pytest.mark.parametrize("method, weights, others", [
    ("gradcam", (0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1), [{}]),
    ("ncl", (0, 0.01, 0.1, 0.5, 1, 2, 5, 10, 100), [{}]),
    ("adp", (0, 0.01, 0.1, 0.5, 1, 2, 5, 10, 100), [{"adp_alpha": 0.2, "adp_beta": 0.1}]),
    ("dice", (0, 0.01, 0.05, 0.1, 0.2, 0.5, 1), [{"discriminator_lr": lr} for lr in (0, 1e-5, 1e-4, 1e-3)]),
    ("input_gradient", (0, 0.01, 0.1, 0.5, 1, 2, 5), [{}]),
])
def test_a_search_tries_the_published_grid(method, weights, others):
    """sdde.md, section 6: the same trials, each in a folder of its own, by flags that train.py has."""
    tried = search_weight.trials(method)
    assert tried == [{"diversity_weight": weight, **other} for weight in weights for other in others]
    assert len({search_weight.folder_name(trial) for trial in tried}) == len(tried)
    recipe = recipe_of("mnist", method)
    assert all(getattr(recipe.changed(**trial), name) == value for trial in tried for name, value in trial.items())
    assert len(search_weight.trials(method, [3])) == len(others), "with other weights the other settings stay"
