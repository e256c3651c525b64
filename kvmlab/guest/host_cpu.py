"""A host's CPU in libvirt's words: vendor, signature and features, from /proc/cpuinfo, from libvirt's own XML, or made up from a model."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from kvmlab.errors import CpuModelError
from kvmlab.guest import cpumap
from kvmlab.guest.flag_names import proven, shown_as
from kvmlab.host.check import Machine
from kvmlab.host.host import Host

_ARCHS = {"x86": "x86", "Arm": "arm", "POWER": "ppc64", "s390": "s390x", "RISC-V": "riscv", "LoongArch": "loongarch"}
# Linux takes these off its list where it does not use them, and KVM gives them to guests all the same: la57 without five levels of
# page tables; sep with some 64-bit kernels, of recordings of a Xeon and an Opteron: only a hypervisor can make a 64-bit CPU lack it.
_ALSO_HIDDEN = frozenset(["la57", "sep"])
_ARCH_CAPABILITIES = 0x10A  # the register whose bits only exist where the flag arch_capabilities does
_BROKEN_TSX = {60: range(16), 69: range(16), 70: range(16), 63: range(4)}  # Intel family 6: model to steppings; libvirt drops hle and rtm

# Not for guests: kvm_set_cpu_caps in Linux 6.1, arch/x86/kvm/cpuid.c, masks them, or they mirror what the guest itself turned on.
_HOST_ONLY = frozenset(
    [
        *("ds", "acpi", "ht", "tm", "ia64", "pbe", "pn", "dtes64", "monitor", "ds_cpl", "smx", "est", "tm2", "cid", "xtpr", "dca"),
        *("osxsave", "ospke", "cmt", "mbm_total", "mbm_local", "intel-pt", "pconfig"),
        *("extapic", "ibs", "skinit", "wdt", "lwp", "tce", "nodeid_msr", "perfctr_nb", "svm-lock", "avic"),
    ]
)
# Given to guests whatever the host's CPU has: there too, and in QEMU's kvm_arch_get_supported_cpuid.
_ALWAYS_GIVEN = frozenset(["x2apic", "tsc-deadline", "tsc_adjust", "arat", "arch-capabilities", "hypervisor", "umip"])


def movable(features: Iterable[str]) -> frozenset[str]:
    """Those that a guest can have and take along: not invtsc and its like, nor what no guest or any guest gets."""
    known = cpumap.load().features()
    return frozenset(feature for feature in features if known[feature].migratable) - _HOST_ONLY - _ALWAYS_GIVEN


@dataclass(frozen=True)
class Cpu:
    """A host's CPU, as libvirt would describe it.

    Attributes
    ----------
    name : str
        Of the host.
    arch : str
        As libvirt's cpu_map calls it: x86, ppc64, arm, ...
    vendor : str, optional
        Intel, AMD or Hygon; of others what CPUID says.
    features : set
        libvirt's names of what it surely has, on all of its CPUs.
    unknown : set
        libvirt's names of what it may have: where it was described by /proc/cpuinfo, which does not show everything.
    signature : tuple, optional
        Family, model and stepping.
    made_up : bool
        It is no machine, but the flags of a CPU model.
    """

    name: str
    arch: str
    vendor: str | None
    features: frozenset[str]
    unknown: frozenset[str] = frozenset()
    signature: tuple[int, int, int] | None = None
    made_up: bool = False
    described_as: str | None = None  # the model, where libvirt or the user has named it

    def __repr__(self) -> str:
        return f"Cpu {self.name}: {self.vendor or 'any vendor'}, {len(self.features)} features" + (", made up" if self.made_up else "")

    @classmethod
    def of_host(cls, host: Host, name: str | None = None) -> Cpu:
        """The CPU of a live or recorded host; where its CPUs differ, what all of them have.

        Raises
        ------
        CpuModelError
            Where the host's /proc/cpuinfo is missing or says no architecture that libvirt knows.

        Examples
        --------
        >>> Cpu.of_host(Host()).vendor                                                   # doctest: +SKIP
        'Intel'
        """
        name = name or host.name
        machine = Machine(host.root)
        arch = _ARCHS.get(machine.architecture or "")
        if arch is None:
            raise CpuModelError(f"'{name}': its /proc/cpuinfo is missing, or of an architecture whose models libvirt does not know.")
        if arch != "x86":
            return cls(name, arch, None, frozenset())
        said = machine.cpuinfo
        flags = host.flags()
        shared = set(flags["flag"][flags["cpus"].str.len().eq(flags["cpus"].str.len().max())])
        return cls._of_cpuinfo(name, said, shared)

    @classmethod
    def _of_cpuinfo(cls, name: str, said: dict[str, str], flags: set[str]) -> Cpu:
        known = cpumap.load()
        vendor = {long: short for short, long in known.vendors().items()}.get(said.get("vendor_id"), said.get("vendor_id"))
        signature = _signature(said)
        features = frozenset(proven(flags, said.get("vendor_id", "")) & known.features().keys())
        if "lm" in flags and "hypervisor" not in flags:
            features |= {"sep"}
        hidden = frozenset(feature for feature in known.features() if _hidden(feature, flags)) - features
        if vendor == "Intel" and signature and signature[0] == 6 and signature[2] in _BROKEN_TSX.get(signature[1], ()):
            features -= {"hle", "rtm"}
        return cls(name, "x86", vendor, features, hidden, signature)

    @classmethod
    def of_model(cls, model: str, name: str | None = None) -> Cpu:
        """A made-up host that has a CPU model's flags and no others.

        Raises
        ------
        CpuModelError
            For an unknown model.

        Examples
        --------
        >>> Cpu.of_model("Westmere").vendor                                              # doctest: +SKIP
        'Intel'
        """
        found = cpumap.load().model(model)
        return cls(name or model, "x86", found.vendor, found.features, made_up=True, described_as=model)

    @classmethod
    def of_xml(cls, xml: str, name: str) -> Cpu:
        """What libvirt says of an x86 CPU: the <cpu> of `virsh capabilities`, or <mode name='host-model'> of `virsh domcapabilities`.

        The first is the host's own CPU, the second what KVM and QEMU can make of it for a guest.

        Raises
        ------
        CpuModelError
            For XML that is none of these, and a model that cpu_map does not have.
        """
        try:
            cpu = ET.fromstring(xml)
        except ET.ParseError as error:
            raise CpuModelError(f"The CPU of '{name}' is no XML: {error}.") from error
        if cpu.findtext("model") is None:
            raise CpuModelError(f"The XML of '{name}' has no <model>: pass the <cpu> of virsh capabilities.")
        named = {feature.get("name", ""): feature.get("policy", "require") for feature in cpu.findall("feature")}
        off = {feature for feature, policy in named.items() if policy in ("disable", "forbid")}
        found = cpumap.load().model(cpu.findtext("model"))
        described_as = None if off & found.features else found.name
        features = frozenset(found.features | named.keys()) - off
        return cls(name, "x86", cpu.findtext("vendor") or found.vendor, features, described_as=described_as)

    def named(self, name: str) -> Cpu:
        """The same CPU in a host of another name."""
        return replace(self, name=name)

    @cached_property
    def model(self) -> str | None:
        """The model that libvirt describes this host by in `virsh capabilities`: of those that it has all flags of, the nearest."""
        if self.described_as:
            return self.described_as
        best: cpumap.Model | None = None
        for model in reversed(cpumap.load().models(self.arch).values()):
            if model.decode_host and model.vendor in (None, self.vendor) and model.features <= self.features:
                best = model if best is None or self._nearer(model, best) else best
        return best and best.name

    def _nearer(self, model: cpumap.Model, best: cpumap.Model) -> bool:
        """Its signature is this CPU's; else, more of the flags are the model's (libvirt: x86DecodeUseCandidate)."""
        if self._is_of(model) != self._is_of(best):
            return self._is_of(model)
        return len(model.features) > len(best.features)

    def _is_of(self, model: cpumap.Model) -> bool:
        if self.signature is None:
            return False
        *kind, stepping = self.signature
        return any(kind == [s.family, s.model] and (not s.steppings or stepping in s.steppings) for s in model.signatures)

    @property
    def xml(self) -> str:
        """The <cpu> element of this host as `virsh capabilities` would write it: what `virsh cpu-baseline` takes."""
        if self.model is None:
            raise CpuModelError(f"libvirt has no CPU model whose flags '{self.name}' has all: it cannot describe it.")
        extra = sorted(self.features - cpumap.load().model(self.model).features)
        vendor = f"<vendor>{self.vendor}</vendor>" if self.vendor in cpumap.load().vendors() else ""
        listed = "".join(f"<feature name='{feature}'/>" for feature in extra)
        return f"<cpu><arch>x86_64</arch><model>{self.model}</model>{vendor}{listed}</cpu>"


def _signature(said: dict[str, str]) -> tuple[int, int, int] | None:
    numbers = [said.get(key, "") for key in ("cpu family", "model", "stepping")]
    return tuple(map(int, numbers)) if all(number.isdecimal() for number in numbers) else None


def _hidden(feature: str, flags: set[str]) -> bool:
    """Whether /proc/cpuinfo would not show it, if it were there."""
    places = cpumap.load().features()[feature].places
    if any(place.kind == "msr" and place.leaf == _ARCH_CAPABILITIES for place in places):
        return "arch_capabilities" in flags and not shown_as(feature)
    return not shown_as(feature) or feature in _ALSO_HIDDEN
