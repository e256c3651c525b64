"""What a recording must not tell: people, machines, networks, serial numbers, command lines.

Scrubbing is by file: what is known to be harmless (numbers, masks, flags) stays byte for byte; free text is searched for names and
addresses; of the kernel's command line only the parameters stay that say something about CPUs.
"""

from __future__ import annotations

import os
import re
from collections import Counter

from kvmlab.host.unix import pwd

_KEPT_PARAMETERS = frozenset(
    """
    isolcpus nohz_full nohz rcu_nocbs rcu_nocb_poll irqaffinity threadirqs skew_tick preempt idle maxcpus nr_cpus possible_cpus nosmt
    mitigations intel_iommu amd_iommu iommu iommu.passthrough hugepages hugepagesz default_hugepagesz transparent_hugepage numa
    numa_balancing cgroup_disable cgroup_enable cgroup_no_v1 systemd.unified_cgroup_hierarchy psi clocksource tsc no-kvmclock
    processor.max_cstate intel_idle.max_cstate intel_pstate amd_pstate cpuidle.off nested_pvm quiet ro
    """.split()  # noqa: SIM905  a list literal would take fifty lines
)
_KEPT_PREFIXES = ("kvm.", "kvm-", "kvm_", "spec_", "spectre_", "l1tf", "mds", "tsx", "retbleed", "srbds", "mmio_stale", "gather_data")
_KEPT_STATUS = (b"Uid:", b"Cpus_allowed:", b"Cpus_allowed_list:")
_MEMORY_FIELDS = {*range(26, 31), 35, *range(45, 52)}  # of proc(5) stat: where code, stack and arguments lie
_SERIALS = re.compile(rb"^((?:Serial|Sequence Code|Plant|(?:LPAR|VM\d\d) (?:Name|Extended Name|UUID))\s*:).*$", re.MULTILINE)
_IDENTIFICATION = re.compile(rb"(identification = )[0-9A-Fa-f]+")  # s390x: with the machine's serial number in it
_ADDRESSES = {
    "UUIDs": re.compile(rb"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"),
    "MAC addresses": re.compile(rb"(?<![0-9a-fA-F:])[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}(?![0-9a-fA-F:])"),
    "IPv4 addresses": re.compile(rb"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
    "IPv6 addresses": re.compile(rb"(?<![0-9a-fA-F:])(?:[0-9a-fA-F]{1,4}:){2,7}:?[0-9a-fA-F]{1,4}(?![0-9a-fA-F:])"),
    "mail addresses": re.compile(rb"[\w.+-]+@[\w.-]+"),
}
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD, in field 9 of proc(5) stat
_QEMU_THREADS = re.compile(rb"CPU \d+/(?:KVM|TCG)|IO [\w-]+|vnc_worker|worker|call_rcu|qemu-[\w-]+|SPICE Worker|vhost-\d+|kvm-[\w/-]+")
_PROGRAMS = frozenset(  # whose names tell what a host is for, and of nobody
    b"""
    systemd init sh bash zsh dash python python3 sshd sudo cron dbus-daemon systemd-journal systemd-udevd systemd-logind
    libvirtd virtqemud     virtlogd virtlockd dnsmasq dockerd containerd containerd-shim kubelet irqbalance chronyd
    rsyslogd tuned jupyter jupyter-lab ps top scrubbed
    """.split()
)
_COMMON_GROUPS = re.compile(
    r"(?:system|user|machine|init|kubepods|docker|lxc|libvirt|qemu|vms|isolated)(?:\.slice|\.scope)?|cpuset|unified"
)


class Scrubber:
    """Cleans one machine's files, and counts what it took out."""

    def __init__(self, live: bool):
        self._counts: Counter[str] = Counter()
        self._groups: dict[str, str] = {}
        self._names = _names_of_this_machine() if live else None

    def report(self) -> dict[str, int]:
        """What was scrubbed, and how often."""
        return {what: count for what, count in sorted(self._counts.items()) if count}

    def path(self, path: str) -> str:
        """The same path with people's names for cgroups replaced by numbers."""
        if not path.startswith("sys/fs/cgroup/"):
            return path
        parts = path.split("/")
        return "/".join(parts[:3] + [self._group(part, n == len(parts) - 1) for n, part in enumerate(parts[3:], start=3)])

    def content(self, path: str, data: bytes) -> bytes | None:
        """The file's content as it may be kept; None to leave the file out."""
        folder, _, name = path.rpartition("/")
        if folder.startswith("proc/") and folder[5:6].isdigit():
            return self._of_process(name, data)
        if path == "proc/cmdline":
            return self._parameters(data)
        if path in ("proc/mounts", "proc/self/mounts", "proc/self/mountinfo"):
            kept = [line for line in data.splitlines(keepends=True) if b" cgroup" in line]
            return self._text(b"".join(kept))
        if path in ("proc/cpuinfo", "proc/sysinfo"):
            return self._serials(data)
        return self._text(data) if path in ("proc/version", "proc/modules") else data

    def _of_process(self, name: str, data: bytes) -> bytes | None:
        if name == "cmdline":
            self._counts["command lines"] += bool(data)
            return None if data else data
        if name == "status":
            return b"".join(line for line in data.splitlines(keepends=True) if line.startswith(_KEPT_STATUS))
        if name != "stat":
            return self._text(data)
        head, bracket, tail = data.rpartition(b")")  # the name itself may hold brackets
        fields = tail.split(b" ")
        of_kernel = len(fields) > 7 and fields[7].isdigit() and int(fields[7][:18]) & _KERNEL_THREAD
        fields = [b"0" if n + 2 in _MEMORY_FIELDS else field for n, field in enumerate(fields)]
        number, opening, comm = head.partition(b"(")
        return number + opening + self._thread(comm, bool(of_kernel)) + bracket + b" ".join(fields)

    def _thread(self, comm: bytes, of_kernel: bool) -> bytes:
        """Anybody may give a thread any name (libvirt: that of a guest); the kernel names one after each NFS server."""
        if of_kernel:
            return b"scrubbed-manager" if comm.endswith(b"-manager") else self._text(comm)
        if comm in _PROGRAMS or _QEMU_THREADS.fullmatch(comm):
            return comm
        self._counts["names of threads"] += 1
        return b"scrubbed"

    def _parameters(self, data: bytes) -> bytes:
        words = data.decode("utf-8", "backslashreplace").split()
        kept = [word for word in words if _kept(word.partition("=")[0])]
        self._counts["kernel parameters"] += len(words) - len(kept)
        return self._text(" ".join(kept).encode()) + b"\n"

    def _serials(self, data: bytes) -> bytes:
        data, first = _SERIALS.subn(rb"\1 scrubbed", data)
        data, second = _IDENTIFICATION.subn(rb"\g<1>000000", data)
        self._counts["serial numbers"] += first + second
        return data

    def _text(self, data: bytes) -> bytes:
        for what, pattern in _ADDRESSES.items():
            data, count = pattern.subn(b"scrubbed", data)
            self._counts[what] += count
        if self._names:
            data, count = self._names.subn(b"scrubbed", data)
            self._counts["user and host names"] += count
        return data

    def _group(self, part: str, last: bool) -> str:
        if _COMMON_GROUPS.fullmatch(part) or (last and re.match(r"(cgroup|cpuset)\.", part)) or part == "cpuset":
            return part
        if part not in self._groups:
            self._groups[part] = f"group{len(self._groups)}"
            self._counts["cgroup names"] += 1
        return self._groups[part]


def _kept(parameter: str) -> bool:
    return parameter in _KEPT_PARAMETERS or parameter.startswith(_KEPT_PREFIXES)


def _names_of_this_machine() -> re.Pattern[bytes] | None:
    """People's accounts and the host's name, as whole words."""
    host = os.uname().nodename
    names = {host, host.partition(".")[0], *(user.pw_name for user in pwd.getpwall() if 1000 <= user.pw_uid < 65534)}
    words = sorted((re.escape(os.fsencode(name)) for name in names if len(name) > 2 and name != "localhost"), key=len, reverse=True)
    return re.compile(rb"(?<![A-Za-z0-9])(?:" + b"|".join(words) + rb")(?![A-Za-z0-9])", re.IGNORECASE) if words else None
