"""A folder for each guest: the socket that wakes it, and its disk if it has one.

Its name says which process it belongs to, so that the next Lab can remove what a killed process left.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from kvmlab.errors import GuestError
from kvmlab.guest.vcpus import ROOT
from kvmlab.host.threads import read_stat

_PREFIX = "kvmlab-guest-"


def path(uuid: str) -> Path:
    """Where the guest's folder will be."""
    pid = os.getpid()
    return place() / f"{_PREFIX}{pid}-{_start_ticks(pid)}-{uuid[:8]}"


def make(folder: Path) -> None:
    """Make it; QEMU's user may pass through it and not list it."""
    try:
        folder.mkdir(mode=0o700)
        folder.chmod(0o711)
    except OSError as error:
        raise GuestError(f"The guest's folder {folder} cannot be made: {error.strerror}.") from error


def remove(folder: Path) -> None:
    """Remove it with what is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of this user's processes that were killed before they could."""
    for folder in place().glob(f"{_PREFIX}*-*-*"):
        pid, start, _ = folder.name.removeprefix(_PREFIX).split("-", 2)
        with suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and pid.isdecimal() and str(_start_ticks(int(pid))) != start:
                remove(folder)


def place() -> Path:
    """Where such folders are: what is there is gone after a restart of the machine."""
    private = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0:
        return Path("/run")
    return Path(private if os.path.isabs(private) and os.access(private, os.W_OK) else tempfile.gettempdir())


def _start_ticks(pid: int) -> int | None:
    stat = read_stat(ROOT, pid, pid)
    return stat.start_ticks if stat and stat.state not in "ZX" else None
