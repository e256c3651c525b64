"""What `kvmlab doctor` adds to Host.support(): QEMU, libvirt, and what would run the lab guest.

Sources: qemu-system-x86_64 --version, virGetVersion, the sockets of libvirt's daemons, guest/accel.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess

from kvmlab.errors import KvmlabError

QEMU = "qemu-system-x86_64"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec"


def rows() -> list[tuple]:
    """Three checks in the order of columns.FRAMES["support"]; nothing is started."""
    needs = [_qemu(), _libvirt()]
    return [*needs, _lab_guests([check for check, status, *_ in needs if status == "fail"])]


def _qemu() -> tuple:
    where = shutil.which(QEMU) or shutil.which(QEMU, path=_PATH)
    if where is None:
        return "QEMU", "fail", "none for x86_64", QEMU, "Install it: apt install qemu-system-x86, or let ./lab do it."
    said = subprocess.run([where, "--version"], capture_output=True, text=True, timeout=20).stdout
    version = re.search(r"version ([\w.]+)", said)
    return (
        "QEMU",
        "pass" if version else "unknown",
        f"{version[1] if version else 'of unknown version'} at {where}",
        f"{QEMU} --version",
        None,
    )


def _libvirt() -> tuple:
    source = "virGetVersion"
    try:
        from kvmlab.guest.connection import default_uri, libvirt
    except KvmlabError as error:
        return "libvirt", "fail", "libvirt-python is missing", source, str(error)
    number = libvirt.getVersion()
    version = f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
    if not any(shutil.which(name, path=_PATH) for name in ("libvirtd", "virtqemud")):
        return "libvirt", "fail", f"library {version}, no daemon", source, "Install it: apt install libvirt-daemon-system."
    return "libvirt", "pass", f"{version}; Lab() uses {default_uri()} for you", source, None


def _lab_guests(missing: list[str]) -> tuple:
    if missing:
        return "lab guests", "fail", f"cannot start without {' and '.join(missing)}", "Lab()", None
    try:
        from kvmlab.guest import accel
        from kvmlab.guest.connection import default_uri

        chosen, why = accel.choose("auto", default_uri())
    except KvmlabError as error:
        return "lab guests", "fail", "cannot start", "Lab()", str(error)
    words = {"kvm": "run on KVM, their user code at full speed", "tcg": "are emulated (TCG)"}[chosen]
    return "lab guests", "pass" if chosen == "kvm" else "warn", words, "Lab()", None if chosen == "kvm" else f"{why}. Lessons work, slower."
