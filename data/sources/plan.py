"""The plan of `prepare`: names, number of images, sizes, sources and terms."""
import shutil

from data.datasets import CATALOG, CORRUPTED
from data.sources.find import SourceFinder
from data.sources.registry import SOURCES
from data.sources.sklearn_digits import MAKERS
from data.sources.store import is_partial, ready_splits
from utils.io import human_bytes
from utils.script import say

LARGE_DOWNLOAD = 1_000_000_000  # bytes; downloads of more, or of unknown size, wait to be asked for


def files_of(name):
    source = SOURCES[name]
    return [source.archive] if source.archive else [f for files in (source.parts or {}).values() for f in files]


def download_size(name):
    """Bytes; 0: not published."""
    sizes = [file.size for file in files_of(name)]
    return sum(sizes) if all(sizes) else 0


def disk_size(name):
    """Bytes of data/<name> when it is prepared, without the download; for image folders, about the archive's."""
    data_set, count = CATALOG[name], sum(CATALOG[name].counts.values())
    if name in CORRUPTED.values():
        return 19 * 50_000 * 3072
    channels = 1 if SOURCES[name].parts and data_set.size == 28 or name in ("digits", "digits_789") else 3
    sizes = () if data_set.folders and not data_set.sizes else data_set.sizes or (data_set.size,)
    return sum(count * channels * size**2 for size in sizes) + (download_size(name) if data_set.folders else 0)


def needs_confirmation(name):
    """Whether a set is only downloaded when it is named: it is large, or for ImageNet's networks."""
    data_set = CATALOG[name]
    return download_size(name) > LARGE_DOWNLOAD or (data_set.folders and not data_set.sizes)


def where_to_get(name):
    """For a set that is missing: size and addresses, or how to place it."""
    urls = [file.url for file in files_of(name) if file.url]
    if not urls:
        return SOURCES[name].by_hand
    return f"{size_in_words(download_size(name), 'size not published')}, {', '.join(urls)}"


def size_in_words(size, unknown):
    return human_bytes(size) if size else unknown


def sources_of(name, mirrors, data_dir, unasked, fresh):
    """Where `prepare` will look, judged by what lies there, before any checksum; without repetitions."""
    if name in MAKERS:
        return ["scikit-learn's files"]
    finder, ready = SourceFinder(name, mirrors, data_dir / "downloads"), {} if fresh else ready_splits(data_dir / name)
    sources = []
    for split, expected in CATALOG[name].counts.items():
        if split in ready and not is_partial(ready[split], expected):
            sources.append("ready")
            continue
        here, is_whole = _lies_at(finder, split)
        sources += here
        if not is_whole and not files_of(name):
            sources.append("by hand")
        elif not is_whole and unasked and needs_confirmation(name):
            sources.append("mirrors only: name it to download")
        elif not is_whole:
            sources.append((finder.addresses or [files_of(name)[0].url.rsplit("/", 1)[0]])[0])
    return list(dict.fromkeys(sources))


def _lies_at(finder, split):
    """Where a split lies in folders, and whether that is all of it."""
    parts = (finder.source.parts or {}).get(split, [])
    if archive := finder.source.archive and finder.local(finder.source.archive):
        return [str(archive[0][0])], True
    if parts and all(finder.local(file) for file in parts):
        return [str(finder.local(parts[0])[0][0].parent)], True
    if finder.name in CORRUPTED.values():
        here = [str(f / finder.set.title) for f in finder.folders if (f / finder.set.title / "labels.npy").exists()]
        return here[:1], bool(here)
    if finder.name == "imagenet1k":
        here = [f"{folder}, unverified" for folder in finder.unverified_folders(split)]
        return here[:1], bool(here)
    found = sorted(finder.unverified(split), key=len, reverse=True)
    return [f"{f.source}, unverified" for f in found[:1]], any(len(f) >= finder.set.counts[split] for f in found)


def print_plan(names, mirrors, data_dir, unasked, fresh):
    say(f"{'set':20} {'images':>9}  {'download':>12}  {'on disk':>8}  from")
    rows = [(name, sources_of(name, mirrors, data_dir, unasked, fresh)) for name in names]
    for name, sources in rows:
        download = size_in_words(download_size(name), "?") if files_of(name) else "–"
        images, disk = sum(CATALOG[name].counts.values()), size_in_words(disk_size(name), "?")
        say(f"{name:20} {images:9,}  {download:>12}  {disk:>8}  {' + '.join(sources)}")
        say(f"{'':20} {SOURCES[name].terms}; cite {SOURCES[name].cite}")
    fetched = [name for name, sources in rows if any(source.startswith("http") for source in sources)]
    to_download = sum(download_size(name) for name in fetched)
    place = data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    unknown = any(not download_size(name) for name in fetched)
    known = [f"at most {human_bytes(to_download)}"] if to_download else []
    total = " and ".join([*known, *["what is marked ?"] * unknown]) or "nothing"
    say(f"To download: {total}; free in {data_dir}: {human_bytes(free)}\n")
