"""Put tables into README files from the files that they come from: python reporting/readme.py README.md …

What stands between `<!-- table: path -->` and `<!-- end -->` is replaced by the tables of that Markdown file, without
its headings and explanations; between `<!-- table and notes: path -->` and `<!-- end -->` each table keeps the line
right under it, which says what it is made of. `make tables` does it for all; a test compares.
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table(?P<notes> and notes)?: (?P<path>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLE = re.compile(r"(?P<table>(?:^\|.*\n)+)(?:\n(?P<note>[^|#\n].*\n))?", re.MULTILINE)


def filled(text):
    """The text with every block made anew. FileNotFoundError when a block names a file that is not there."""
    return BLOCK.sub(lambda match: match[1] + tables_of(ROOT / match["path"], bool(match["notes"])) + match[4], text)


def tables_of(path, notes=False):
    """The lines of a Markdown file's tables, without padding, and with `notes` the line under each; an empty line
    between two of them."""
    parts = []
    for match in TABLE.finditer(path.read_text()):
        parts.append(re.sub(r"-{3,}", "---", re.sub(" {2,}", " ", match["table"])))
        parts += [match["note"]] if notes and match["note"] else []
    return "\n".join(parts)


def main():
    for name in sys.argv[1:]:
        path = ROOT / name
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
