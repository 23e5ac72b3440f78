"""Safe reading of archives: only regular files are read, and member names never decide where something is written. An
archive that leads out of its folder, or that is far larger than plausible, is refused before it is unpacked."""
import contextlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.io import UserError

BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)


@dataclass(frozen=True)
class Limits:
    """How much of an archive is plausible: members, bytes of one, bytes of all, unpacked."""

    members: int
    member: int = 1 << 30
    total: int = 4 << 30

    @classmethod
    def of_images(cls, expected):
        return cls(members=4 * expected + 1_000, member=100 << 20, total=expected * (2 << 20) + (1 << 30))


def members(path, limits):
    """The names of the regular files of a tar (of any compression) or zip archive.

    UserError when it is damaged, when a member would lie outside the folder that it is unpacked in or is a device (what
    tarfile's data filter refuses; for a zip the same rules), or when it exceeds the limits.
    """
    with _read(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _checked(path, (_of_zip(info) for info in archive.infolist()), limits)
        with tarfile.open(path) as archive:
            return _checked(path, archive, limits)


def read_members(path, wanted):
    """Yields (name, bytes) of the `wanted` of `members`, in the archive's order, one in memory at a time."""
    wanted = set(wanted)
    with _read(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename in wanted:
                        yield info.filename, archive.read(info)
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and member.name in wanted:
                        yield member.name, archive.extractfile(member).read()


def _checked(path, infos, limits):
    names, total = [], 0
    for count, info in enumerate(infos, 1):
        if problem := _unsafe(info, Path(path).resolve().parent):
            raise UserError(f"{path} was refused, nothing of it was unpacked: {problem}")
        total += info.size
        if count > limits.members or info.size > limits.member or total > limits.total:
            raise UserError(f"{path} was refused, nothing of it was unpacked: up to {info.name} it holds {count:,} "
                            f"members and {total:,} bytes; plausible are {limits.members:,} members, {limits.member:,} "
                            f"bytes in one and {limits.total:,} in all")
        if info.isfile():
            names.append(info.name)
    return names


def _unsafe(member, folder):
    """What is wrong with unpacking this member into the folder, or None."""
    if ".." in PurePosixPath(member.name).parts:
        return f"{member.name!r} leads out of the folder"
    if hasattr(tarfile, "data_filter"):  # Python 3.10.12, 3.11.4 and later
        try:
            tarfile.data_filter(member, str(folder))
        except tarfile.FilterError as error:
            return str(error)
    return f"{member.name!r} is a device" if member.isdev() else None


def _of_zip(info):
    """A zip's member as a tar's, so that one filter judges both."""
    member = tarfile.TarInfo(info.filename)
    member.size = info.file_size
    mode = info.external_attr >> 16
    if info.is_dir():
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(mode):
        member.type, member.linkname = tarfile.SYMTYPE, ""
    return member


@contextlib.contextmanager
def _read(path):
    try:
        yield
    except BROKEN as error:
        raise UserError(f"{path} cannot be read as an archive: {str(error) or type(error).__name__}") from error
