"""The only opener of /proc and /sys: of this machine (SysRoot), or of a recorded one (host/recording.py) in the same words."""

from __future__ import annotations

import os


class SysRoot:
    """The files of one Linux machine, under a folder that holds its proc/ and sys/ (``/`` for this one).

    Paths are written without a leading slash, as in ``root.read("proc/version")``.
    """

    live = True  # it is the machine we run on: devices can be opened, and processes asked

    def __init__(self, path: str | os.PathLike = "/"):
        self.path = os.fspath(path).rstrip("/") + "/"
        self.manifest: dict = {}  # what a recording says of itself
        self.refused: set[str] = set()  # what was there and could not be read for want of permission

    def read_bytes(self, path: str) -> bytes | None:
        """What the file holds, or None where there is no such file, or its thread is gone, or we may not read it."""
        try:
            fd = os.open(self.path + path, os.O_RDONLY)
        except PermissionError:
            self.refused.add(path)
            return None
        except OSError:
            return None
        try:
            data = os.read(fd, 4096)
            if len(data) > 1024:  # a file made of lines ends a read early where the next line would not fit: seq_file.rst
                parts = [data]
                while part := os.read(fd, 65536):
                    parts.append(part)
                data = b"".join(parts)
            return data
        except PermissionError:
            self.refused.add(path)
            return None
        except OSError:
            return None
        finally:
            os.close(fd)

    def read(self, path: str) -> str | None:
        """The file's text without white space and NULs around it; bytes that are no UTF-8 show as ``\\xNN``."""
        data = self.read_bytes(path)
        return None if data is None else data.decode("utf-8", "backslashreplace").strip(" \t\r\n\0")

    def list(self, path: str) -> list[str]:
        """The names in a folder, unsorted; none where there is no such folder."""
        try:
            return os.listdir(self.path + path)
        except PermissionError:
            self.refused.add(path)
            return []
        except OSError:
            return []

    def folders(self, path: str) -> list[str]:
        """The names of the folders in a folder; none where there is no such folder."""
        try:
            with os.scandir(self.path + path) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except PermissionError:
            self.refused.add(path)
            return []
        except OSError:
            return []

    def target(self, path: str) -> str | None:
        """What a symbolic link says, or None where there is no such link."""
        try:
            return os.readlink(self.path + path)
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """There is such a file or folder."""
        return os.path.exists(self.path + path)

    def number(self, path: str) -> int | None:
        """The file's decimal number, or None where it holds none."""
        text = self.read(path)
        return int(text) if text and len(text) < 19 and text.removeprefix("-").isdecimal() and text.isascii() else None

    def numbered(self, path: str, prefix: str = "") -> list[int]:
        """The N of all entries ``<prefix>N`` in a folder, sorted."""
        tails = (name.removeprefix(prefix) for name in self.list(path) if name.startswith(prefix))
        return sorted(int(tail) for tail in tails if tail.isascii() and tail.isdigit() and len(tail) < 10)
