"""What a tar archive or a folder holds, read as hostile data: into memory, within limits, and never onto the disk.

Python's tarfile takes 25 to 50 us a member and, by design, follows what an archive asks for; recordings have tens of thousands of
members and come from strangers. So the headers are read here: ustar, GNU long names and pax paths, as in tar(5). Whatever else an
archive may contain (devices, pipes, sparse files) a recording has no use for.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from kvmlab.errors import RecordingError

MOST_MEMBERS = 150_000  # a host of 20,000 threads takes some 45,000
MOST_BYTES = 96 << 20  # of the archive, unpacked
MOST_FILE_BYTES = 16 << 20  # /proc/cpuinfo of 4096 CPUs takes 6 MiB
_BLOCK = 512
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_BROKEN = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)


class Member(NamedTuple):
    """One entry: `data` holds a file's content, or where a link points; `kind` is "file", "folder", "link" or "hardlink"."""

    path: str
    kind: str
    data: bytes = b""


def members(path: str) -> Iterator[Member]:
    """The entries of a folder or an archive.

    Raises
    ------
    RecordingError
        For what is no archive, is cut short, is too large, or holds what no recording holds.
    """
    try:
        if os.path.isdir(path):
            yield from _walk(path)
            return
        if not os.path.isfile(path):
            what = "is neither a file nor a folder" if os.path.exists(path) else "there is no such recording"
            raise RecordingError(f"{path}: {what}. Give a folder or a tar archive that holds proc/ and sys/.")
        with open(path, "rb") as file:
            opener = _OPENERS.get(file.read(2))
        with opener(path, "rb") if opener else open(path, "rb") as stream:
            yield from _untar(stream, path)
    except PermissionError as error:
        raise RecordingError(f"{path}: you have no permission to read {error.filename}. Ask its owner, or copy it as root.") from error
    except _BROKEN as error:
        raise RecordingError(f"{path}: cannot be read: {error or type(error).__name__}. Is it whole? Copy or record it anew.") from error


class _Budget:
    """What may still be read; `what` says which limit was passed."""

    def __init__(self, path: str):
        self.path, self.members, self.bytes = path, 0, 0

    def member(self, name: str, size: int) -> None:
        self.members += 1
        if size > MOST_FILE_BYTES:
            raise RecordingError(
                f"{self.path}: '{_short(name)}' has {size:,} bytes; no file of a recording may exceed {MOST_FILE_BYTES:,}."
            )
        if self.members > MOST_MEMBERS:
            raise RecordingError(f"{self.path}: more than {MOST_MEMBERS:,} entries. Record the host with kvmlab record, which keeps fewer.")
        self.spend(size)

    def spend(self, size: int) -> None:
        self.bytes += size
        if self.bytes > MOST_BYTES:
            raise RecordingError(
                f"{self.path}: more than {MOST_BYTES:,} bytes unpacked. Record the host with kvmlab record, which keeps less."
            )


# ---- folders


def _walk(top: str) -> Iterator[Member]:
    budget = _Budget(top)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(top, folder)) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                member = _found(entry, path, budget)
                if member.kind == "folder":
                    waiting.append(path)
                yield member


_READ = sum(getattr(os, f"O_{name}", 0) for name in ("RDONLY", "NOFOLLOW", "NONBLOCK", "CLOEXEC", "BINARY"))


def _found(entry: os.DirEntry, path: str, budget: _Budget) -> Member:
    info = entry.stat(follow_symlinks=False)
    if stat.S_ISLNK(info.st_mode):
        budget.member(path, 0)
        return Member(path, "link", os.fsencode(os.readlink(entry.path)))
    if stat.S_ISDIR(info.st_mode):
        budget.member(path, 0)
        return Member(path, "folder")
    if not stat.S_ISREG(info.st_mode):
        raise RecordingError(f"{budget.path}: '{_short(path)}' is a device, pipe or socket; a recording holds files, folders and links.")
    budget.member(path, info.st_size)
    fd = os.open(entry.path, _READ)
    with open(fd, "rb") as file:
        return Member(path, "file", file.read(info.st_size))


# ---- tar


def _untar(stream: BinaryIO, path: str) -> Iterator[Member]:
    budget = _Budget(path)
    long: dict[str, bytes] = {}  # what an extra header said of the next member's path and link
    while (header := _block(stream, budget)) != bytes(_BLOCK):
        kind, size = header[156:157], _size(header, path)
        name = long.pop("path", b"") or _name(header)
        text = name.decode("utf-8", "backslashreplace")
        if kind in (b"L", b"K"):
            budget.member(text, size)
            long["path" if kind == b"L" else "linkpath"] = _content(stream, size, budget).rstrip(b"\0")
        elif kind == b"x":
            budget.member(text, size)
            long |= _pax(_content(stream, size, budget))
        elif kind == b"g":
            _content(stream, size, budget)
        else:
            budget.member(text, size if kind in b"0\x007" else 0)
            yield _member(text, kind, long.pop("linkpath", b"") or header[157:257].rstrip(b"\0"), size, stream, budget)
            long.clear()
    while rest := stream.read(1 << 20):  # to the end, where a compressed archive has its checksum
        budget.spend(len(rest))


def _member(name: str, kind: bytes, link: bytes, size: int, stream: BinaryIO, budget: _Budget) -> Member:
    if kind in (b"0", b"\0", b"7"):
        if name.endswith("/"):
            return Member(name, "folder")
        return Member(name, "file", _content(stream, size, budget, counted=True))
    if kind not in (b"1", b"2", b"5"):
        what = {b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}.get(kind, f"of tar's type {kind!r}")
        raise RecordingError(f"{budget.path}: '{_short(name)}' is {what}; a recording holds files, folders and links.")
    return Member(name, {b"1": "hardlink", b"2": "link", b"5": "folder"}[kind], link)


def _block(stream: BinaryIO, budget: _Budget) -> bytes:
    block = stream.read(_BLOCK)
    budget.spend(_BLOCK)
    if len(block) < _BLOCK:
        raise RecordingError(f"{budget.path}: {'is cut short' if budget.members else 'is no tar archive'}. Copy or record it anew.")
    return block


def _content(stream: BinaryIO, size: int, budget: _Budget, counted: bool = False) -> bytes:
    if not counted:
        budget.spend(min(size, MOST_BYTES + 1))
    padded = -(-size // _BLOCK) * _BLOCK
    data = stream.read(padded)
    if len(data) < padded:
        raise RecordingError(f"{budget.path}: is cut short. Copy or record it anew.")
    return data[:size]


def _size(header: bytes, path: str) -> int:
    binary = header[124] & 0x80  # GNU's way to write sizes from 8 GiB on
    try:
        told = int(header[148:156].split(b"\0")[0].strip() or b"-1", 8)
        size = int.from_bytes(header[125:136], "big") if binary else int(header[124:136].split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        told = size = -1
    if size < 0 or told != sum(header[:148]) + 8 * 32 + sum(header[156:]):
        raise RecordingError(f"{path}: is no tar archive, or damaged. Copy or record it anew.")
    return size


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(data: bytes) -> dict[str, bytes]:
    found = {}
    while data:
        length = data.partition(b" ")[0]
        if not (length.isdigit() and 0 < int(length[:9]) <= len(data)):
            raise ValueError("a pax header that makes no sense")
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if key in (b"path", b"linkpath"):
            found[key.decode()] = value
        elif key == b"size" or key.startswith(b"GNU.sparse"):
            raise ValueError("a file larger than a recording holds, or a sparse one")
        data = data[int(length) :]
    return found


def _short(name: str) -> str:
    return name if len(name) <= 80 else "..." + name[-77:]
