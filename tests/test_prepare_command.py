"""prepare.py as people call it: plan, exit status, verification, the shell commands; and the table in docs/data.md."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT, put, script
from test_prepare import cifar_batches

from data import prepare
from data.datasets import CATALOG
from data.sources import readme_table
from data.sources.registry import SOURCES
from data.sources.sklearn_digits import MAKERS


def test_unknown_names_list_the_valid_ones():
    done = script("data/prepare.py", "cifar", check=False)
    assert done.returncode == 1
    assert "unknown data set 'cifar': choose from cifar10, cifar100, svhn" in done.stderr
    done = script("data/prepare.py", "mnist", "--mirror", "/no/such/folder", check=False)
    assert done.returncode == 1 and "the mirror /no/such/folder is not a folder" in done.stderr


def command(monkeypatch, capsys, *words):
    """The exit status and the output of prepare.py, in this process."""
    monkeypatch.setattr("sys.argv", ["prepare.py", *map(str, words)])
    try:
        prepare.main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code
    return status, capsys.readouterr().out


def test_the_plan_says_what_how_big_from_where_and_does_nothing(tmp_path, official, monkeypatch, capsys):
    put(tmp_path / "mirror", official("cifar10", cifar_batches()[2]), SOURCES["cifar10"].archive.path)
    status, said = command(monkeypatch, capsys, "cifar10", "svhn", "textures", "ssb_hard", "--dry-run", "--mirror",
                           tmp_path / "mirror", "--data-dir", tmp_path / "data")
    assert status == 0 and not (tmp_path / "data").exists()
    for words in (f"{tmp_path}/mirror/cifar-10-python.tar.gz", "246 MB", "https://ufldl.stanford.edu/housenumbers",
                  "625 MB", "non-commercial use; cite Netzer", "by hand", "To download: at most 872 MB"):
        assert words in said


def test_without_names_everything_that_is_there_is_prepared(tmp_path, official, monkeypatch, capsys):
    put(tmp_path / "mirror", official("cifar10", cifar_batches()[2]), SOURCES["cifar10"].archive.path)
    words = ("--mirror", tmp_path / "mirror", "--data-dir", tmp_path / "data")
    status, said = command(monkeypatch, capsys, *words)
    assert status == 1 and "tests do not use the internet" in said, "what could be downloaded is asked for, too"
    assert "cifar10_c      test   missing: in no mirror, and too large to be downloaded unless it is named" in said
    assert "ssb_hard             OpenOOD keeps it on Google Drive" in said
    assert {p.parent.name for p in (tmp_path / "data").glob("*/manifest.json")} == {"cifar10", *MAKERS}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    assert command(monkeypatch, capsys, *words)[0] == 1
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}, "what is whole is left alone"
    assert command(monkeypatch, capsys, "--benchmark", "dismax", "--for", "cifar10", *words)[0] == 1
    assert command(monkeypatch, capsys, "cifar10", "--for", "digits", *words)[0] == 0


def test_verify_reads_everything_again(tmp_path, official, monkeypatch, capsys):
    put(tmp_path, official("cifar10", cifar_batches()[2]), SOURCES["cifar10"].archive.path)
    words = ("cifar10", "digits_789", "--data-dir", tmp_path / "data")
    command(monkeypatch, capsys, *words, "--mirror", tmp_path)
    assert command(monkeypatch, capsys, "--verify", *words) == (0, "cifar10        as it was prepared (2 checksums)\n"
                                                                "digits_789     as it was prepared (1 checksums)\n")
    path = tmp_path / "data/cifar10/train.npz"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    status, said = command(monkeypatch, capsys, "--verify", *words)
    assert status == 1
    assert "cifar10        DAMAGED: train.npz. Prepare it again: python data/prepare.py cifar10 --fresh" in said
    command(monkeypatch, capsys, *words, "--mirror", tmp_path, "--fresh")
    assert command(monkeypatch, capsys, "--verify", *words)[0] == 0


def test_verify_says_what_is_not_there(tmp_path, monkeypatch, capsys):
    words = ("--verify", "--data-dir", tmp_path)
    assert command(monkeypatch, capsys, *words) == (0, f"No set is prepared in {tmp_path}\n")
    command(monkeypatch, capsys, "--for", "digits", "--data-dir", tmp_path)
    status, said = command(monkeypatch, capsys, *words, "digits", "mnist")
    assert status == 1 and "digits         as it was prepared" in said
    assert f"mnist          is not prepared in {tmp_path}. Prepare it: python data/prepare.py mnist" in said
    assert command(monkeypatch, capsys, *words)[0] == 0, "nobody asked for mnist"
    (tmp_path / "imagenet1k/val").mkdir(parents=True)
    assert command(monkeypatch, capsys, *words, "imagenet1k") == (
        0, "imagenet1k     is your own: there is no record to compare it with\n")


@pytest.mark.parametrize("name, sets", [
    ("mnist", ["mnist", "fashion_mnist", "notmnist"]), ("cifar", ["cifar100", "svhn", "lsun_resize", "textures"]),
    ("imagenet", ["imagenet1k", "imagenet_o", "ninco"])])
def test_shell_commands_work_from_anywhere(name, sets, tmp_path):
    done = subprocess.run([ROOT / f"data/prepare_{name}.sh", "--dry-run", "--data-dir", tmp_path], cwd=tmp_path,
                          check=True, capture_output=True, text=True, env=os.environ | {"PY": sys.executable})
    assert set(sets) <= {line.split(" ")[0] for line in done.stdout.splitlines()}


def test_the_documentation_has_the_table_of_the_catalog():
    table = readme_table.markdown()
    assert all(f"| `{name}` " in table for name in CATALOG)
    assert table in (ROOT / "docs/data.md").read_text(), "type `make tables`"


