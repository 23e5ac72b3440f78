"""The installed packages are `dismax` and `sdde` and need only torch."""
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT


def test_the_wheel_is_dismax_and_sdde_and_needs_only_torch(tmp_path):
    pytest.importorskip("setuptools")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
                    "--wheel-dir", tmp_path / "wheels", "."], cwd=copy_of_the_tree(tmp_path), check=True)
    wheel, = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist() if ".dist-info" not in name} == {"dismax", "sdde"}
        archive.extractall(tmp_path / "installed")
    code = ("import sys, torch; before = set(sys.modules); import sdde; "
            "print(sorted({m.split('.')[0] for m in set(sys.modules) - before})); "
            "print(sdde.NCLDiversityLoss()(logits=torch.zeros(2, 1, 3)).item() == 0); "
            "import dismax; print(dismax.LOSSES.keys())")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True)
    assert done.stdout.splitlines()[:2] == ["['sdde']", "True"] and "dismax_fpr" in done.stdout, done.stderr


def copy_of_the_tree(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "losses", tree / "losses", ignore=shutil.ignore_patterns("__pycache__"))
    return tree
