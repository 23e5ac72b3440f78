"""What has been reproduced so far, one line for each network of each block: the table in README.md.

It counts the runs of results/reference with the published recipe. A CPU trains each of CPU_NETWORKS within hours.
"""
from pathlib import Path

from recipes import BLOCKS
from reporting import check, dismax, openood
from reporting.comparison import compare
from reporting.load import read_runs
from reporting.names import title_of
from reporting.verdicts import OUTSIDE

REFERENCE = Path(__file__).resolve().parents[1] / "results/reference"
BENCHMARK_OF_PAPER = {"dismax": dismax.BENCHMARK, "sdde": openood.BENCHMARK}
PAPER_TITLES = {"dismax": "DisMax", "sdde": "SDDE", "": "ours"}
CPU_NETWORKS = ("lenet", "resnet20")


def markdown():
    runs = [run for run in read_runs(REFERENCE).runs if not run.changed]
    lines = ["| paper, data set | network | runs | n | state | verdict |", "|---|---|--:|---|---|---|"]
    for (paper, dataset, network), seeds in block_rows().items():
        done = [run for run in runs if (run.id_dataset, run.model) == (dataset, network)
                and run.seed <= seeds.get(run.method, 0)]
        total = sum(seeds.values())
        counts = sorted({sum(run.method == method for run in done) for method in seeds} - {0})
        n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(sum(counts))
        cells = (f"{PAPER_TITLES[paper]}, {title_of(dataset)}", title_of(network), f"{len(done)} of {total}",
                 f"{n} of {max(seeds.values())}", state(network, len(done), total),
                 verdict_in_words(paper, dataset, network, seeds, done))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def block_rows():
    """(paper, data set, network) → {method: number of seeds}, of all blocks."""
    found = {}
    for block in BLOCKS:
        for network in block.networks:
            of_row = found.setdefault((block.paper, block.dataset, network), {})
            of_row |= dict.fromkeys(block.methods, block.seeds)
    return found


def state(network, done, total):
    if done == total:
        return "done"
    if network not in CPU_NETWORKS:
        return "needs a GPU"
    return "in progress" if done else "not started"


def verdict_in_words(paper, dataset, network, methods, runs):
    """How many numbers of the published rows are within tolerance; or why none can be judged."""
    if not paper:
        return "in neither paper"
    if not runs:
        return "–"
    benchmark, judged, outside, reasons = BENCHMARK_OF_PAPER[paper], 0, 0, set()
    lines = [line for line in compare(benchmark, dataset, runs) if line.protocol.published and line.model == network]
    for method in methods:
        why, cells = check.judge([line for line in lines if line.method == method])
        reasons |= set(why) - {"no run"}
        if not why:
            judged += len(cells)
            outside += sum(cell.verdict == OUTSIDE for cell in cells)
    if not judged:
        return "not judged: " + ", ".join(sorted(reasons))
    return f"{judged - outside} of {judged} numbers within tolerance"
