"""The catalog as a Markdown table: python data/sources/readme_table.py. `make tables` puts it into docs/data.md."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script: make `data` and `utils` importable

from data.datasets import CATALOG, CORRUPTED, EXPOSURE, OPENOOD, OUTLIERS
from data.sources.plan import disk_size, download_size, files_of, size_in_words
from data.sources.registry import SOURCES
from data.sources.sklearn_digits import MAKERS
from utils.io import human_bytes
from utils.script import run_script

SPEED = 12.5e6  # bytes a second: 100 Mbit/s


def main():
    print(markdown(), end="")


def markdown():
    lines = ["| set | images | license or terms | role | checked by | download | on disk |",
             "|---|---|---|---|---|--:|--:|"]
    for name, data_set in CATALOG.items():
        images = " + ".join(f"{count:,}" if count else "?" for count in data_set.counts.values())
        cells = (f"`{name}` {data_set.title}", images, SOURCES[name].terms, role(name), checked_by(name),
                 download(name), size_in_words(disk_size(name), "as published"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *totals(), ""])


def role(name):
    """Where the benchmarks use a set."""
    roles = []
    for title, table in (("dismax", OUTLIERS), ("openood", OPENOOD)):
        uses = ["in-distribution"] if name in table else []
        for group in ("near", "far", "very_far"):
            users = [dataset for dataset, groups in table.items() if name in groups.get(group, ())]
            uses += [f"{group.replace('_', ' ')} of {' and '.join(users)}"] if users else []
        roles += [f"{title}: {', '.join(uses)}"] if uses else []
    for text, table in (("outlier exposure of", EXPOSURE), ("corrupted test images of", CORRUPTED)):
        users = [dataset for dataset, used in table.items() if used == name]
        roles += [f"{text} {' and '.join(users)}"] if users else []
    return "; ".join([*roles, *filter(None, [SOURCES[name].role])])


def checked_by(name):
    if name in MAKERS:
        return "made from scikit-learn's files"
    if CATALOG[name].part_of:
        return f"part of `{CATALOG[name].part_of}`"
    if name == "imagenet1k":
        return "its class folders and their number"
    files = files_of(name)
    return f"MD5 (read in {files[0].read_in})" if files else "nothing: no checksum is published"


def download(name):
    if not files_of(name):
        return "–"
    return size_in_words(download_size(name), "not published")


def totals():
    small = [name for name in CATALOG if name not in CORRUPTED.values() and (CATALOG[name].sizes or CATALOG[name].size)
             and not (CATALOG[name].size and CATALOG[name].folders)]
    fetched, kept = (sum(size(name) for name in small) for size in (download_size, disk_size))
    corrupted = sum(download_size(name) for name in CORRUPTED.values())
    both = human_bytes(fetched + kept)
    yield (f"All sets of small networks: {human_bytes(fetched)} to download ({minutes(fetched)} at 100 Mbit/s), {both} "
           f"on disk, {human_bytes(kept)} of it once `data/downloads/` is deleted. The two corrupted ones: "
           f"{human_bytes(corrupted)} more to download ({minutes(corrupted)}), the same unpacked. On two cores "
           "conversion takes a few seconds a set; for Textures half a minute, for Places365 a minute.")


def minutes(size):
    return f"{size / SPEED / 60:.0f} minutes"


if __name__ == "__main__":
    run_script("readme_table.py", main)
