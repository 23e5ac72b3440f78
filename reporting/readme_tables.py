"""Update the tables in Markdown documents: python reporting/readme_tables.py README.md …

What stands between `<!-- table: SOURCE -->` and `<!-- end -->` is replaced by the tables of SOURCE. It is a Markdown
file, of which headings and explanations are left out, or a Python file, whose function `markdown()` gives the text.
With `<!-- table and notes: SOURCE -->` each table of a Markdown file keeps the line right under it, which says what it
is made of. `make tables` does it for all; a test compares.
"""
import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table(?P<notes> and notes)?: (?P<source>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLE = re.compile(r"(?P<table>(?:^\|.*\n)+)(?:\n(?P<note>[^|#\n].*\n))?", re.MULTILINE)


def filled(text):
    """The text with every block made anew. FileNotFoundError when a block names a file that is not there."""
    return BLOCK.sub(lambda match: match[1] + content_of(match["source"], bool(match["notes"])) + match[4], text)


def content_of(source, notes=False):
    """What a block shows of a file that is named from the root of the repository."""
    if source.endswith(".py"):
        return importlib.import_module(source.removesuffix(".py").replace("/", ".")).markdown()
    return tables_of(ROOT / source, notes)


def tables_of(path, notes=False):
    """The lines of a Markdown file's tables, without padding, and with `notes` the line under each; an empty line
    between two of them."""
    parts = []
    for match in TABLE.finditer(path.read_text("utf-8")):
        parts.append(re.sub(r"-{3,}", "---", re.sub(" {2,}", " ", match["table"])))
        parts += [match["note"]] if notes and match["note"] else []
    return "\n".join(parts)


def main():
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.path[0] = str(ROOT)  # run as a script: our packages, and not reporting/html.py in the place of Python's
    for name in sys.argv[1:]:
        path = ROOT / name
        path.write_text(filled(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
