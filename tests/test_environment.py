"""The files that make an environment, pip's, conda's, Docker's and the CI's, ask for the same packages and Pythons."""
import re
import subprocess
import sys
from fnmatch import fnmatch

import pytest
from conftest import ROOT

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = (ROOT / "requirements.txt").read_text().split()
OLDEST = tuple(map(int, re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()))


def pythons_in(name, pattern):
    found = re.findall(pattern, (ROOT / name).read_text())
    assert found, f"{name} names no Python"
    return {tuple(map(int, version.split("."))) for version in found}


def test_requirements_and_the_extra_of_the_scripts_are_one_list():
    assert [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["scripts"]] == REQUIREMENTS
    assert f"{PROJECT['name']}[scripts]" in PROJECT["optional-dependencies"]["dev"]


def test_every_requirement_has_one_lower_bound_and_no_other():
    """`make test-lowest` turns each >= into ==."""
    for line in (*REQUIREMENTS, *sum(PROJECT["optional-dependencies"].values(), [])):
        assert re.fullmatch(r"[\w-]+>=\d+(\.\d+)+", line) or line.startswith(PROJECT["name"]), line


def test_the_bound_of_a_package_is_the_same_in_every_extra():
    bounds = dict(line.split(">=") for line in REQUIREMENTS)
    for extra, lines in PROJECT["optional-dependencies"].items():
        for name, bound in (line.split(">=") for line in lines if ">=" in line):
            assert bounds.setdefault(name, bound) == bound, f"{extra}: {name}"


def test_every_python_that_a_file_names_is_allowed():
    used = {*pythons_in("environment.yml", r"python=(\d+\.\d+)"), *pythons_in("Dockerfile", r"FROM python:(\d+\.\d+)"),
            *pythons_in(".github/workflows/ci.yml", r'"(\d+\.\d+)"')}
    assert min(used) == OLDEST
    for name in ("README.md", "CONTRIBUTING.md"):
        assert pythons_in(name, r"Python (\d+\.\d+)") == {OLDEST}
    assert pythons_in("pyproject.toml", r'python_version = "(\d+\.\d+)"') == {OLDEST}


def test_condas_environment_is_what_pip_would_install():
    text = (ROOT / "environment.yml").read_text()
    name, = re.findall(r"^name: (.+)$", text, re.MULTILINE)
    assert f"conda activate {name}" in (ROOT / "CONTRIBUTING.md").read_text()
    assert re.findall(r"^ +- (-.+)$", text, re.MULTILINE) == ["-r requirements.txt", "-e .[dev]"]
    assert re.findall(r"^  - (\w+)", text, re.MULTILINE) == ["python", "make", "pip", "pip"]


def test_dockers_steps_install_what_is_required():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    installed = re.findall(r"pip install (.+?)(?: && |$)", text, re.MULTILINE)
    own_index, requirements, project = (line.replace("--no-cache-dir ", "") for line in installed)
    torch = [line.split(">=")[0] for line in REQUIREMENTS if line.startswith("torch")]
    assert own_index == f'--index-url "$TORCH" {" ".join(torch)}'
    assert requirements == "-r requirements.txt" and project == "-e '.[dev]'"
    assert "ENV PY=python3" in text  # else Make would make a second environment in the image


def test_the_image_has_every_file_of_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    patterns = [line for line in (ROOT / ".dockerignore").read_text().split() if not line.startswith("**/")]
    left_out = [path for path in listed.stdout.splitlines() if is_ignored(path, patterns)]
    assert not left_out


def is_ignored(path, patterns):
    """As Docker decides it: the last pattern that matches the path, or a folder above it, wins."""
    parts, ignored = path.split("/"), False
    for pattern in patterns:
        wanted = pattern.removeprefix("!").split("/")
        if len(wanted) <= len(parts) and all(fnmatch(part, glob) for part, glob in zip(parts, wanted)):
            ignored = not pattern.startswith("!")
    return ignored


def test_what_docker_ignores():
    patterns = (ROOT / ".dockerignore").read_text().split()
    for path in ("data/cifar10/test.npz", "data/downloads/x.tar", "results/digits/lenet/de/seed1/log.csv", ".git/HEAD"):
        assert is_ignored(path, patterns), path
