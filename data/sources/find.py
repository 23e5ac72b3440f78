"""The sources of a data set, the best first: official files in a mirror, complete class folders or idx files in a
mirror, official files from a mirror's address or from their official address, and then incomplete sets in a mirror.

Official files are checked against their published MD5 before they are read. Others cannot be: `verified` is False.
"""
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from data.datasets import CATALOG
from data.sources import archives, download
from data.sources.formats import READERS, md5_of_unpacked
from data.sources.images import NUMBERED, ArchiveSource, FolderSource, ImageSource
from data.sources.registry import HTTP_TOO, SOURCES
from utils.io import UserError

OFFICIAL = "official files, MD5 verified"


@dataclass(frozen=True)
class Found:
    content: ImageSource | tuple  # or (images (n, H, W, C) uint8, labels (n))
    source: str
    verified: bool

    def __len__(self):
        return len(self.content[1] if isinstance(self.content, tuple) else self.content)


class SourceFinder:
    """For one data set. What went wrong on the way is gathered in `problems`, for people."""

    def __init__(self, name, mirrors, downloads, may_download=True):
        """mirrors: folders (Path) and addresses (str), folders first; downloads: where fetched files are kept."""
        self.name, self.set, self.source = name, CATALOG[name], SOURCES[name]
        mirrors = [m if str(m).startswith(("http://", "https://")) else Path(m) for m in mirrors]
        self.addresses = [mirror for mirror in mirrors if isinstance(mirror, str)]
        self.mirrors = [mirror for mirror in mirrors if isinstance(mirror, Path)]
        self.folders = [f for mirror in self.mirrors for f in (mirror, mirror / name)] + [downloads]
        self.downloads, self.may_download = downloads, may_download
        self.problems = []  # of the split that was last asked for
        self._sums = {}  # path → its MD5, computed once for all splits
        self._unpacked = {}  # archive → its parts, read once for all splits
        self._failed = {}  # path of a file that could not be fetched → why

    def candidates(self, split):
        """Yields what can be had of a split, the best first."""
        self.problems = []
        found = self.try_(self._official, split)
        if found:
            yield found
        partial = []
        for found in self.unverified(split):
            if len(found) >= self.set.counts[split]:
                yield found
            else:
                partial.append(found)
        if self.may_download and self.try_(self.download, split) and (found := self.try_(self._official, split)):
            yield found
        yield from sorted(partial, key=len, reverse=True)

    def try_(self, step, *arguments):
        """What the step returns; None when it fails, and then the problems have one more."""
        try:
            return step(*arguments)
        except (UserError, OSError) as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
        return None

    # ---- official files ----

    def local(self, file):
        """[(path, MD5)] where an official file lies in a folder: by its path, by its bare name, and unpacked."""
        parts = PurePosixPath(file.path).parts
        names = dict.fromkeys(["/".join(parts[k:]) for k in range(len(parts))] + [f"{parts[0]}/{parts[-1]}"])
        names = [spelled for name in names for spelled in (name, _dotted(name))]
        places = [(folder / name, file.md5) for folder in self.folders for name in names]
        if file.raw_md5:
            places += [(path.with_suffix(""), file.raw_md5) for path, _ in places]
        return [(path, md5) for path, md5 in dict.fromkeys(places) if path.is_file()]

    def _official(self, split):
        archive = self.source.archive
        if self.source.parts is None:
            path = archive and self.verified(archive)
            return path and Found(ArchiveSource(
                path, self.source.inside[split], self.set.counts[split], self.set.classes), OFFICIAL, True)
        parts = [self._part(file) for file in self.source.parts[split]]
        if any(part is None for part in parts):
            return None
        return Found(READERS[self.name](parts), OFFICIAL, True)

    def _part(self, file):
        """The verified bytes of a file, by itself or from its archive."""
        path = file.md5 and self.verified(file)
        if path:
            return path.read_bytes()
        archive = self.source.archive and self.verified(self.source.archive)
        if archive and archive not in self._unpacked:
            wanted = {file.path for files in self.source.parts.values() for file in files}
            wanted &= set(archives.members(archive, archives.Limits(members=1_000)))
            self._unpacked[archive] = dict(archives.read_members(archive, wanted))
        return self._unpacked[archive].get(file.path) if archive else None

    def verified(self, file):
        """The first place of a file that has the right MD5, or None where there is no place. UserError if none has."""
        problems = []
        for path, md5 in self.local(file):
            actual = self._sums[path] = self._sums.get(path) or download.md5_of(path)
            if actual == md5 or file.raw_md5 and md5_of_unpacked(path) == file.raw_md5:  # or packed again
                return path
            problems.append(download.mismatch(path, md5, actual))
        if problems:
            raise UserError("; ".join(problems))
        return None

    def download(self, split):
        """Fetch what is not there. UserError when something cannot be had."""
        archive = self.source.archive
        files = [archive] if archive else (self.source.parts or {}).get(split, [])
        if not files:
            raise UserError(self.source.by_hand)
        for file in files:
            if any(self._sums.get(path) == md5 for path, md5 in self.local(file)):
                continue
            if file.path in self._failed:
                raise UserError(self._failed[file.path])
            self._fetch(file)
        return True

    def _fetch(self, file):
        """From the mirrors with an address, which hold files by their official names, then from the official one."""
        names = dict.fromkeys((file.path, f"{self.name}/{Path(file.path).name}", Path(file.path).name))
        urls = [f"{address.rstrip('/')}/{quote(name)}" for address in self.addresses for name in names]
        target, problems = self.downloads / file.path, []
        if target.is_file():  # of an earlier download, but no longer what it was
            target.unlink()
            self._sums.pop(target, None)
        official = [file.url]
        if urlsplit(file.url).netloc in HTTP_TOO:
            official.append(file.url.replace("https://", "http://", 1))
        for url in [*urls, *official]:
            try:
                return download.fetch(url, target, file.md5, file.size)
            except download.Absent as error:
                if url in official:
                    problems.append(str(error))
            except UserError as error:
                problems.append(str(error))
        self._failed[file.path] = "; ".join(problems)
        raise UserError(self._failed[file.path])

    # ---- what nobody publishes a checksum for ----

    def unverified_folders(self, split):
        names = [f"{self.name}/{split}", *(self.source.layouts or {}).get(split, ())]
        if len(self.set.counts) == 1:
            names.append(self.name)
        return [mirror / name for mirror in self.mirrors for name in names if (mirror / name).is_dir()]

    def unverified(self, split):
        """Yields what the mirrors' folders have of a split without a published checksum."""
        for mirror in self.mirrors:
            for folder in self.source.idx:
                found = self.try_(self._idx, mirror / folder, split)
                if found:
                    yield found
        for folder in self.unverified_folders(split):
            found = self.try_(self._class_folders, folder)
            if found:
                yield found

    def _class_folders(self, folder):
        images = FolderSource(folder, NUMBERED.get(self.name), self.set.classes)
        if self.set.mean and not images.numbered and images.classes != self.set.classes:
            raise UserError(f"{folder} has {images.classes} class folders, {self.set.title} has {self.set.classes}")
        return Found(images, f"class folders {folder}", False) if len(images) else None

    def _idx(self, folder, split):
        for images in sorted(folder.glob("*images[-.]idx3-ubyte*")) if folder.is_dir() else ():
            labels = images.with_name(re.sub(r"images([-.])idx3", r"labels\1idx1", images.name))
            is_ours = ("letters" in images.name) == (self.name == "emnist_letters")
            if is_ours and _split_of_idx(images) == split and labels.is_file():
                try:
                    content = READERS[self.name]([images.read_bytes(), labels.read_bytes()])
                except ValueError as error:
                    raise UserError(f"{images} and its labels cannot be used: {error}") from error
                return Found(content, f"idx files {folder}", False)
        return None


def _dotted(name):
    """Another spelling of MNIST's file names: train-images.idx3-ubyte.gz."""
    return re.sub(r"(images|labels)-(idx\d)", r"\1.\2", name)


def _split_of_idx(path):
    return "train" if "train" in path.name else "test" if "t10k" in path.name or "test" in path.name else None
