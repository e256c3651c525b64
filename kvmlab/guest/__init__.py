"""Guests: libvirt and QEMU. The only part of kvmlab that imports libvirt."""

import platform
import sys

from kvmlab.errors import ConnectError

if sys.platform != "linux":
    raise ConnectError(
        f"Guests need Linux with libvirt and QEMU, and this is {platform.system()}. Recorded hosts work here: Host.open, and plots of them."
    )
