"""Put tables into README files from the files that they come from: python reporting/readme.py README.md …

What stands between `<!-- table: path -->` and `<!-- end -->` is replaced by the tables of that Markdown file, without
its headings and explanations. `make tables` does it for all; a test compares.
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text):
    """The text with every block made anew. FileNotFoundError when a block names a file that is not there."""
    return BLOCK.sub(lambda match: match[1] + tables_of(ROOT / match[2]) + match[3], text)


def tables_of(path):
    """The lines of a Markdown file's tables, without padding, an empty line between two tables."""
    tables = re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE)
    return "\n".join(re.sub(r"-{3,}", "---", re.sub(" {2,}", " ", table)) for table in tables)


def main():
    for name in sys.argv[1:]:
        path = ROOT / name
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
