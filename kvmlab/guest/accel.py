"""KVM or TCG for the lab guest: measured, not assumed."""

from __future__ import annotations

import os
import stat

from kvmlab.errors import ConnectError, GuestError
from kvmlab.host import kvmdev

WORTHWHILE = 0.3  # of native speed in user code, where the lab guest does its work; TCG reaches about a tenth
_DEVICE = "/dev/kvm"


def choose(accel: str, uri: str) -> tuple[str, str]:
    """("kvm" or "tcg", why).

    Raises
    ------
    GuestError
        For another word, or when KVM is insisted on and cannot be had.
    """
    if accel not in ("auto", "kvm", "tcg"):
        raise GuestError(f"accel={accel!r}: write 'auto' (measure, then choose), 'kvm' or 'tcg'.")
    if uri == "qemu:///system":
        _refuse_half_open_device()
    if accel == "tcg":
        return "tcg", "as asked"
    speed = kvmdev.probe()
    if accel == "kvm" and speed.problem:
        raise GuestError(f"KVM cannot be had: {speed.problem}. Lab() takes what works; Lab(accel='tcg') emulates.")
    if accel == "kvm" or (speed.user or 0) >= WORTHWHILE:
        return "kvm", str(speed)
    return "tcg", speed.problem or f"KVM here is too slow, {speed}"


def _refuse_half_open_device() -> None:
    """Where root alone may open /dev/kvm, libvirt (root) believes in KVM, QEMU (its own user) cannot have it, and libvirt
    probes every QEMU binary anew at each start of a guest: half a minute each, whatever the guest asks for.
    """
    try:
        mode = os.stat(_DEVICE).st_mode
    except OSError:
        return
    if not mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConnectError(
            f"{_DEVICE} can be opened by root only ({stat.filemode(mode)}), but QEMU runs as a user of its own; libvirt would "
            f"search for KVM again at every start. Do what udev does elsewhere: chgrp kvm {_DEVICE} && chmod 660 {_DEVICE}"
        )
