"""The rows of the benches, as a table and on disk.

A row is a dict: what, unit, values (name → median; "ours", and its baseline by name), ratio, ratio_min, ratio_max,
rounds, target (what → least value), of_matrix_rate, of_roofline; or not_measured, which says why. `complete` adds
bench, device, threads, commit, torch and load.
"""
import os
import re
from pathlib import Path

from tabulate import tabulate

from utils import run_dir
from utils.io import UserError, write_text

ROOT = Path(__file__).resolve().parents[1]
HEADERS = ["", "ours", "baseline", "ratio: median (range)", "target", "of the matrix rate", "of the roofline",
           "measured on"]
TERMINAL_WIDTHS = [32, 11, 20, 11, 12, 8, 8, 16]  # characters
SHARES = ("of_matrix_rate", "of_roofline")
TARGET_FORMATS = {
    "ratio": "≥ {}×", "of_matrix_rate": "≥ {:.0%} of the matrix rate", "of_roofline": "≥ {:.0%} of the roofline"}


def complete(row, bench, machine, environment):
    """The row with where, with what and beside which load it was measured."""
    commit = (environment["commit"] or "unknown")[:7] + " with changes" * bool(environment["uncommitted_changes"])
    row = {name: value for name, value in row.items() if value is not None}
    return {"bench": bench, "device": machine.name, "threads": machine.threads, "commit": commit,
            "torch": environment["torch"], "load": load_average(), **row, "baseline": row.get("baseline")}


def load_average():
    """How many processes wanted a core in the last minute, this one included; None where it is not known."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


# ---- the table ----

def cells(row):
    """The row's cells, as text, in the order of HEADERS."""
    device = re.sub(r"\((R|TM)\)| Processor| CPU @.*", "", row["device"])
    where = f"{device}, {row['threads']} thread{'s' * (row['threads'] > 1)}, {row['commit']}"
    if (row.get("load") or 0) > (os.cpu_count() or 1) + 1:
        where += f", beside other work: load {row['load']:.0f}"
    if "not_measured" in row:
        return [row["what"], f"not measured: {row['not_measured']}", *[""] * 5, where]
    values, unit, baseline = row["values"], row["unit"], row["baseline"]
    ratio = f"{row['ratio']:.3g}× ({row['ratio_min']:.3g}–{row['ratio_max']:.3g})" if "ratio" in row else ""
    return [row["what"], f"{in_short(values['ours'])} {unit}",
            f"{in_short(values[baseline])} {unit}, {baseline}" if baseline else "none",
            ratio, target(row), *(f"{row[share]:.0%}" if share in row else "" for share in SHARES), where]


def target(row):
    """The row's target in words, and whether it is missed."""
    for name, least in row.get("target", {}).items():
        if least is not None and name in row:
            return TARGET_FORMATS[name].format(least) + ", missed" * (round(row[name], 2) < least)
    return ""


def in_short(value):
    return f"{value:,.0f}" if value >= 20 else f"{value:.3g}"


def table(rows, style, widths=None):
    """The rows as a table of tabulate's; `widths` wraps each column at so many characters."""
    return tabulate([cells(row) for row in rows], HEADERS, tablefmt=style, disable_numparse=True, maxcolwidths=widths)


# ---- on disk ----

def path_of(machine, quick):
    """The Markdown file of a machine; beside it lies its JSON. Quick results are never in a tracked folder."""
    name = f"cpu {machine.name} {machine.threads} threads" if machine.device_type == "cpu" else machine.name
    return (ROOT / "results/bench" if quick else ROOT / "benchmarks/results") / f"{slug(name)}.md"


def slug(name):
    """A name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def merge(path, rows, benches, machine, environment):
    """Put the rows of one bench into the file of a machine, in place of its earlier ones, in the order of `benches`."""
    try:
        before = run_dir.read_json(path.with_suffix(".json"))["rows"]
    except (FileNotFoundError, KeyError, UserError):
        before = []
    kept = [row for row in before if row["bench"] not in {row["bench"] for row in rows}]
    rows = sorted(kept + rows, key=lambda row: benches.index(row["bench"]) if row["bench"] in benches else -1)
    content = {"machine": machine.name, "threads": machine.threads, "rates": machine.rates,
               "bandwidth": machine.bandwidth, **environment, "rows": rows}
    write_results(path, content, str(machine))


def write_results(path, content, heading):
    """The JSON, and from its rows the Markdown."""
    run_dir.write_json(path.with_suffix(".json"), content)
    write_text(path, f"# {heading}\n\n{table(content['rows'], 'github')}\n")
