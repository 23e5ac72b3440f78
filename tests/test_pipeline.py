"""From logits to tables: what evaluate.py and analyze.py write, what they never mix, and the commands around them."""
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, made_up_run, run_of, script
from PIL import Image

from data.datasets import OPENOOD, OUTLIERS
from losses.calibration import SCORES
from metrics.detection import detection_metrics
from reporting.comparison import Column
from reporting.names import title_of
from reporting.verdicts import verdict
from utils import run_dir


def metric(run, **where):
    table = pd.DataFrame(run_dir.read_metrics(run), columns=run_dir.METRIC_COLUMNS)
    for column, value in {"benchmark": "dismax", **where}.items():
        table = table[table[column] == value]
    assert len(table) == 1, where
    return table.value.item()


# ---- evaluate.py ----

def test_logits_are_the_networks(results_dir, data_dir):
    """(N, n, C) float32 and labels, −1 for outliers; the same logits as running the saved weights by hand."""
    from data.loaders import open_set
    from engine.build import build_network
    from losses import DisMaxLossFirstPart

    run = run_of(results_dir)
    for name, n in (("digits", 419), ("digits_789", 533), ("photo_patches", 660)):
        with np.load(run / "logits" / f"{name}.npz") as content:
            assert content["logits"].shape == (1, n, 7) and content["logits"].dtype == np.float32
            assert content["labels"].dtype == np.int64 and (name == "digits") == (content["labels"] >= 0).all()
            assert name == "digits" or (content["labels"] == -1).all()
            logits = content["logits"][0]
    net = build_network("lenet", 7, DisMaxLossFirstPart).eval()
    net.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    patches = open_set("photo_patches", "test", data_dir, torch.device("cpu"), id_dataset="digits")
    images = torch.cat([x for x, _ in patches.eval_batches()])
    assert np.allclose(net(images).detach().numpy(), logits, atol=1e-4)


def test_metrics_are_those_of_the_saved_logits(results_dir):
    run = run_of(results_dir)
    table = pd.DataFrame(run_dir.read_metrics(run), columns=run_dir.METRIC_COLUMNS)
    assert list(table) == ["benchmark", "dataset", "ood_group", "checkpoint", "score", "metric", "value", "note"]
    assert np.isfinite(table.value).all()
    assert set(table.checkpoint) == {"last", "best"} and set(table.ood_group) == {"id", "near", "far"}
    z = {name: torch.from_numpy(np.load(run / "logits" / f"{name}.npz")["logits"][0]).double()
         for name in ("digits", "digits_789")}
    for score in SCORES:
        expected = detection_metrics(SCORES[score](z["digits"]), SCORES[score](z["digits_789"]))
        for name, value in expected.items():
            found = metric(run, dataset="digits_789", checkpoint="last", score=score, metric=name)
            assert found == pytest.approx(value)
    labels = np.load(run / "logits" / "digits.npz")["labels"]
    accuracy = np.mean(z["digits"].argmax(1).numpy() == labels)
    config = json.loads((run / "config.json").read_text())
    assert metric(run, dataset="digits", checkpoint="last", metric="accuracy") == pytest.approx(accuracy)
    assert accuracy == pytest.approx(config["last_accuracy"])
    assert metric(run, dataset="digits", checkpoint="best", metric="accuracy") == pytest.approx(config["best_accuracy"])
    temperatures = json.loads((run / "calibration.json").read_text())["last"]
    assert len(temperatures["temperatures_cross_fitted_nll"]) == 2
    assert temperatures["temperature_fitted_on_test_ece"] > 0


def test_published_protocol_is_at_least_as_flattering(results_dir):
    """Fitting on the test images themselves can't give a worse ECE than any other temperature does."""
    for run in results_dir.glob("digits/lenet/*/seed*"):
        for checkpoint in ("last", "best"):
            found = {name: metric(run, checkpoint=checkpoint, metric=name) for name in (
                "ece_fitted_on_test", "ece_as_published", "ece_uncalibrated", "nll_cross_fitted", "nll_uncalibrated")}
            assert found["ece_fitted_on_test"] <= found["ece_uncalibrated"] + 1e-9
            assert found["ece_fitted_on_test"] <= found["ece_as_published"] + 1e-9
            assert found["nll_cross_fitted"] < found["nll_uncalibrated"]


def test_a_set_prepared_later_is_added_without_running_the_network_again(results_dir, data_dir, tmp_path):
    run, data = tmp_path / "digits/lenet/softmax/seed1", tmp_path / "data"
    shutil.copytree(run_of(results_dir, "softmax"), run)
    shutil.copytree(data_dir, data)
    expected = (run / "metrics.csv").read_text()
    shutil.rmtree(run / "logits")
    shutil.rmtree(run / "logits_best", ignore_errors=True)
    shutil.move(data / "photo_patches", tmp_path / "aside")
    done = script("evaluate.py", run, "--data-dir", data, "--device", "cpu")
    assert "not prepared: photo_patches" in done.stdout
    assert {row[1] for row in run_dir.read_metrics(run)} == {"digits", "digits_789"}
    before = (run / "logits" / "digits_789.npz").stat().st_mtime_ns
    shutil.move(tmp_path / "aside", data / "photo_patches")
    script("evaluate.py", run, "--data-dir", data, "--device", "cpu")
    assert (run / "metrics.csv").read_text() == expected
    assert (run / "logits" / "digits_789.npz").stat().st_mtime_ns == before
    (run / "logits" / "digits.npz").write_bytes(b"cut")  # a damaged dump is made again
    manifest = json.loads((data / "digits_789/manifest.json").read_text())
    manifest["splits"]["test"]["files"]["test.npz"]["sha256"] = "other images"
    (data / "digits_789/manifest.json").write_text(json.dumps(manifest))
    script("evaluate.py", run, "--data-dir", data, "--device", "cpu")
    assert (run / "metrics.csv").read_text() == expected
    assert (run / "logits" / "digits_789.npz").stat().st_mtime_ns > before, "other images: run again"


def test_evaluating_what_is_not_finished_is_refused(tmp_path):
    done = script("evaluate.py", tmp_path, check=False)
    assert done.returncode == 1 and "is not a finished run: it has no weights.pt" in done.stderr


def test_a_run_that_cannot_be_evaluated_does_not_stop_the_others(results_dir, data_dir, tmp_path):
    shutil.copytree(results_dir / "digits/lenet/softmax/seed1", tmp_path / "good")
    (tmp_path / "good/metrics.csv").unlink()
    (tmp_path / "bad").mkdir()
    done = script("evaluate.py", tmp_path / "bad", tmp_path / "good", "--data-dir", data_dir, "--device", "cpu",
                  check=False)
    assert done.returncode == 1 and f"evaluate.py: not evaluated: {tmp_path / 'bad'}" in done.stderr
    assert (tmp_path / "good/metrics.csv").exists() and "is not a finished run" in done.stderr


def test_ood_folders_may_be_named_one_by_one_and_each_once(results_dir, data_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(results_dir / "digits/lenet/softmax/seed1", run)
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (28, 28), 90).save(tmp_path / name / "x.png")
    words = ["evaluate.py", run, "--data-dir", data_dir, "--device", "cpu", "--ood", f"a={tmp_path / 'a'}"]
    script(*words, "--ood", f"b={tmp_path / 'b'}")
    assert {"a", "b"} <= {row[1] for row in run_dir.read_metrics(run)}
    done = script(*words, f"a={tmp_path / 'b'}", check=False)
    assert done.returncode == 1 and "--ood has the name a twice" in done.stderr


# ---- analyze.py ----

def tidy(results_dir, tmp_path, dataset):
    done = script("analyze.py", "--results-dir", results_dir, "--dataset", dataset)
    return done.stdout, pd.read_csv(results_dir / f"tables/dismax_{dataset}.csv", keep_default_na=False)


def test_table_of_digits(results_dir, tmp_path):
    printed, table = tidy(results_dir, tmp_path, "digits")
    assert "ours, release's protocol, n = 2, SHORTENED: epochs 3 (published 20)" in printed
    assert "ours, held-out protocol" in printed and "LeNet on digits 0–6 is in neither paper." in printed
    row = table[(table.method == "softmax") & (table.protocol == "held-out protocol")
                & table.column.str.startswith("far")].iloc[0]
    values = [100 * metric(run_of(results_dir, "softmax", seed), dataset="photo_patches", checkpoint="last",
                           score="MPS", metric="auroc") for seed in (1, 2)]
    assert float(row.ours) == pytest.approx(np.mean(values)) and row.ours_n == 2
    assert float(row.ours_std) == pytest.approx(np.std(values, ddof=1))
    near = table[(table.method == "dismax_fpr") & (table.protocol == "as published")
                 & table.column.str.startswith("near")].iloc[0]
    values = [100 * metric(run_of(results_dir, seed=seed), dataset="digits_789", checkpoint="best", score="MPS",
                           metric="aupr_out_published") for seed in (1, 2)]
    assert float(near.ours) == pytest.approx(np.mean(values))
    for name in ("dismax_digits.md", "dismax_digits.tex", "dismax_digits_scores.md", "runs.csv"):
        assert (results_dir / "tables" / name).stat().st_size > 100
    assert "±" not in (results_dir / "tables/dismax_digits.tex").read_text()
    assert len(pd.read_csv(results_dir / "tables/runs.csv")) == 4


@pytest.fixture
def cifar_results(tmp_path):
    """Made-up metrics in the shape that evaluate.py writes; values chosen so that every verdict is known."""
    def add(loss, seed, accuracy, sets=("cifar100", "svhn"), overrides=None, aupr=0.853):
        rows = []
        for checkpoint in ("last", "best"):
            for name, value in (("accuracy", accuracy), ("ece_as_published", 0.006), ("ece_cross_fitted", 0.03),
                                ("images", 10_000)):
                rows.append(("dismax", "cifar10", "id", checkpoint, "", name, value))
            for name in sets:
                group = "near" if name == "cifar100" else "very_far"
                rows.append(("dismax", name, group, checkpoint, "", "images", 10_000))
                for score in SCORES:
                    rows += [("dismax", name, group, checkpoint, score, f"aupr_out{end}", aupr)
                             for end in ("", "_published")]
        made_up_run(tmp_path, "cifar10", "resnet34", loss, seed, rows, overrides)
    return tmp_path, add


def cell(table, loss, column, protocol="as published", changed=""):
    found = table[(table.method == loss) & table.column.str.contains(column, regex=False) & (table.protocol == protocol)
                  & (table.changed == changed)]
    assert len(found) == 1
    return found.iloc[0]


def ece(table, protocol="as published"):
    found = table[(table.method == "softmax") & (table.column == "ECE") & (table.protocol == protocol)]
    return found.iloc[0]


def test_verdicts_missing_cells_and_partial_n(cifar_results, tmp_path):
    results, add = cifar_results
    for seed, accuracy in ((1, 0.955), (2, 0.957), (3, 0.956)):
        add("softmax", seed, accuracy)
    for seed in range(1, 6):
        add("dismax_fpr", seed, 0.90, sets=())
    printed, table = tidy(results, tmp_path, "cifar10")
    accuracy = cell(table, "softmax", "ACC")
    assert float(accuracy.paper) == 95.6 and float(accuracy.ours) == pytest.approx(95.6)
    assert accuracy.ours_n == 3 and accuracy.verdict == "ok"
    assert cell(table, "dismax_fpr", "ACC").verdict == "outside tolerance"
    assert ece(table).verdict == "ok" and ece(table, "held-out protocol").verdict == "outside tolerance"
    svhn = cell(table, "softmax", "SVHN")  # paper 94.9 ± 1.0, ours 85.3 ± 0
    assert svhn.verdict == "outside tolerance"
    assert float(svhn.tolerance) == pytest.approx(max(1.5, 2 * np.sqrt(1.0**2 / 5)))
    assert cell(table, "softmax", "TinyImageNet").ours_n == 0 and cell(table, "softmax", "TinyImageNet").verdict == ""
    assert cell(table, "isomaxplus", "ACC").ours == ""
    assert float(cell(table, "isomaxplus", "ACC").paper) == 95.5
    assert "n = 3/5" in printed and "n = 5/5" in printed and "missing" in printed
    assert "GODIN" in printed, "what the paper quotes from others stays in its table"
    lines = [line for line in printed.splitlines() if "paper  " in line]
    assert any("95.6 ± 0.1" in line and "0.0060 ± 0.0013" in line and "94.9 ± 1.0" in line for line in lines)


def test_a_changed_run_never_gets_into_a_papers_row(cifar_results, tmp_path):
    results, add = cifar_results
    add("softmax", 1, 0.956)
    add("softmax", 2, 0.10, overrides={"epochs": {"published": 300, "used": 1}})
    printed, table = tidy(results, tmp_path, "cifar10")
    full = cell(table, "softmax", "ACC")
    assert float(full.ours) == pytest.approx(95.6) and full.ours_n == 1
    short = cell(table, "softmax", "ACC", changed="epochs 1 (published 300)")
    assert float(short.ours) == pytest.approx(10) and short.verdict == ""
    assert "SHORTENED: epochs 1 (published 300)" in printed


def test_one_seed_takes_the_papers_spread():
    column = Column("x", "very_far", ("svhn",), "auroc", paper="svhn", tau=1.5)
    paper = {"svhn": 90.0, "svhn_std": 3.0, "seeds": 5}
    one = verdict(column, paper, [93.0])
    assert one.tolerance == pytest.approx(2 * np.sqrt(9 / 5 + 9)) and one.verdict == "ok"
    assert np.isnan(one.ours_std)
    many = verdict(column, paper, [93.0] * 5)
    assert many.tolerance == pytest.approx(2 * np.sqrt(9 / 5)) and many.verdict == "outside tolerance"


def test_published_values_are_as_specified():
    """The numbers that the whole comparison stands on, against sums typed independently."""
    papers = pd.read_csv(ROOT / "results/papers/dismax_table2.csv")
    assert len(papers) == 33 and set(papers.id_dataset) == {"cifar10", "cifar100"} and papers.source.notna().all()
    row = papers[(papers.id_dataset == "cifar100") & (papers.model == "wideresnet2810")
                 & (papers.method == "dismax_fpr")].iloc[0]
    assert (row.acc, row.ece, row.near_aupr, row.tinyimagenet_auroc, row.lsun_auroc, row.svhn_aupr) == (
        83.0, 0.0143, 76.0, 99.4, 99.6, 97.0)
    assert papers[papers.method == "dismax"][["id_dataset", "model"]].values.tolist() == [["cifar10", "densenetbc100"]]
    assert papers.groupby("method").size().to_dict() == {"softmax": 6, "isomaxplus": 6, "dismax": 1, "dismax_fpr": 5}
    imagenet = pd.read_csv(ROOT / "results/papers/dismax_imagenet.csv")
    assert imagenet[["acc", "imagenet_o_auroc"]].values.tolist() == [[69.9, 52.4], [69.6, 75.8]]


def test_the_report_is_a_page_with_pictures(results_dir):
    script("analyze.py", "--results-dir", results_dir, "--report")
    page = (results_dir / "report.html").read_text()
    pictures = re.findall(r'<img src="([^"]+)"', page)
    assert len(pictures) == 5 and page.count("<table>") == 4 and "SHORTENED" in page and "DisMax†" in page
    for picture in pictures:
        assert (results_dir / picture).read_bytes().startswith(b"\x89PNG")


def test_no_runs_says_what_to_type(tmp_path):
    done = script("analyze.py", "--results-dir", tmp_path, check=False)
    assert done.returncode == 1 and "make demo" in done.stderr and "Traceback" not in done.stderr


def test_every_set_of_a_benchmark_has_a_title_of_its_own():
    """A column's head: not the name in the code, and no other set's."""
    used = {name for table in (OUTLIERS, OPENOOD) for inside, groups in table.items()
            for name in (inside, *(outside for names in groups.values() for outside in names))}
    titles = [title_of(name) for name in used]
    assert len(set(titles)) == len(titles) > 15
    assert all(title.strip() and "_" not in title and title != name for name, title in zip(used, titles))
    assert (title_of("tinyimagenet_resize"), title_of("cifar100")) == ("TinyImageNet-r", "CIFAR-100")
