"""Which libvirt, the daemon behind it, and its errors in kvmlab's words."""

from __future__ import annotations

import operator
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from kvmlab.errors import ConnectError, GuestError, KvmlabError
from kvmlab.guest.daemon import Daemon, hold_log_daemon

try:
    import libvirt
    import libvirt_qemu
except ImportError as error:
    raise ConnectError(
        "The Python package libvirt-python is missing or cannot load its C library. "
        "Install it: pip install libvirt-python (on Debian and Ubuntu it needs: apt install libvirt-dev pkg-config gcc python3-dev)."
    ) from error

__all__ = ["connect", "default_uri", "explained", "libvirt", "libvirt_qemu"]

# Errors are raised; stderr stays clean. A handler that runs no Python, or a Ctrl-C could strike inside of a call of libvirt's.
libvirt.registerErrorHandler(operator.is_, None)

_LOST = {libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_NO_CONNECT}


def default_uri() -> str:
    """What libvirt's own tools use: qemu:///system for root, qemu:///session for anybody else."""
    return "qemu:///system" if os.geteuid() == 0 else "qemu:///session"


def connect(uri: str) -> tuple[libvirt.virConnect, socket.socket | None]:
    """An open connection, and one to the log daemon behind it to be closed with it.

    libvirt starts a user's session daemon by itself. As root on a machine where none listens, kvmlab starts one.
    """
    log = hold_log_daemon() if uri == "qemu:///system" and os.geteuid() == 0 else None
    try:
        return libvirt.open(uri), log
    except libvirt.libvirtError as error:
        if uri != "qemu:///system" or os.geteuid() != 0 or error.get_error_code() != libvirt.VIR_ERR_SYSTEM_ERROR:
            raise _no_connection(uri, error) from error
    return Daemon().start(lambda: _try_open(uri)), log


def _try_open(uri: str) -> libvirt.virConnect | None:
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError:
        return None


_SHORTER = (
    "The path of your home is too long for its sockets: export XDG_RUNTIME_DIR=$(mktemp -d) XDG_CONFIG_HOME=$(mktemp -d), and try again."
)
_SESSION_ADVICE = (
    (" record for ", "libvirt wants your user and group by name: let root add them to /etc/passwd and /etc/group."),
    ("too long for unix socket", _SHORTER),
)


def _no_connection(uri: str, error: libvirt.libvirtError) -> ConnectError:
    words = error.get_error_message() or str(error)
    if uri.endswith("/session"):
        home = os.path.expanduser("~")
        known = next((text for part, text in _SESSION_ADVICE if part in words), "")
        if known:
            advice = known
        elif not os.access(home, os.W_OK):
            advice = f"libvirt keeps a session's files in your home directory, and {home} is not writable: set HOME to a folder that is."
        else:
            advice = "Is the daemon installed? On Debian and Ubuntu: apt install libvirt-daemon-system qemu-system-x86."
    elif uri.endswith("/system"):
        advice = "It is for root and the group libvirt (sudo usermod -aG libvirt $USER, then log in anew); Lab() uses your own session."
    else:
        advice = "Lab() alone uses qemu:///session for a user and qemu:///system for root."
    return ConnectError(f"libvirt does not answer at {uri}: {words}. {advice}")


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn libvirt's errors into kvmlab's; `doing` says what was being done."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise _explain(doing, error) from error


def _explain(doing: str, error: libvirt.libvirtError) -> KvmlabError:
    code, words = error.get_error_code(), (error.get_error_message() or str(error)).strip().rstrip(".")
    lost = code in _LOST and error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
    if lost or "client socket is closed" in words:
        return ConnectError(f"{doing}: the libvirt daemon went away ({words}). Close this Lab and open another one.")
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return GuestError(f"{doing}: there is no such guest any more ({words}).")
    advice = next((text for part, text in _ADVICE if part.lower() in words.lower()), "")
    return GuestError(f"{doing}: libvirt says: {words}.{' ' + advice if advice else ''}")


_ADVICE = (
    ("already exists", "Take another name, or remove that guest: virsh destroy NAME."),
    ("already active", "Take another name, or remove that guest: virsh destroy NAME."),
    (
        "Could not access KVM",
        "QEMU may not open /dev/kvm: let its group in (chgrp kvm /dev/kvm; chmod 660 /dev/kvm), or use Lab(accel='tcg').",
    ),
    ("failed to initialize kvm", "KVM does not work for QEMU here: use Lab(accel='tcg')."),
    ("Path must be less than", _SHORTER),
    ("could not load PC BIOS", "QEMU's user cannot read the guest image."),
    ("Cannot find suitable emulator", "Install QEMU: apt install qemu-system-x86."),
    ("does not support virt type", "QEMU here lacks it: apt install qemu-system-x86, or use Lab(accel='tcg')."),
    ("cannot set CPU affinity", "Its cpuset may be narrower: allowed_cpus of lab.vcpus() is what it has."),
    ("No emulator found", "Install QEMU: apt install qemu-system-x86."),
    ("could not find capabilities", "Install QEMU: apt install qemu-system-x86."),
    (
        "does not match source",
        "What a guest was started with stays with it: start it with what both hosts offer, such as their baseline CPU model.",
    ),
    ("invtsc flag", "Its time stamp counter promises never to change, and another host cannot keep that: migratable='on' leaves it out."),
    ("Cannot allocate memory", "This machine has no memory left for one more guest."),
    ("Permission denied", "libvirt or QEMU's user lacks a permission on what is named there."),
)
