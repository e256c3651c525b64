"""The devices that a lab guest can be given, and the file of its disk.

The network card needs no file, and the display's socket is libvirt's: it lies in a folder that only QEMU's user can enter,
and goes with the guest. The disk is ours, in the guest's folder. The image's layout: docs/interop/qcow2.txt in QEMU's source.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from kvmlab.errors import GuestError

DISK_BYTES = 1 << 20
_CLUSTER = 1 << 16
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")


def wanted(devices: str | None) -> bool:
    """Whether a guest gets devices: "all" of them, or None."""
    if devices is None:
        return False
    if isinstance(devices, str) and devices == "all":
        return True
    raise GuestError(f"devices={devices!r}: write 'all' (a disk, a network card and a display), or leave it out for a guest without any.")


def write_disk(path: Path) -> None:
    """Write an empty disk; libvirt gives it to QEMU's user."""
    try:
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
