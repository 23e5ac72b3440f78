"""The versions of the code and of the libraries, on which numbers may depend besides the recipe."""
import importlib.metadata
import platform
import subprocess
from pathlib import Path


def environment():
    """What besides the recipe a number may depend on."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("torch", "torchvision", "numpy")},
    }


def _git(*words):
    try:
        here = Path(__file__).resolve().parents[1]
        said = subprocess.run(["git", *words], cwd=here, capture_output=True, check=True).stdout
        return said.decode("utf-8", "replace").strip()  # in any locale
    except (OSError, subprocess.CalledProcessError):
        return None
