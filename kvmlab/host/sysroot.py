"""The only opener of /proc and /sys."""

from __future__ import annotations

import os


class SysRoot:
    """The files of one Linux machine, under a folder that holds its proc/ and sys/ (``/`` for this one)."""

    def __init__(self, path: str | os.PathLike = "/"):
        self.path = os.fspath(path).rstrip("/") + "/"

    def read_bytes(self, path: str) -> bytes | None:
        """What the file holds, or None where there is no such file, or its thread is gone, or we may not read it."""
        try:
            fd = os.open(self.path + path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            data = os.read(fd, 4096)
            while len(data) and len(data) % 4096 == 0 and (more := os.read(fd, 65536)):
                data += more
            return data
        except OSError:
            return None
        finally:
            os.close(fd)

    def read(self, path: str) -> str | None:
        """The file's text without the white space around it; bytes that are no UTF-8 show as ``\\xNN``."""
        data = self.read_bytes(path)
        return None if data is None else data.decode("utf-8", "backslashreplace").strip()

    def list(self, path: str) -> list[str]:
        """The names in a folder, unsorted; none where there is no such folder."""
        try:
            return os.listdir(self.path + path)
        except OSError:
            return []

    def numbered(self, path: str, prefix: str = "") -> list[int]:
        """The N of all entries ``<prefix>N`` in a folder, sorted."""
        tails = (name.removeprefix(prefix) for name in self.list(path) if name.startswith(prefix))
        return sorted(int(tail) for tail in tails if tail.isascii() and tail.isdigit())
