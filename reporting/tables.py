"""A table in five forms: on the terminal, as Markdown, LaTeX and HTML, and its numbers as CSV.

Whatever comes from a run's files (names, devices, notes) is escaped for the form that it is written in.
"""
import csv
import html
import io
import math
import os
import re
import shutil
import sys
import textwrap
from dataclasses import dataclass, field
from typing import NamedTuple

from tabulate import tabulate

from utils.io import write_text

LATEX = str.maketrans({
    "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
    "Δ": r"$\Delta$", "−": "$-$", "†": r"$\dagger$", "–": "--", "τ": r"$\tau$", "×": r"$\times$", "≤": r"$\leq$",
    "·": r"$\cdot$", "²": "$^2$", "√": r"$\surd$"})
ASCII = str.maketrans({"±": "+-", "Δ": "delta", "−": "-", "†": "+", "–": "-", "τ": "tau", "×": "x", "≤": "<=", "·": "*",
                       "²": "^2", "√": "sqrt", "…": "..."})
MARKDOWN = re.compile(r"[\\`|<>\[\]$&]|(?<!\w)_|_(?!\w)|\*(?=\S)|(?<=\S)\*")


class Section(NamedTuple):
    """One table of a page, of one network as a rule."""

    name: str
    headers: list
    rows: list  # of lists of strings
    note: str = ""  # what these rows are made of


@dataclass
class Table:
    """What belongs on one page and in one set of files."""

    name: str  # of its files
    title: str
    sections: list
    legend: str  # what the reader must know; an indented line goes on the one before
    tidy: list = field(default_factory=list)  # the numbers, a dict per row
    shown: bool = True  # on the terminal


def publish(table, folder):
    """Write a table to folder/<name>.csv, .md and .tex, print it if it is to be shown, and return it as HTML."""
    if table.shown:
        print(printable(terminal(table, terminal_width())))
    write_text(folder / f"{table.name}.csv", as_csv(table.tidy))
    write_text(folder / f"{table.name}.md", as_markdown(table))
    write_text(folder / f"{table.name}.tex", as_latex(table))
    return as_html(table)


def as_csv(rows):
    """Comma-separated; of numbers that do not exist (NaN) nothing."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if isinstance(value, float) and math.isnan(value) else value
                          for name, value in row.items()} for row in rows)
    return text.getvalue()


def as_markdown(table):
    parts = [f"## {in_markdown(name)}\n\n{drawn(headers, rows, in_markdown, 'github')}\n\n{in_markdown(note)}\n"
             for name, headers, rows, note in table.sections]
    return "\n".join([f"# {in_markdown(table.title)}\n", *parts, paragraphs(table.legend)]) + "\n"


def as_latex(table):
    return "\n".join(f"% {one_line(f'{table.title}, {name}. {note}')}\n{drawn(headers, rows, in_latex, 'latex_raw')}\n"
                     for name, headers, rows, note in table.sections)


def as_html(table):
    anchor = html.escape(table.name, quote=True)
    parts = [f'<h3 id="{anchor}">{html.escape(one_line(table.title))}</h3>']
    for name, headers, rows, note in table.sections:
        parts.append(f'<h4>{html.escape(one_line(name))}</h4><div class="table" tabindex="0">'
                     f"{drawn(headers, rows, one_line, 'html')}</div><p>{html.escape(one_line(note))}</p>")
    legend = "".join(f"<p>{html.escape(line)}</p>" for line in paragraphs(table.legend).split("\n\n"))
    return "\n".join([*parts, f'<details class="legend"><summary>Legend</summary>{legend}</details>'])


def drawn(headers, rows, escape=str, form="simple"):
    """The cells in one of tabulate's forms."""
    cells = [[escape(cell) for cell in row] for row in rows]
    return tabulate(cells, [escape(cell) for cell in headers], tablefmt=form, disable_numparse=True)


# ---- on the terminal ----

def terminal_width():
    """Columns of the terminal, or of the environment's COLUMNS; None where the output goes to a file."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size().columns
    return None


def printable(text):
    """The text for standard output: of a terminal or file that is not UTF-8 only ASCII, which every one shows."""
    if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8":
        return text
    return text.translate(ASCII).encode("ascii", "replace").decode()


def terminal(table, width=None):
    """The table as text; one that is wider than `width` in several pieces, each with the first two columns."""
    parts = []
    for name, headers, rows, note in table.sections:
        pieces = "\n\n".join(pieces_of([one_line(cell) for cell in headers],
                                       [[one_line(cell) for cell in row] for row in rows], width))
        parts.append(f"\n{one_line(f'{table.title}, {name}')}\n\n{pieces}\n\n{wrapped(one_line(note), width)}")
    legend = "\n".join(wrapped(line, width) for line in paragraphs(table.legend).split("\n\n"))
    return "\n".join([*parts, f"\n{legend}\n"])


def pieces_of(headers, rows, width):
    """The columns in as few pieces as fit."""
    def piece(columns):
        return drawn([headers[k] for k in columns], [[row[k] for k in columns] for row in rows])

    first, rest = [0, 1], list(range(2, len(headers)))
    while rest:
        taken = len(rest)
        while width and taken > 1 and max(map(len, piece(first + rest[:taken]).splitlines())) > width:
            taken -= 1
        yield piece(first + rest[:taken])
        rest = rest[taken:]


def wrapped(line, width):
    return textwrap.fill(line, width, subsequent_indent="  ") if width else line


# ---- escaping ----

def one_line(text):
    """Without line ends and control characters, which a name from a file may have."""
    return re.sub(r"\s+", " ", "".join(letter if letter.isprintable() else " " for letter in str(text))).strip()


def in_markdown(text):
    return MARKDOWN.sub(lambda match: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[0], f"\\{match[0]}"),
                        one_line(text))


def in_latex(text):
    return one_line(text).translate(LATEX)


def paragraphs(legend):
    """Each line a paragraph; a line that is indented goes on the one before."""
    return legend.strip().replace("\n  ", " ").replace("\n", "\n\n")
