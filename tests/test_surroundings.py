"""Other locales, network disks, read-only folders, names that other programs take for more than names."""
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

from data.decode import UnreadableImage, read_rgb
from data.image_files import find_images
from utils import run_dir
from utils.io import UserError
from utils.run_record import check_record


def test_the_published_numbers_are_read_in_any_locale():
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "from reporting import papers; print(ascii([row['title'] for row in papers.dismax()]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert "DisMax\\u2020" in done.stdout, done.stderr


def test_no_script_reads_or_writes_text_in_the_encoding_of_the_locale():
    words = "import recipes, data.datasets, reporting.papers as p, utils.environment as e; p.dismax(); e.environment()"
    done = subprocess.run([sys.executable, "-X", "warn_default_encoding", "-c", words], cwd=ROOT, capture_output=True,
                          text=True)
    ours = [line for line in done.stderr.splitlines() if line.startswith(str(ROOT)) and "site-packages" not in line]
    assert done.returncode == 0 and not ours, ours


@pytest.mark.parametrize("name", ["#recycle", "@Recycle", "$Recycle.Bin", "#snapshot", "@tmp", "RECYCLER"])
def test_folders_of_network_disks_are_no_classes(tmp_path, name):
    for folder in ("cat", name, f"cat/{name}"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "a.png")
    assert find_images(tmp_path) == (["cat/a.png"], [])


def test_what_is_no_image_is_said_without_an_address_in_memory():
    with pytest.raises(UnreadableImage, match="^it is no image, or of an unknown kind$"):
        read_rgb(b"<html>")


def test_a_finished_run_on_a_read_only_disk_is_finished(results_dir, monkeypatch):
    import contextlib
    from pathlib import Path

    from engine import records

    def read_only(self, missing_ok=False):
        raise OSError(30, "Read-only file system", str(self))

    run, config = run_dir.load_run(results_dir / "digits/lenet/softmax/seed1")
    monkeypatch.setattr(Path, "unlink", read_only)
    with contextlib.ExitStack() as held:
        assert records.take_folder(run, config, False, "fail", held) is None


def test_a_damaged_calibration_asks_for_an_evaluation_and_not_for_a_training(tmp_path):
    from detect import RunReader

    (tmp_path / "calibration.json").write_text('{"last": {"temp')
    with pytest.raises(UserError, match=r"calibration.json is damaged .*\. Evaluate the run again"):
        RunReader.calibration(tmp_path, tmp_path / "weights.pt")


def test_a_record_that_would_fill_the_memory_is_refused(results_dir):
    config = run_dir.read_json(results_dir / "digits/lenet/softmax/seed1/config.json")
    check_record(config)
    with pytest.raises(ValueError, match="no number of pixels"):
        check_record({**config, "images": {**config["images"], "shorter_side": 100_000}})
    with pytest.raises(ValueError, match="num_classes is more than 1,000,000"):
        check_record({**config, "num_classes": 10**400})


def test_make_refuses_what_it_takes_for_a_variable(tmp_path):
    done = subprocess.run(["make", "-n", f"PY={sys.executable}", "DATASET=digits", f"RESULTS={tmp_path}/a=b", "runs"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "DATA and RESULTS must not contain" in done.stderr


@pytest.mark.parametrize("name", ["train", "evaluate", "detect", "analyze", "export"])
def test_ctrl_c_during_the_imports_ends_a_script_without_a_traceback(tmp_path, name):
    (tmp_path / f"{name}.py").write_text(f"import sys, signal\nsys.path.insert(0, {str(ROOT)!r})\n"
                                         "import utils.threads\n"
                                         "print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)")
    done = subprocess.run([sys.executable, tmp_path / f"{name}.py"], capture_output=True, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert done.stdout == "True\n", done.stderr


# ---- names of score files ----

def write_scores(folder, *names):
    import numpy as np

    for name in ("digits", *names):
        label = np.arange(20) % 7 if name == "digits" else np.full(20, -1)
        np.savez(f"{folder}/{name}.npz", pred=label, conf=np.linspace(0, 1, 20), label=label)


def test_hidden_files_are_no_score_files_and_names_that_no_figure_can_show_are_refused(tmp_path):
    from reporting.score_files import read_scores

    write_scores(tmp_path, "digits_789")
    (tmp_path / "._digits.npz").write_bytes(b"\0\5\26\7")  # macOS's
    assert read_scores("mine", tmp_path, 1).id_dataset == "digits"
    for name in ("caf\udce9", "lenet/caf\udce9"):
        with pytest.raises(UserError, match=r"caf\\udce9 is not UTF-8"):
            read_scores(name, tmp_path, 1)
    write_scores(tmp_path, "caf\udce9")
    with pytest.raises(UserError, match=r"caf\\udce9.npz is not UTF-8"):
        read_scores("mine", tmp_path, 1)


def test_a_dollar_in_a_name_is_no_formula(tmp_path):
    from matplotlib.figure import Figure

    from reporting.plots import save

    def draw():
        figure = Figure()
        figure.suptitle(r"a$\frac$, $^$")
        return figure

    save(tmp_path / "a.png", draw)
    assert (tmp_path / "a.png").exists()
