"""A table on the terminal, as Markdown, LaTeX, HTML and CSV: complete, escaped, and no wider than there is room."""
import csv
import re
import subprocess
import sys

import pytest
from conftest import ROOT, printed
from made_up import ensemble

from reporting.tables import Section, Table, as_csv, as_latex, as_markdown, in_latex, in_markdown, pieces_of

# ---- escaping ----

NASTY = "a|b`c <script>alert(1)</script> $x$ & _y_ *z* [l](m) \\ {q}\n# h \x1b[31m"


def test_what_comes_from_files_is_escaped_in_every_form(tmp_path):
    """A device and an override with every special character: one row stays one row, and nothing becomes markup."""
    ensemble(tmp_path, "de", 1, 0.9, overrides={"initial": {"published": "random", "used": NASTY}},
             sessions=[{"device": NASTY, "torch": "0", "commit": "0"}])
    said = printed(tmp_path, "--report")
    assert "\x1b" not in said
    text = (tmp_path / "tables/openood_mnist.md").read_text()
    assert "<script>" not in text and "\n# h" not in text and "&lt;script&gt;" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, "as many cells in every row"
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    tex = (tmp_path / "tables/openood_mnist.tex").read_text()
    assert all(line.startswith("%") or r"\textbackslash" in line for line in tex.splitlines() if "alert(1)" in line)
    body = re.sub(r"\\[&%$#_{}]", "", "\n".join(line for line in tex.splitlines() if not line.startswith("%")))
    assert "#" not in body and not re.search(r"(?<!\$)\$(?=x)", body)


@pytest.mark.parametrize("text, expected", [
    ("a_b", "a_b"), ("_a_", r"\_a\_"), ("98.2 *", "98.2 *"), ("*a*", r"\*a\*"), ("a|b", r"a\|b"), ("a\nb", "a b"),
    ("a < b & c", "a &lt; b &amp; c"), ("`x` [y]", r"\`x\` \[y\]"), ("$1", r"\$1"), ("\\", "\\\\")])
def test_markdown_is_escaped(text, expected):
    assert in_markdown(text) == expected


def test_latex_is_escaped():
    assert in_latex("a_b & 50 % #1 {x} ~ ^ \\ $") == (
        r"a\_b \& 50 \% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$")
    assert in_latex("1 ± 2, Δ ≤ τ, DisMax†, × 3") == r"1 $\pm$ 2, $\Delta$ $\leq$ $\tau$, DisMax$\dagger$, $\times$ 3"


# ---- forms ----

ONE = Section("one", ["method", "", "x (%)", "y"], [["A", "ours", "1.0", "2"], ["", "b", "3", ""]], "Made on x.")
TABLE = Table("t", "A table", [ONE], "A legend\n  goes on.\nAnother line.",
              [{"a": 1, "b": float("nan")}, {"a": "x, y", "b": 0.5}])


def test_a_table_in_all_its_forms(tmp_path):
    assert list(csv.reader(as_csv(TABLE.tidy).splitlines())) == [["a", "b"], ["1", ""], ["x, y", "0.5"]]
    text = as_markdown(TABLE)
    assert text.startswith("# A table\n\n## one\n\n| method   |      | x (%)   | y   |\n|--") and (
        "\n\nMade on x.\n\nA legend goes on.\n\nAnother line.\n" in text)
    text = as_latex(TABLE)
    assert text.startswith("% A table, one.") and r"\begin{tabular}" in text and r"x (\%)" in text


def test_a_wide_table_comes_in_pieces_that_fit_a_terminal(tmp_path):
    headers, row = ["method", "", *(f"column {k}" for k in range(9))], ["DE", "ours, n = 3", *("99.00 ± 0.10",) * 9]
    pieces = list(pieces_of(headers, [row], 80))
    assert all(len(line) <= 80 for piece in pieces for line in piece.splitlines())
    assert all(piece.startswith("method") and "ours, n = 3" in piece for piece in pieces)
    assert sum(piece.count("99.00 ± 0.10") for piece in pieces) == 9 and len(pieces) > 2
    assert len(list(pieces_of(headers, [row], None))) == 1, "a file is not a terminal"
    ensemble(tmp_path, "de", 1, 0.9)
    done = subprocess.run([sys.executable, "analyze.py", "--results-dir", tmp_path], cwd=ROOT, capture_output=True,
                          text=True, env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and max(map(len, done.stdout.replace(str(tmp_path), "").splitlines())) <= 80


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_that_is_not_utf_8_gets_ascii(tmp_path, encoding):
    ensemble(tmp_path, "de", 1, 0.9)
    ensemble(tmp_path, "de", 2, 0.91)
    done = subprocess.run([sys.executable, "analyze.py", "--results-dir", tmp_path], cwd=ROOT, capture_output=True,
                          env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and not done.stderr and "90.50 +- 0.71" in done.stdout.decode("ascii")
