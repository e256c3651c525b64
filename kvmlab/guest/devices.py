"""The devices that a lab guest can be given, and the file of its disk.

The network card needs no file, and the display's socket is libvirt's: it lies in a folder that only QEMU's user can enter,
and goes with the guest. The disk is ours: one folder a guest, under a name that says which process it belongs to, so that the
next Lab can remove what a killed process left. The image's layout: docs/interop/qcow2.txt in QEMU's source.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

from kvmlab.errors import GuestError
from kvmlab.guest.spec import GuestSpec
from kvmlab.guest.vcpus import ROOT
from kvmlab.host.threads import read_stat

DISK_BYTES = 1 << 20
_PREFIX = "kvmlab-disk-"
_CLUSTER = 1 << 16
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")


def wanted(devices: str | None) -> bool:
    """Whether a guest gets devices: "all" of them, or None."""
    if devices is None:
        return False
    if isinstance(devices, str) and devices == "all":
        return True
    raise GuestError(f"devices={devices!r}: write 'all' (a disk, a network card and a display), or leave it out for a guest without any.")


def disk_path(spec: GuestSpec) -> Path:
    """Where the guest's disk will be: a folder that is this guest's alone."""
    pid = os.getpid()
    return _place() / f"{_PREFIX}{pid}-{_start_ticks(pid)}-{spec.uuid[:8]}" / f"{spec.name}.qcow2"


def write_disk(path: Path) -> None:
    """Write an empty disk; libvirt gives it to QEMU's user, who may pass through the folder and not list it."""
    try:
        path.parent.mkdir(mode=0o700)
        path.parent.chmod(0o711)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(qcow2(DISK_BYTES))
    except OSError as error:
        raise GuestError(f"The guest's disk {path} cannot be written: {error.strerror}.") from error


def qcow2(size: int) -> bytes:
    """An empty image, version 3, of up to 512 MiB: its header, its reference counts (a table and one block) and one table of clusters."""
    table, block, clusters = _CLUSTER, 2 * _CLUSTER, 3 * _CLUSTER
    header = _HEADER.pack(b"QFI\xfb", 3, 0, 0, 16, size, 0, 1, clusters, table, 1, 0, 0, 0, 0, 0, 4, _HEADER.size)
    counts = struct.pack(">4H", 1, 1, 1, 1)  # these four clusters, each used once
    return b"".join(part.ljust(_CLUSTER, b"\0") for part in (header, struct.pack(">Q", block), counts, b""))


def remove_disk(path: Path) -> None:
    """Remove the disk with its folder."""
    shutil.rmtree(path.parent, ignore_errors=True)


def sweep() -> None:
    """Remove the disks of this user's processes that were killed before they could."""
    for folder in _place().glob(f"{_PREFIX}*-*-*"):
        pid, start, _ = folder.name.removeprefix(_PREFIX).split("-", 2)
        with suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and pid.isdecimal() and str(_start_ticks(int(pid))) != start:
                shutil.rmtree(folder, ignore_errors=True)


def _place() -> Path:
    private = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0:
        return Path("/run")
    return Path(private if os.path.isabs(private) and os.access(private, os.W_OK) else tempfile.gettempdir())


def _start_ticks(pid: int) -> int | None:
    stat = read_stat(ROOT, pid, pid)
    return stat.start_ticks if stat and stat.state not in "ZX" else None
