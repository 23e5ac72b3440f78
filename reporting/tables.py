"""A table four ways: on the terminal, as Markdown, as LaTeX, as HTML."""
import html

from tabulate import tabulate

from utils.io import write_text

LATEX = {"%": r"\%", "±": r"$\pm$", "Δ": r"$\Delta$", "−": "$-$", "†": r"$\dagger$", "–": "--", "τ": r"$\tau$",
         "_": r"\_"}


def publish(path, title, parts, legend, show=True):
    """Write path.md and path.tex, print the tables too if `show`, and return them as HTML.

    Args:
        parts: (name, headers, rows of strings, note) of each table.
        legend: what the reader must know; stands once, at the end.
    """
    markdown, latex, page = [f"# {title}\n"], [], [f"<h1>{html.escape(title)}</h1>"]
    for name, headers, rows, note in parts:
        if show:
            print(f"\n{title}, {name}\n\n{tabulate(rows, headers, disable_numparse=True)}\n\n{note}")
        markdown.append(f"## {name}\n\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}\n\n{note}\n")
        cells = [[in_latex(cell) for cell in row] for row in rows]
        table = tabulate(cells, map(in_latex, headers), tablefmt="latex_raw", disable_numparse=True)
        latex.append(f"% {title}, {name}. {note}\n{table}\n")
        table = tabulate(rows, headers, tablefmt="html", disable_numparse=True)
        page.append(f"<h2>{html.escape(name)}</h2>{table}<p>{html.escape(note)}</p>")
    if show:
        print(f"\n{legend}\n")
    paragraphs = legend.replace("\n  ", " ").replace("\n", "\n\n")  # a line that is indented goes on the one before
    write_text(path.with_suffix(".md"), "\n".join([*markdown, paragraphs]) + "\n")
    write_text(path.with_suffix(".tex"), "\n".join(latex))
    return "\n".join([*page, f"<pre>{html.escape(legend)}</pre>"])


def in_latex(text):
    for symbol, command in LATEX.items():
        text = text.replace(symbol, command)
    return text
