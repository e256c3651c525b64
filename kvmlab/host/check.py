"""What the readiness checks share: the row they return, and one machine's files, each read once.

Sources: /proc/cpuinfo (Documentation/arch/x86/cpuinfo.rst; other architectures: arch/*/kernel), /proc/misc, /sys/module.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import NamedTuple

from kvmlab.host import kvmdev
from kvmlab.host.sysroot import SysRoot

BACK_ENDS = ("kvm_intel", "kvm_amd", "kvm_pvm", "kvm_hv", "kvm_pr")  # elsewhere kvm itself is all
_SWITCH = {"Y": True, "1": True, "N": False, "0": False}


class Check(NamedTuple):
    """One row of columns.FRAMES["support"]."""

    check: str
    status: str
    found: str
    source: str
    advice: str | None = None


class Machine:
    """The files of a live or recorded machine, each read once, and what several checks ask of them."""

    def __init__(self, root: SysRoot):
        self.root, self.live = root, root.live
        self.whole = root.live or root.manifest.get("complete") is True  # what is missing was not there
        self._texts: dict[str, str | None] = {}

    def read(self, path: str) -> str | None:
        if path not in self._texts:
            self._texts[path] = self.root.read(path)
        return self._texts[path]

    def switch(self, path: str) -> bool | None:
        """A module parameter that is Y or N, 1 or 0."""
        return _SWITCH.get(self.read(path) or "")

    def unknown(self, check: str, source: str) -> Check:
        """The row of a check whose files are not there."""
        return Check(check, "unknown", "not shown by this machine" if self.whole else "not recorded", source)

    def not_asked(self, check: str, source: str) -> Check:
        """The row of a check that needs the machine itself."""
        return Check(check, "unknown", "not recorded: only a running machine can be asked", source)

    @cached_property
    def cpuinfo(self) -> dict[str, str]:
        """The lines of /proc/cpuinfo, of those that come more than once the first."""
        fields: dict[str, str] = {}
        for line in (self.read("proc/cpuinfo") or "").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip(), value.strip())
        return fields

    @cached_property
    def flags(self) -> frozenset[str]:
        return frozenset(word for name in ("flags", "features", "Features") for word in self.cpuinfo.get(name, "").split())

    @cached_property
    def architecture(self) -> str | None:
        """x86, Arm, s390, POWER, RISC-V, LoongArch or SPARC, by how /proc/cpuinfo is written there."""
        info = self.cpuinfo
        signs = {
            "x86": "fpu" in info.get("flags", "").split(),
            "Arm": "CPU implementer" in info,
            "s390": info.get("vendor_id") == "IBM/S390",
            "POWER": "POWER" in info.get("cpu", "") or info.get("platform") in ("PowerNV", "pSeries"),
            "RISC-V": info.get("isa", "").startswith("rv"),
            "LoongArch": info.get("CPU Family", "").startswith("Loongson"),
            "SPARC": "sparc" in info.get("cpu", "").lower(),
        }
        return next((name for name, here in signs.items() if here), None)

    @cached_property
    def registered(self) -> bool | None:
        """The kernel has a kvm device, whether or not /dev shows it; None where /proc/misc is not known."""
        names = re.findall(r"^ *\d+ (\S+)$", self.read("proc/misc") or "", re.MULTILINE)
        return "kvm" in names if names else None

    @cached_property
    def back_ends(self) -> tuple[str, ...]:
        """The modules that do KVM's work on this processor."""
        return tuple(name for name in BACK_ENDS if self.root.exists(f"sys/module/{name}"))

    @cached_property
    def answers(self) -> kvmdev.Answers | None:
        """What /dev/kvm says of itself; None for a recording."""
        return kvmdev.ask() if self.live else None
