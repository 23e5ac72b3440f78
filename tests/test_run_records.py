"""metrics.csv: what is written is read, and what was cut, doubled, emptied or made impossible is refused in words. And
what a run says of its steps."""
import hashlib
import math
from types import SimpleNamespace

import pytest

from engine.records import record_steps
from utils import run_dir
from utils.io import UserError

ROWS = [("dismax", "mnist", "id", "last", "", "accuracy", 0.5),
        ("dismax", "mnist", "id", "best", "", "images", 7, "a, b"),
        ("openood", "cifar10", "far", "best", "minmax", "auroc", 1.0)]


def test_what_is_written_is_read(tmp_path):
    run_dir.write_metrics(tmp_path, ROWS)
    assert run_dir.read_metrics(tmp_path) == [(*row, "")[:8] for row in ROWS]
    *lines, closing = (tmp_path / "metrics.csv").read_bytes().splitlines(keepends=True)
    assert lines[0] == b"benchmark,dataset,ood_group,checkpoint,score,metric,value,note\n"
    assert closing.decode() == f",,,,,rows,3,sha256:{hashlib.sha256(b''.join(lines)).hexdigest()}\n"
    run_dir.write_metrics(tmp_path, [])
    assert run_dir.read_metrics(tmp_path) == []


@pytest.mark.parametrize("damage", [
    lambda text: "",
    lambda text: text[:-1],
    lambda text: text[: len(text) // 2],
    lambda text: "\n".join(text.splitlines()[:-1]) + "\n",
    lambda text: text + text,
    lambda text: text + text.splitlines()[-1] + "\n",
    lambda text: text.replace("0.5", "0.6"),
    lambda text: "\n".join(line for line in text.splitlines() if "minmax" not in line) + "\n",
    lambda text: text.replace("ood_group", "group"),
    lambda text: text.replace("\n", "\r\n"),
    lambda text: '"' + text,
    lambda text: text.replace("mnist", "mn\0ist"),
    lambda text: "\n" * 5,
    lambda text: "a" * 200_000,
    lambda text: text.split("\n")[0] + "\n",
])
def test_a_damaged_file_is_refused(tmp_path, damage):
    run_dir.write_metrics(tmp_path, ROWS)
    path = tmp_path / "metrics.csv"
    path.write_bytes(damage(path.read_text()).encode())
    with pytest.raises(UserError, match="Evaluate the run again: python evaluate.py"):
        run_dir.read_metrics(tmp_path)


def test_bytes_that_are_no_text_are_refused_and_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_dir.read_metrics(tmp_path)
    (tmp_path / "metrics.csv").write_bytes(bytes(range(256)) * 10)
    with pytest.raises(UserError, match="damaged or empty"):
        run_dir.read_metrics(tmp_path)


@pytest.mark.parametrize("metric, value", [
    ("accuracy", 1.01), ("auroc", -0.1), ("aupr_out_published", 1.5), ("fpr95", math.nan), ("ece_as_published", 2),
    ("brier", 2.1), ("nll_published", -1), ("nll", math.inf), ("images", -1), ("temperature_as_published", -1),
    ("anything", math.nan)])
def test_what_cannot_be_is_neither_written_nor_read(tmp_path, metric, value):
    with pytest.raises(UserError, match=f"{metric} of mnist is .*, which is impossible"):
        run_dir.write_metrics(tmp_path, [("dismax", "mnist", "id", "last", "", metric, value)])
    assert not (tmp_path / "metrics.csv").exists()
    seal(tmp_path, f"dismax,mnist,id,last,,{metric},{value},\n")
    with pytest.raises(UserError, match="which is impossible"):
        run_dir.read_metrics(tmp_path)


def seal(run, lines):
    """A file with a closing row that fits, whatever stands before it."""
    lines = f"{','.join(run_dir.METRIC_COLUMNS)}\n{lines}"
    count, digest = lines.count("\n") - 1, hashlib.sha256(lines.encode()).hexdigest()
    (run / "metrics.csv").write_text(f"{lines},,,,,rows,{count},sha256:{digest}\n")


@pytest.mark.parametrize("lines, message", [
    (2 * "dismax,mnist,id,last,,accuracy,0.5,\n", "a row twice"),
    ("dismax,mnist,id,first,,accuracy,0.5,\n", "unknown checkpoint 'first'"),
    ("dismax,mnist,id,last,,accuracy,half,\n", "an invalid row"),
    ("dismax,mnist,id,last\n", "an invalid row"),
])
def test_rows_that_are_none_are_refused(tmp_path, lines, message):
    seal(tmp_path, lines)
    with pytest.raises(UserError, match=message):
        run_dir.read_metrics(tmp_path)


def test_an_area_of_one_may_be_one_and_a_rounding_error(tmp_path):
    run_dir.write_metrics(tmp_path, [("dismax", "mnist", "id", "last", "", "auroc", 1 + 2e-16)])
    assert run_dir.read_metrics(tmp_path)[0][6] == 1 + 2e-16


def test_a_run_says_when_graphs_could_be_asked_for(tmp_path, capsys):
    """PyTorch before 2.13 on a GPU: one line, once a session. Where there can be no graph, none."""
    run = SimpleNamespace(folder=tmp_path)
    for status, said in (("eager: PyTorch 2.11.0 does not recover from a capture that fails; --graphs tries it", True),
                         ("eager: they need a CUDA device", False)):
        config = record_steps(run, {"sessions": [{"graphs": False}]}, status)
        assert record_steps(run, config, status) is config and config["sessions"][0]["steps"] == status
        assert ("--graphs tries it" in capsys.readouterr().out) == said


def test_every_session_says_what_its_steps_were(results_dir):
    for run in results_dir.glob("digits/lenet/*/seed*"):
        for session in run_dir.read_json(run / "config.json")["sessions"]:
            assert session["steps"] == "eager: CUDA graphs need a CUDA device" and session["graphs"] is False
