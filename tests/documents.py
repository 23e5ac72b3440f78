"""Code blocks of our Markdown files, and a copy of the repository to run them in."""
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)


class CodeBlock(NamedTuple):
    file: str
    heading: str  # the nearest one above
    language: str
    code: str


def code_blocks(name):
    """The fenced blocks of a Markdown file, named from the root of the repository, in order."""
    text = (ROOT / name).read_text()
    headings = [(match.start(), match[1]) for match in HEADING.finditer(text)]
    return [CodeBlock(name, next((title for at, title in reversed(headings) if at < match.start()), ""),
                      match[1], match[2]) for match in BLOCK.finditer(text)]


def commands(block):
    """The command lines of a shell block, as lists of words without comments; backslashes join lines."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def copy_repository(folder):
    """A clean copy of the repository, without prepared sets, runs and tests, in a folder that is not there yet."""
    def left_out(path, names):
        kept = {ROOT / "data": ("sources",), ROOT / "results": ("papers", "reference")}.get(Path(path))
        return [name for name in names if name in (".git", ".venv", "tests", "__pycache__", "build")
                or kept and name not in kept and (Path(path) / name).is_dir()]

    shutil.copytree(ROOT, folder, ignore=left_out)
