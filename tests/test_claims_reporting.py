"""What the smaller parts of the report say: model card, tables in documents, corruption, status, OOD sets."""
import math
from types import SimpleNamespace

import pytest
from in_memory import in_memory

from reporting import corrupted, model_card, ood_sets, readme_tables, status

DETECTION = {"size": 28, "score": "MPS", "threshold": 0.123456789, "reject_rate": 0.05, "temperature": 1.23456789}
RECIPE = SimpleNamespace(as_dict=lambda: {"epochs": 3, "lr": 0.1})


def card(dataset="mnist", model="lenet", name="de", rows=(), graphs=(), **config):
    run = SimpleNamespace(dataset=dataset, model=model, name=name, seed=4, recipe=RECIPE)
    rows = [(*row, "")[:8] for row in rows]
    return model_card.model_card(run, {"num_classes": 10, **config}, rows, {"images": 1234}, DETECTION, graphs)


# ---- model card ----

def test_a_model_card_names_the_run_and_says_how_it_was_trained():
    said = card(graphs=["model.onnx"])
    assert said.startswith("# LeNet with DE on MNIST\n\n10 classes, seed 4.")
    assert "Score: MPS;\nimages below 0.123457 are rejected, which are 5 % of the\nin-distribution" in said
    assert "Temperature: 1.23457." in said and "on 1,234 test images of MNIST" in said
    assert "resized to 28×28 pixels" in said and "- epochs: 3\n- lr: 0.1\n" in said
    assert "- `model.onnx`: uint8 images (N, 3 or 1, 28, 28) → logits" in said
    assert "The published recipe." in said and "uint8" not in card()


def test_a_model_card_says_whether_a_paper_trains_the_network():
    assert "no paper trains this network here" in card(model="resnet20", dataset="cifar10", name="softmax")
    assert "no paper trains this network here" in card(dataset="digits", name="softmax")  # a block of ours
    said = card(overrides={"lr": {"used": 0.2, "published": 0.1}, "epochs": {"used": 3, "published": 50}})
    assert "Changed from the recipe in recipes.py: lr 0.2 instead of 0.1, epochs 3 instead of 50." in said
    assert "The published recipe" not in said


def test_a_network_is_published_on_the_set_that_a_paper_trains_it_on():
    def published(dataset, model):
        return model_card.is_published(SimpleNamespace(dataset=dataset, model=model))
    assert published("cifar10", "resnet34") and published("mnist", "lenet") and published("imagenet1k", "resnet50")
    assert not published("mnist", "resnet34") and not published("cifar10", "lenet")
    assert not published("digits", "lenet") and not published("cifar10", "resnet20")


def test_a_model_card_has_the_metrics_of_the_last_epoch_and_the_scores_of_the_papers():
    inside, far = ("openood", "mnist", "id", "last", ""), ("openood", "cifar10", "far", "last")
    rows = [(*inside, "accuracy", 0.98765), ("openood", "mnist", "id", "best", "", "nll", 7.5),
            (*inside, "ece_uncalibrated", 0.01), (*inside, "nll", 0.5), (*inside, "images", 99),
            (*far, "", "accuracy", 0.111), (*far, "average", "auroc", 0.9), (*far, "minmax", "auroc", 0.8),
            (*far, "average", "fpr95", 0.7), (*far, "average", "aupr_in", 0.6),
            ("dismax", *far[1:], "MPS", "auroc", 0.5), ("dismax", *far[1:], "MDS", "auroc", 0.4)]
    cells = [[word.strip() for word in line.strip("|").split("|")] for line in card(rows=rows).splitlines()
             if line.startswith("| ")]
    assert cells == [["benchmark", "metric", "value"], ["openood", "accuracy", "0.9877"],
                     ["openood", "ece_uncalibrated", "0.01"], ["openood", "nll", "0.5"],
                     ["benchmark", "OOD set", "group", "score", "metric", "value"],
                     ["openood", "cifar10", "far", "average", "auroc", "0.9"],
                     ["openood", "cifar10", "far", "average", "fpr95", "0.7"],
                     ["dismax", "cifar10", "far", "MPS", "auroc", "0.5"]]
    assert card().count("Not measured.") == 2


@pytest.mark.parametrize("dataset, name, benchmark, scores", [
    ("mnist", "de", "openood", ("average",)), ("mnist", "gradcam", "openood", ("minmax",)),
    ("imagenet1k", "gradcam", "openood", ("logit-average",)), ("mnist", "softmax", "openood", ("logit-average",)),
    ("mine", "gradcam", "openood", ("logit-average",)), ("mnist", "de", "dismax", ("MMLES",))])
def test_a_model_card_shows_the_score_of_the_release(dataset, name, benchmark, scores):
    assert model_card.shown_scores(SimpleNamespace(dataset=dataset, name=name), "MMLES", benchmark) == scores


# ---- tables in documents ----

def test_the_named_documents_get_their_tables(tmp_path, monkeypatch):
    """All of them, relative to the root; and without a name there is an explanation."""
    (tmp_path / "t.md").write_text("# no\n\n| a   | b |\n|-----|---|\n| 1   | 2 |\n\na note\n\n| c |\n|---|\n\ntext\n")
    for name, words in (("one.md", "table"), ("two.md", "table and notes")):
        (tmp_path / name).write_text(f"before\n<!-- {words}: t.md -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(readme_tables, "ROOT", tmp_path)
    monkeypatch.setattr(readme_tables.sys, "path", ["elsewhere", *readme_tables.sys.path])
    monkeypatch.setattr(readme_tables.sys, "argv", ["readme_tables.py", "one.md", "two.md"])
    readme_tables.main()
    assert readme_tables.sys.path[0] == str(tmp_path)
    first, second = "| a | b |\n|---|---|\n| 1 | 2 |\n", "| c |\n|---|\n"
    assert (tmp_path / "one.md").read_text() == (
        f"before\n<!-- table: t.md -->\n{first}\n{second}<!-- end -->\nafter\n")
    assert (tmp_path / "two.md").read_text() == (
        f"before\n<!-- table and notes: t.md -->\n{first}\na note\n\n{second}\ntext\n<!-- end -->\nafter\n")
    for words in ([], ["--help"]):
        monkeypatch.setattr(readme_tables.sys, "argv", ["readme_tables.py", *words])
        with pytest.raises(SystemExit, match="Update the tables"):
            readme_tables.main()


# ---- corruption ----

def corrupted_run(method="de", seed=1, shift=0.0, changed="", notes=()):
    """Severities 1 and 5: two test corruptions and a validation one, which is not counted."""
    inside = ("openood", "cifar10", "id", "best", "")
    rows = [(*inside, "images", 9000), (*inside, "accuracy", 0.95), (*inside, "nll", 0.2),
            (*inside, "nll_clean_temperature", 0.9), ("openood", "cifar10", "id", "last", "", "accuracy", 0.11)]
    rows[0] = (*rows[0], dict(notes).get("clean", ""))
    for severity in (1, 5):
        for name, value in (("cifar10_fog", 0.8), ("cifar10_frost", 0.6), ("cifar10_speckle_noise", 0.1)):
            place = "openood", name, f"corrupted_{severity}", "best", ""
            rows += [(*place, "images", 9000, dict(notes).get(name, "")), (*place, "nll", 1 + severity),
                     (*place, "accuracy", value + shift - severity / 100),
                     (*place, "nll_clean_temperature", 2 + severity)]
    return in_memory(method, seed, rows, "cifar10", "resnet18_32x32", changed)


def test_corruptions_are_averaged_without_the_validation_ones():
    elsewhere = in_memory("de", 2, [("openood", "fog", "corrupted_1", "best", "", "images", 9)], "cifar100")
    rows = corrupted.rows_of("cifar10", [corrupted_run(), elsewhere])
    assert [row["severity"] for row in rows[::len(corrupted.METRICS)]] == [0, 1, 5]
    by = {(row["severity"], row["column"]): row for row in rows}
    assert by[0, "ACC (%)"]["value"] == pytest.approx(95) and by[0, "ACC (%)"]["corruptions"] == 0
    assert by[1, "ACC (%)"]["value"] == pytest.approx(69) and by[5, "ACC (%)"]["value"] == pytest.approx(65)
    assert by[5, "ACC (%)"]["corruptions"] == 2 and (by[5, "ACC (%)"]["seed"], by[5, "ACC (%)"]["method"]) == (1, "de")
    assert by[5, "NLL, own T"]["value"] == 6 and by[5, "NLL, clean T"]["value"] == 7
    assert [metric[2:] for metric in corrupted.METRICS.values()] == [(100, 2)] + [(1, 4)] * 7
    assert by[0, "NLL, clean T"]["value"] == 0.2, "of clean images both temperatures are the clean one"
    assert math.isnan(by[1, "Brier, own T"]["value"]) and by[1, "Brier, own T"]["corruptions"] == 0
    clean = in_memory("de", 1, [("openood", "svhn", "far", "best", "", "images", 9)], "cifar10")
    assert corrupted.rows_of("cifar10", [clean]) == []


def test_the_notes_of_corruptions_are_told_once_and_only_theirs():
    run = corrupted_run(notes={"cifar10_fog": "made here", "cifar10_frost": "another", "clean": "of the clean ones"})
    rows = corrupted.rows_of("cifar10", [run])
    assert {row["note"] for row in rows if row["severity"]} == {"another; made here"}
    assert {row["note"] for row in rows if not row["severity"]} == {"of the clean ones"}
    table, = corrupted.sections(rows)
    assert table.note == "another; made here."


def test_the_table_of_corruptions_has_a_line_per_severity_and_method():
    runs = [corrupted_run("gradcam"), corrupted_run(), corrupted_run(seed=2, shift=0.02)]
    table, = corrupted.sections(corrupted.rows_of("cifar10", runs))
    assert table.name == "ResNet18" and table.headers[:5] == ["severity", "method", "n", "corruptions", "ACC (%)"]
    assert [row[:5] for row in table.rows] == [
        ["0 (clean)", "DE", "2", "", "95.00 ± 0.00"], ["0 (clean)", "SDDE", "1", "", "95.00"],
        ["1", "DE", "2", "2", "70.00 ± 1.41"], ["1", "SDDE", "1", "2", "69.00"],
        ["5", "DE", "2", "2", "66.00 ± 1.41"], ["5", "SDDE", "1", "2", "65.00"]]
    assert table.rows[2][table.headers.index("Brier, own T")] == "–"
    assert table.rows[2][table.headers.index("NLL, own T")] == "2.0000 ± 0.0000" and table.note == ""
    changed, = corrupted.sections(corrupted.rows_of("cifar10", [corrupted_run(changed="lr 1 (published 2)")]))
    assert changed.note == "CHANGED RECIPE: lr 1 (published 2)."
    assert [row[1] for row in changed.rows] == ["DE"] * 3
    rows = [row for row in corrupted.rows_of("cifar10", runs) if row["severity"] in (0, 5)]
    table, = corrupted.sections(rows)
    assert [row[0] for row in table.rows] == ["0 (clean)", "0 (clean)", "5", "5"]


# ---- status ----

@pytest.mark.parametrize("network, done, total, said", [
    ("lenet", 3, 3, "done"), ("resnet34", 3, 3, "done"), ("resnet34", 2, 3, "needs a GPU"),
    ("resnet20", 0, 3, "not started"), ("lenet", 1, 3, "in progress")])
def test_the_state_of_a_block(network, done, total, said):
    assert status.state(network, done, total) == said


def test_blocks_of_one_network_are_one_row():
    rows = status.block_rows()
    heads = ["softmax", "isomax", "isomaxplus", "dismax", "dismax_fpr"]
    assert rows["", "digits", "lenet"] == {**dict.fromkeys(heads, 3), "de": 1, "gradcam": 1, "dismax-5-gradcam": 1}
    assert rows["sdde", "mnist", "lenet"] == dict.fromkeys(["de", "ncl", "adp", "dice", "gradcam"], 5)
    assert list(rows)[0] == ("dismax", "cifar10", "densenetbc100")


def test_the_status_counts_seeds_of_the_block_with_the_published_recipe(monkeypatch):
    runs = [in_memory(method, seed) for method, seeds in (("de", (1, 2, 3)), ("ncl", (1, 6)), ("oe", (1,)))
            for seed in seeds]
    runs += [in_memory("adp", 1, changed="lr 1 (published 2)"), in_memory("de", 1, dataset="digits"),
             in_memory("dismax", 1, dataset="digits"), in_memory("softmax", 1, dataset="cifar10", model="resnet20")]
    monkeypatch.setattr(status, "read_runs", lambda folder: SimpleNamespace(runs=runs))
    lines = [[word.strip() for word in line.strip("|").split("|")] for line in status.markdown().splitlines()]
    mnist = next(line for line in lines if line[0] == "SDDE, MNIST")
    assert mnist[:5] == ["SDDE, MNIST", "LeNet", "4 of 25", "1 to 3 of 5", "in progress"]
    digits = next(line for line in lines if line[0].startswith("ours, ") and line[1] == "LeNet")
    assert digits[2:] == ["2 of 18", "1 of 3", "in progress", "in neither paper"]
    wide = next(line for line in lines if line[1] == "WideResNet-28-10")
    assert wide[2:] == ["0 of 25", "0 of 5", "needs a GPU", "–"]
    assert status.markdown().endswith(" |\n")


# ---- each OOD set ----

def ood_run(method="de", seed=1, auroc=0.9, images=(100, ""), **more):
    rows = [("openood", name, group, "best", "", "images", *count) for name, group, count in (
        ("mnist", "id", (9,)), ("mnist", "validation", (9,)), ("fog", "corrupted_1", (9,)),
        ("textures", "far", images))]
    for score, shift in (("average", 0), ("logit-average", 0.01), ("minmax", 0.02)):
        rows += [("openood", "textures", "far", "best", score, "auroc", auroc + shift),
                 ("openood", "textures", "far", "best", score, "fpr95", 1 - auroc),
                 ("openood", "textures", "far", "last", score, "auroc", 0.123)]
    return in_memory(method, seed, rows, **more)


def test_each_ood_set_is_scored_by_the_releases_score_and_the_common_one():
    runs = [ood_run(), ood_run(seed=2, auroc=0.94), ood_run("gradcam"), ood_run(dataset="digits")]
    rows = ood_sets.rows_of("mnist", runs)
    assert [(row["method"], row["score"], row["n"]) for row in rows] == [
        ("de", "average", 2), ("de", "logit-average", 2), ("gradcam", "minmax", 1), ("gradcam", "logit-average", 1)]
    assert {(row["ood_group"], row["dataset"], row["images"], row["status"]) for row in rows} == {
        ("far", "textures", 100, "complete")}
    assert rows[0]["auroc"] == pytest.approx(92) and rows[0]["auroc_std"] == pytest.approx(math.sqrt(8))
    assert rows[0]["fpr95"] == pytest.approx(8) and rows[2]["auroc"] == pytest.approx(92)
    assert math.isnan(rows[2]["auroc_std"])


def test_seeds_with_other_images_have_lines_of_their_own():
    odd = (50, "50 images in place of 100")
    rows = ood_sets.rows_of("mnist", [ood_run(), ood_run(seed=2, images=odd), ood_run(seed=3)])
    assert [(row["images"], row["n"], row["status"]) for row in rows] == [
        (100, 2, "complete"), (100, 2, "complete"), (50, 1, "other"), (50, 1, "other")]
    table, = ood_sets.sections(rows)
    assert [row[:5] for row in table.rows] == [
        ["far: Textures", "100, complete", "DE", "average", "2"], ["", "", "DE", "logit-average", "2"],
        ["far: Textures", "50, other", "DE", "average", "1"], ["", "", "DE", "logit-average", "1"]]
    assert table.rows[0][5:] == ["90.00 ± 0.00", "10.00 ± 0.00"]
    assert table.note == "textures: 50 images in place of 100."
    assert ood_sets.status(ood_sets.UNVERIFIED) == "complete, unverified"


def test_what_a_method_is_scored_by_on_one_set():
    def own(method, group="far", dataset="cifar10", **more):
        return ood_sets.own_score(dataset, in_memory(method, dataset=dataset, **more), group)
    methods = ("softmax", "isomax", "isomaxplus", "dismax")
    assert [own(method) for method in methods] == ["average", "ES", "logit-average", "MMLES"]
    assert own("dismax", "near") == "average" and own("mine") == "average" and own("mine", members=5) == "logit-average"
    assert own("gradcam") == "minmax" and own("gradcam", score_files=True) == "own score"
