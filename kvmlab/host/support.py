"""The readiness table: what a host needs to run KVM guests, to run them fast, and to measure them.

Sources: proc(5), Documentation/virt/kvm/api.rst; of the checks in host/hypervisor.py and host/tuning.py: there.

"Kernel newer than 3.5", as courses ask: KVM itself dates from Linux 2.6.20; with 3.6 came VFIO and the IOMMU groups, by which
devices are handed to guests today (merge tag vfio-for-v3.6).
"""

from __future__ import annotations

import os
import re
import stat

from kvmlab.host import hypervisor, kvmdev, tuning
from kvmlab.host.check import Check, Machine
from kvmlab.host.sysroot import SysRoot
from kvmlab.host.unix import grp, pwd

STATUSES = ("pass", "warn", "fail", "unknown")
WIDTH = 70  # of `found`, so that a row fits a terminal's line
_FAST = 0.3  # of native speed; emulation (TCG) reaches about a tenth
_DEVICE = "/dev/kvm"

# What only the machine itself can tell: a recording keeps these rows as they were then, in its manifest.
LIVE_CHECKS = frozenset(
    ("virtual machine", "container", _DEVICE, "KVM API", "KVM capabilities", "vCPUs of a guest", "guest speed"),
)


def rows(root: SysRoot) -> list[tuple]:
    """One row a check, in the order of columns.FRAMES["support"]; what a machine does not show is "unknown"."""
    machine = Machine(root)
    kept = {} if machine.live else _kept(root.manifest)
    return [_tidy(kept.get(row.check, row)) for row in (check(machine) for check in CHECKS)]


def _kept(manifest: dict) -> dict[str, Check]:
    """Rows that a recording brings along; those that are none are left out."""
    kept = manifest.get("checks")
    rows = [Check(*row) for row in kept if isinstance(row, list) and len(row) == 5] if isinstance(kept, list) else []
    good = (row for row in rows if all(isinstance(text, str) for text in row[:4]) and isinstance(row.advice, str | None))
    return {row.check: row for row in good if row.check in LIVE_CHECKS and row.status in STATUSES}


def _tidy(row: Check) -> tuple:
    """Files may hold anything, and a row goes to terminals."""
    check, status, found, source, advice = ("".join(c if c.isprintable() else "?" for c in text or "") for text in row)
    return check, status, found if len(found) <= WIDTH else f"{found[: WIDTH - 3]}...", source, advice or None


def kernel(m: Machine) -> Check:
    """The kernel is newer than 3.5."""
    source = "proc/sys/kernel/osrelease"
    text = m.read(source)
    if text is None:
        source = "proc/version"
        text = (m.read(source) or "").removeprefix("Linux version ")
    numbers = re.match(r"([0-9]{1,3})\.([0-9]{1,5})", text)
    if not numbers:
        return m.unknown("kernel", f"/{source}")
    new = (int(numbers[1]), int(numbers[2])) > (3, 5)
    advice = None if new else "KVM works since 2.6.20; handing devices to guests by VFIO needs 3.6."
    words = f"{text.split()[0]}; {'' if new else 'not '}newer than 3.5 (VFIO came with 3.6)"
    return Check("kernel", "pass" if new else "warn", words, f"/{source}", advice)


def modules(m: Machine) -> Check:
    """The kernel has KVM, and its part for this processor."""
    check, source = "KVM modules", "/sys/module"
    there = [name for name in ("kvm", *m.back_ends) if m.root.exists(f"sys/module/{name}")]
    words = ", ".join(f"{name}{_how(m, name)}" for name in there)
    if m.registered:
        return Check(check, "pass", words or "the kernel has a kvm device", source if words else "/proc/misc")
    if m.registered is None and (m.back_ends or (there and m.architecture in ("Arm", "s390", "RISC-V", "LoongArch"))):
        return Check(check, "pass", words, source)
    if m.registered is None and not m.live:
        return m.unknown(check, source)
    own = "kvm_intel" if "vmx" in m.flags else "kvm_amd" if "svm" in m.flags else "kvm_hv" if m.architecture == "POWER" else "kvm"
    return Check(check, "fail", f"{words}; no kvm device" if words else "no kvm", source, f"modprobe {own}")


def _how(m: Machine, name: str) -> str:
    """Only what was loaded as a module has a state; others' recordings may leave that out."""
    listed = m.read("proc/modules")
    if m.root.exists(f"sys/module/{name}/initstate") or (listed and f"\n{name} " in f"\n{listed}"):
        return " (loaded)"
    return " (built in)" if m.whole or listed is not None else ""


def device(m: Machine) -> Check:
    """We may open /dev/kvm."""
    if m.answers is None:
        return m.not_asked(_DEVICE, _DEVICE)
    try:
        there = os.stat(_DEVICE)
    except OSError as error:
        return Check(_DEVICE, "fail", error.strerror or "not there", _DEVICE, _no_device(m))
    owners = f"{_name(pwd.getpwuid, there.st_uid)}:{_name(grp.getgrgid, there.st_gid)}"
    words = f"{stat.filemode(there.st_mode)} {owners}"
    if m.answers.problem:
        advice = "Join its group: sudo usermod -aG kvm $USER, then log in again; in a container: --device /dev/kvm."
        return Check(_DEVICE, "fail", f"{words}; cannot be opened: {m.answers.problem}", _DEVICE, advice)
    if os.geteuid() == 0 and not there.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        advice = f"libvirt's QEMU is a user of its own: chgrp kvm {_DEVICE} && chmod 660 {_DEVICE}"
        return Check(_DEVICE, "warn", f"{words}; opens, but for root only", _DEVICE, advice)
    return Check(_DEVICE, "pass", f"{words}; opens", _DEVICE)


def _no_device(m: Machine) -> str:
    if m.registered:
        return "The kernel has KVM, only the device is not shown here; a container is given it by --device /dev/kvm."
    return "Guests are emulated (TCG) until the rows above pass."


def _name(look_up, number: int) -> str:
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)


def api(m: Machine) -> Check:
    """KVM speaks the one version of its API that there is."""
    check, source = "KVM API", "KVM_GET_API_VERSION"
    if m.answers is None:
        return m.not_asked(check, source)
    if m.answers.api is None:
        return Check(check, "unknown", f"not asked: {m.answers.problem}", source)
    good = m.answers.api == 12
    return Check(
        check, "pass" if good else "fail", f"version {m.answers.api}", source, None if good else "Only 12 is in use, by all programs."
    )


_WORDS = {
    "USER_MEMORY": "user memory",
    "IRQCHIP": "irqchip",
    "X2APIC_API": "x2APIC",
    "BINARY_STATS_FD": "stats fd",
    "HYPERV": "Hyper-V",
    "TSC_CONTROL": "TSC scaling",
}


def capabilities(m: Machine) -> Check:
    """KVM has what guests need."""
    check, source = "KVM capabilities", "KVM_CHECK_EXTENSION"
    if m.answers is None:
        return m.not_asked(check, source)
    if not m.answers.capabilities:
        return Check(check, "unknown", f"not asked: {m.answers.problem}", source)
    asked = [name for name in _WORDS if m.architecture == "x86" or name not in ("X2APIC_API", "HYPERV", "TSC_CONTROL")]
    there = [_WORDS[name] for name in asked if m.answers.capabilities[name]]
    missing = [_WORDS[name] for name in asked if not m.answers.capabilities[name]]
    words = ", ".join(there) + (f"; not {', '.join(missing)}" if missing else "")
    if not m.answers.capabilities["USER_MEMORY"]:
        return Check(check, "fail", words, source, "QEMU cannot give guests memory.")
    if not m.answers.capabilities["BINARY_STATS_FD"]:
        return Check(check, "warn", words, source, "Exits by reason are not counted for QEMU; Linux 5.14 and later do.")
    return Check(check, "pass", words, source)


def vcpus(m: Machine) -> Check:
    """How many vCPUs a guest may have."""
    check, source = "vCPUs of a guest", "KVM_CHECK_EXTENSION: KVM_CAP_MAX_VCPUS, KVM_CAP_NR_VCPUS"
    if m.answers is None:
        return m.not_asked(check, source)
    if not m.answers.capabilities:
        return Check(check, "unknown", f"not asked: {m.answers.problem}", source)
    recommended = m.answers.capabilities["NR_VCPUS"] or 4  # api.rst: what to assume where it says nothing
    most = m.answers.capabilities["MAX_VCPUS"] or recommended
    return Check(
        check, "pass", f"at most {most}, recommended {recommended}; ids below {m.answers.capabilities['MAX_VCPU_ID'] or most}", source
    )


def speed(m: Machine) -> Check:
    """Guests are as fast as programs: measured, since /dev/kvm alone says little."""
    check, source = "guest speed", "a loop in user and kernel mode of a KVM guest"
    if m.answers is None:
        return m.not_asked(check, source)
    measured = kvmdev.probe()
    if measured.problem:
        broken = m.answers.problem is None and m.architecture == "x86"
        return Check(
            check, "fail" if broken else "unknown", measured.problem, source, "Guests are emulated (TCG) here." if broken else None
        )
    words = f"user code {kvmdev.percent(measured.user)}, kernel code {kvmdev.percent(measured.kernel)} of native speed"
    return Check(check, *_judge(measured, words, source))


def _judge(measured: kvmdev.Speed, words: str, source: str) -> tuple:
    if measured.user < _FAST:
        return "warn", words, source, "KVM is there and yet slow: emulation (TCG) serves as well, and Lab takes what is faster."
    if measured.kernel < _FAST:
        return (
            *("warn", words, source),
            "KVM is there and yet slow: as where it is nested, guest kernel code is emulated. A Linux guest would take minutes to "
            "boot (under TCG: seconds); the lab guest, which works in user mode, runs well.",
        )
    return "pass", words, source


CHECKS = (
    *(hypervisor.processor, hypervisor.virtual_machine, hypervisor.container, kernel, modules),
    *(device, api, capabilities, vcpus, speed),
    *(hypervisor.paging, hypervisor.interrupts, hypervisor.nested, hypervisor.halt_polling, hypervisor.iommu),
    *(tuning.smt, tuning.vulnerabilities, tuning.cgroups, tuning.schedstats, tuning.perf, tuning.huge_pages),
    *(tuning.ksm, tuning.numa_balancing, tuning.clock, tuning.frequency),
)
