"""Imports run down only: what a room may know of. Read from the source, not from what happens to be imported."""
import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# room → the rooms that it may import from, beside itself. losses, metrics, models and data know nothing of each other
BELOW = {
    "utils": (),
    "losses": (),
    "metrics": ("utils",),
    "models": ("utils",),
    "data": ("utils",),
    "recipes": ("utils",),
    "engine": ("utils", "data", "losses", "metrics", "models", "recipes"),
    "reporting": ("utils", "data", "metrics", "recipes"),
    "benchmarks": ("utils", "data", "losses", "metrics", "models", "recipes", "engine"),
    "run_scripts": ("utils", "data", "recipes", "reporting", "losses", "detect"),
}
OURS = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}


def imports(path):
    """The modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] in OURS)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in OURS:
            yield from {f"{node.module}.{name.name}" for name in node.names}


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_imports_run_down_only():
    wrong = []
    for room, below in BELOW.items():
        for path in sources(room) or [ROOT / f"{room}.py"]:
            wrong += [f"{path.relative_to(ROOT)} imports {module}" for module in imports(path)
                      if module.split(".")[0] not in (room, *below)]
    assert not wrong


def test_every_room_has_its_rule():
    rooms = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.rglob("*.py") if path.parent != ROOT
             and not any(part.startswith(".") or part == "build" for part in path.relative_to(ROOT).parts)}
    assert rooms - {"tests", "examples", "docs"} <= set(BELOW)


def test_only_prepare_acquires_data():
    """What serves data (and everything above) does not import what fetches it."""
    users = [path for path in [*sources(*BELOW), *ROOT.glob("*.py")]
             if (ROOT / "data/sources") not in path.parents and path.exists()]
    found = {str(path.relative_to(ROOT)) for path in users
             if any(module.startswith("data.sources") for module in imports(path))}
    assert found == {"data/prepare.py"}


def test_nobody_imports_a_command_of_data():
    commands = ("data.prepare", "data.sources.readme_table")
    assert not [path for path in [*sources(*BELOW), *ROOT.glob("*.py")] if path.exists()
                for module in imports(path) if module.startswith(commands)]


@pytest.mark.parametrize("module, unwanted", [
    ("data.loaders", ("torchvision", "sklearn", "matplotlib", "scipy", "pandas", "data.sources")),
    ("data.openood", ("torch", "torchvision", "sklearn", "matplotlib", "scipy")),
    ("data.prepare", ("torch", "torchvision", "sklearn", "matplotlib")),
    ("data.datasets", ("numpy", "torch", "PIL")),
])
def test_what_is_slow_to_import_is_imported_when_it_is_needed(module, unwanted):
    found = subprocess.run([sys.executable, "-c", f"import {module}, sys; print(*sys.modules)"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split()
    assert not [name for name in unwanted if name in found]
