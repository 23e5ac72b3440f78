"""What `prepare` is about to do: which set, how many images, how big, from where, under which terms."""
import shutil

from data.datasets import CATALOG, CORRUPTED
from data.sources.sklearn_digits import MAKERS
from data.sources.find import Search
from data.sources.store import is_partial, ready_splits

LARGE = 1_000_000_000  # bytes; downloads of more, or of unknown size, wait to be asked for


def files_of(name):
    data_set = CATALOG[name]
    return [data_set.archive] if data_set.archive else [f for files in (data_set.parts or {}).values() for f in files]


def download_size(name):
    """Bytes; 0: not published."""
    sizes = [file.size for file in files_of(name)]
    return sum(sizes) if all(sizes) else 0


def disk_size(name):
    """Bytes of data/<name> when it is prepared, without the download; for image folders, about the archive's."""
    data_set, count = CATALOG[name], sum(CATALOG[name].counts.values())
    if name in CORRUPTED.values():
        return 19 * 50_000 * 3072
    channels = 1 if data_set.parts and data_set.size == 28 or name in ("digits", "digits_789") else 3
    sizes = () if data_set.folders and not data_set.sizes else data_set.sizes or (data_set.size,)
    return sum(count * channels * size**2 for size in sizes) + (download_size(name) if data_set.folders else 0)


def too_large_to_start_unasked(name):
    data_set = CATALOG[name]
    return download_size(name) > LARGE or (data_set.folders and not data_set.sizes)


def where_to_get(name):
    """For a set that is missing: size and addresses, or how to place it."""
    data_set = CATALOG[name]
    urls = [file.url for file in files_of(name) if file.url]
    if not urls:
        return data_set.by_hand
    return f"{in_words(download_size(name))}, {', '.join(urls)}"


def in_words(size):
    for unit, factor, digits in (("GB", 1e9, 1), ("MB", 1e6, 0), ("kB", 1e3, 0)):
        if size >= factor:
            return f"{size / factor:.{digits}f} {unit}"
    return f"{size} bytes" if size else "size not published"


def sources_of(name, mirrors, data_dir, unasked, fresh):
    """Where `prepare` will look, judged by what lies there, before any checksum; without repetitions."""
    if name in MAKERS:
        return ["scikit-learn's files"]
    search, ready = Search(name, mirrors, data_dir / "downloads"), {} if fresh else ready_splits(data_dir / name)
    sources = []
    for split, expected in CATALOG[name].counts.items():
        if split in ready and not is_partial(ready[split], expected):
            sources.append("ready")
            continue
        here, is_whole = _lies_at(search, split)
        sources += here
        if not is_whole and not files_of(name):
            sources.append("by hand")
        elif not is_whole and unasked and too_large_to_start_unasked(name):
            sources.append("mirrors only: name it to download")
        elif not is_whole:
            sources.append((search.addresses or [files_of(name)[0].url.rsplit("/", 1)[0]])[0])
    return list(dict.fromkeys(sources))


def _lies_at(search, split):
    """Where a split lies in folders, and whether that is all of it."""
    parts = (search.set.parts or {}).get(split, [])
    if archive := search.set.archive and search.local(search.set.archive):
        return [str(archive[0][0])], True
    if parts and all(search.local(file) for file in parts):
        return [str(search.local(parts[0])[0][0].parent)], True
    if search.name in CORRUPTED.values():
        here = [str(f / search.set.title) for f in search.folders if (f / search.set.title / "labels.npy").exists()]
        return here[:1], bool(here)
    if search.name == "imagenet1k":
        here = [f"{folder}, unverified" for folder in search.unofficial_folders(split)]
        return here[:1], bool(here)
    found = sorted(search.unofficial(split), key=len, reverse=True)
    return [f"{f.source}, unverified" for f in found[:1]], any(len(f) >= search.set.counts[split] for f in found)


def print_plan(names, mirrors, data_dir, unasked, fresh):
    print(f"{'set':20} {'images':>9}  {'download':>12}  {'on disk':>8}  from")
    rows = [(name, sources_of(name, mirrors, data_dir, unasked, fresh)) for name in names]
    for name, sources in rows:
        download = in_words(download_size(name)) if files_of(name) else "–"
        download = download.replace("size not published", "?")
        images = sum(CATALOG[name].counts.values())
        disk = in_words(disk_size(name)).replace("size not published", "?")
        print(f"{name:20} {images:9,}  {download:>12}  {disk:>8}  {' + '.join(sources)}")
        print(f"{'':20} {CATALOG[name].terms}; cite {CATALOG[name].cite}")
    fetched = [name for name, sources in rows if any(source.startswith("http") for source in sources)]
    to_download = sum(download_size(name) for name in fetched)
    place = data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    unknown = any(not download_size(name) for name in fetched)
    parts = [f"at most {in_words(to_download)}"] if to_download else []
    total = " and ".join([*parts, *["what is marked ?"] * unknown]) or "nothing"
    print(f"To download: {total}; free in {data_dir}: {in_words(free)}\n")
