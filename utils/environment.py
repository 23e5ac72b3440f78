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
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
