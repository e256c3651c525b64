"""Readiness of the processor: its virtualization, its IOMMU, KVM's switches for it, and what this machine itself runs under.

Sources: /proc/cpuinfo, /sys/module/kvm*/parameters (Documentation/admin-guide/kernel-parameters.txt, kvm.*),
/sys/kernel/iommu_groups (Documentation/ABI/testing/sysfs-kernel-iommu_groups), ACPI's DMAR and IVRS tables; for the machine above:
CPUID leaf 0x40000000, DMI, the device tree, /proc/sysinfo (s390), as lscpu and systemd-detect-virt read them.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable

from kvmlab.host import kvmdev
from kvmlab.host.check import Check, Machine

_NESTED = "Switch on nested virtualization for this VM in the hypervisor above it; until then guests are emulated (TCG)."
_FIRMWARE = "Switch on VT-x or AMD-V in the firmware setup, if the processor has it; until then guests are emulated (TCG)."


def processor(m: Machine) -> Check:
    """The CPU can run guests."""
    check = "CPU virtualization"
    judge = _PROCESSORS.get(m.architecture or "")
    return Check(check, *judge(m)) if judge else m.unknown(check, "/proc/cpuinfo")


def _x86(m: Machine) -> tuple:
    source = "/proc/cpuinfo: flags"
    names = [name for flag, name in (("vmx", "vmx: Intel VT-x"), ("svm", "svm: AMD-V")) if flag in m.flags]
    if names:
        return "pass", ", ".join(names), source
    if "kvm_pvm" in m.back_ends:
        return "warn", "no vmx or svm; kvm_pvm runs guests without it", source, "Look at 'guest speed' for what that costs."
    return "fail", "no vmx or svm flag", source, _NESTED if "hypervisor" in m.flags else _FIRMWARE


def _arm(m: Machine) -> tuple:
    if m.registered:  # KVM there needs a kernel that was started in EL2
        return "pass", "EL2, since the kernel has a kvm device", "/proc/misc"
    advice = "dmesg | grep -i -e kvm -e EL2" if m.live else None
    return "unknown", "Arm has no flag for it; the kernel must start in EL2", "/proc/cpuinfo", advice


def _s390(m: Machine) -> tuple:
    source = "/proc/cpuinfo: features"
    if "sie" in m.flags:
        return "pass", "sie: interpretive execution", source
    if "facilities" in m.cpuinfo:  # a kernel that writes these (since 4.10) writes sie too (since 4.5)
        return "fail", "no sie in features", source, "Ask for nested virtualization in the hypervisor above."
    return "unknown", "no sie in features, but this kernel may not write it", source


def _power(m: Machine) -> tuple:
    source, system = "/proc/cpuinfo: platform", m.cpuinfo.get("platform")
    if system == "PowerNV":
        return "pass", "PowerNV: bare metal, kvm_hv", source
    if system == "pSeries":
        words = "pSeries: a guest; kvm_hv needs nested HV, kvm_pr is slow"
        return "pass" if m.registered else "warn", words, source, None if m.registered else "modprobe kvm_hv, or kvm_pr"
    return "unknown", f"platform: {system or 'not shown'}", source


def _riscv(m: Machine) -> tuple:
    source, isa = "/proc/cpuinfo: isa", m.cpuinfo["isa"]
    letters, many, _ = isa.partition("_")
    if "h" in letters:
        return "pass", "h: hypervisor extension", source
    if many:  # a kernel that writes the long names writes h too
        return "fail", "no h (hypervisor extension) in isa", source, "Guests are emulated (TCG) here."
    return "unknown", "no h in isa, but this kernel may not write it", source


def _loongarch(m: Machine) -> tuple:
    source = "/proc/cpuinfo: Features"
    if "lvz" in m.flags:
        return "pass", "lvz: LoongArch virtualization", source
    return "fail", "no lvz in Features", source, "Guests are emulated (TCG) here."


def _sparc(_m: Machine) -> tuple:
    return "fail", "SPARC: Linux has no KVM for it", "/proc/cpuinfo", "Guests are emulated (TCG) here."


_PROCESSORS: dict[str, Callable[[Machine], tuple]] = {
    "x86": _x86,
    "Arm": _arm,
    "s390": _s390,
    "POWER": _power,
    "RISC-V": _riscv,
    "LoongArch": _loongarch,
    "SPARC": _sparc,
}


def virtual_machine(m: Machine) -> Check:
    """This machine is itself a guest, and whose."""
    check = "virtual machine"
    under, source = next((hit for find in _FINDERS if (hit := find(m))), (None, None))
    if source is None:
        return m.unknown(check, "/proc/cpuinfo, /sys/class/dmi/id, /proc/device-tree")
    if under is None:
        return Check(check, "pass", "no", source)
    if under.startswith("PR/SM"):  # every s390 has it below, and KVM in a partition is the first to use SIE
        return Check(check, "pass", f"yes, under {under}", source)
    return Check(check, "warn", f"yes, under {under}", source, "Guests here are nested: timings also show the host above.")


# Each of these looks in one place: (what this machine runs under, source); (None, source) for nothing; None where it cannot tell.


def _by_xen(m: Machine) -> tuple | None:
    if m.read("sys/hypervisor/type") != "xen":
        return None
    first = "control_d" in (m.read("proc/xen/capabilities") or "")
    return "Xen, as its dom0" if first else "Xen", "/sys/hypervisor/type"


def _by_sysinfo(m: Machine) -> tuple | None:
    text = m.read("proc/sysinfo") or ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.endswith("Control Program") and value.strip():
            return value.strip(), "/proc/sysinfo"
        if name.startswith("LPAR") and value.strip():
            return "PR/SM, in a logical partition", "/proc/sysinfo: LPAR"
    return (None, "/proc/sysinfo: no Control Program") if text.startswith("Manufacturer:") else None


def _by_device_tree(m: Machine) -> tuple | None:
    tree = "proc/device-tree"
    if above := (m.read(f"{tree}/hypervisor/compatible") or "").strip("\0"):
        name = above.split("\0")[-1]
        return {"linux,kvm": "KVM", "xen,xen": "Xen"}.get(name, name), f"/{tree}/hypervisor/compatible"
    compatible = (m.read(f"{tree}/compatible") or "").split("\0")
    if {"qemu,pseries", "linux,dummy-virt", "riscv-virtio"} & set(compatible):
        return "QEMU", f"/{tree}/compatible"
    return ("PowerVM", f"/{tree}") if m.root.exists(f"{tree}/ibm,partition-name") else None


def _by_platform(m: Machine) -> tuple | None:
    system, source = m.cpuinfo.get("platform"), "/proc/cpuinfo: platform"
    return {"PowerNV": (None, source), "pSeries": ("PowerVM or KVM", source)}.get(system or "")


_SIGNATURES = {
    b"KVMKVMKVM": "KVM",
    b"TCGTCGTCGTCG": "QEMU (TCG)",
    b"Microsoft Hv": "Hyper-V",
    b"VMwareVMware": "VMware",
    b"XenVMMXenVMM": "Xen",
    b"VBoxVBoxVBox": "VirtualBox",
    b"bhyve bhyve ": "bhyve",
    b"ACRNACRNACRN": "ACRN",
}
# push rbx; mov eax, 0x40000000; cpuid; mov [rdi], ebx; mov [rdi+4], ecx; mov [rdi+8], edx; pop rbx; ret
_CPUID = bytes.fromhex("53 b800000040 0fa2 891f 894f04 895708 5b c3")


def _by_cpuid(m: Machine) -> tuple | None:
    if not (m.live and "hypervisor" in m.flags and platform.machine() == "x86_64"):
        return None
    said = ctypes.create_string_buffer(12)
    try:
        kvmdev.native(_CPUID, ctypes.c_char_p)(said)
    except OSError:
        return None
    name = _SIGNATURES.get(said.raw.rstrip(b"\0"))
    return (name, "CPUID leaf 0x40000000") if name else None


_DMI = (  # sys_vendor, product_name: how they begin
    ("QEMU", "", "QEMU"),
    ("VMware", "", "VMware"),
    ("innotek GmbH", "", "VirtualBox"),
    ("Microsoft Corporation", "Virtual Machine", "Hyper-V"),
    ("Xen", "", "Xen"),
    ("Parallels", "", "Parallels"),
    ("Google", "Google Compute Engine", "KVM (Google Compute Engine)"),
    ("Alibaba Cloud", "", "Alibaba Cloud's hypervisor"),
    ("OpenStack", "", "OpenStack's hypervisor"),
    ("Red Hat", "KVM", "KVM"),
    ("Apple", "Apple Virtualization", "Apple Virtualization"),
    ("BHYVE", "", "bhyve"),
)


def _by_dmi(m: Machine) -> tuple | None:
    for place in ("sys/class/dmi/id", "sys/devices/virtual/dmi/id"):
        vendor, product = (m.read(f"{place}/{name}") or "" for name in ("sys_vendor", "product_name"))
        if vendor == "Amazon EC2" and not product.endswith(".metal"):
            return "Amazon EC2's hypervisor", f"/{place}"
        for vendor_begin, product_begin, name in _DMI:
            if vendor.startswith(vendor_begin) and product.startswith(product_begin):
                return name, f"/{place}"
    return None


_PCI = {"80eebeef": "VirtualBox", "15ad0710": "VMware", "58530001": "Xen"}  # as lscpu: their graphics cards, Xen's platform device


def _by_pci(m: Machine) -> tuple | None:
    for line in (m.read("proc/bus/pci/devices") or "").splitlines():
        if name := _PCI.get([*line.split(), "", ""][1]):
            return name, "/proc/bus/pci/devices"
    return None


def _by_flag(m: Machine) -> tuple | None:
    source = "/proc/cpuinfo: flags"
    if m.architecture != "x86":
        return None
    return ("a hypervisor that gives no name" if "hypervisor" in m.flags else None), source


_FINDERS = (_by_xen, _by_sysinfo, _by_device_tree, _by_platform, _by_cpuid, _by_dmi, _by_pci, _by_flag)


def container(m: Machine) -> Check:
    """We are in a container, which must be given /dev/kvm."""
    check = "container"
    name = m.read("run/systemd/container")
    signs = ((".dockerenv", "docker"), ("run/.containerenv", "podman"))
    kind, source = next(((kind, path) for path, kind in signs if m.root.exists(path)), (name, "run/systemd/container"))
    if kind:
        shut_out = m.live and not m.root.exists("dev/kvm")
        advice = "Start it with --device /dev/kvm." if shut_out else None
        return Check(check, "warn" if shut_out else "pass", f"yes: {kind}", f"/{source}", advice)
    source = "/.dockerenv, /run/.containerenv, /run/systemd/container"
    return Check(check, "pass", "no sign of one", source) if m.live else m.unknown(check, source)


def iommu(m: Machine) -> Check:
    """Devices can be handed to guests."""
    check, tables = "IOMMU", set(m.root.list("sys/firmware/acpi/tables"))
    groups = len(m.root.numbered("sys/kernel/iommu_groups"))
    units = len(m.root.list("sys/class/iommu"))
    name, option = ("VT-d", "intel_iommu=on") if "DMAR" in tables else ("AMD-Vi", "iommu=pt") if "IVRS" in tables else ("IOMMU", "")
    asked = [word for word in (m.read("proc/cmdline") or "").split() if word.startswith(("intel_iommu=", "amd_iommu=", "iommu="))]
    given = f"; {' '.join(asked)}" if asked else ""
    if groups:
        return Check(check, "pass", f"{name}: {groups} groups, {units} units{given}", "/sys/kernel/iommu_groups")
    if option:
        advice = f"To hand PCI devices to guests add {option} to the kernel's command line."
        return Check(check, "warn", f"{name} in the firmware, but no groups{given}", "/sys/kernel/iommu_groups", advice)
    if tables and m.architecture == "x86":
        where = (
            "the hypervisor above must give one to this machine"
            if "hypervisor" in m.flags
            else "switch on VT-d or AMD-Vi in the firmware setup"
        )
        advice = f"Only handing PCI devices to guests needs it: {where}."
        return Check(check, "warn", f"none: no DMAR or IVRS table, no groups{given}", "/sys/firmware/acpi/tables", advice)
    return m.unknown(check, "/sys/kernel/iommu_groups, /sys/firmware/acpi/tables")


def _parameter(m: Machine, check: str, places: tuple, advice: str) -> Check:
    """The row of a switch that has another name in each back end: (module, parameter, what it is)."""
    for module, parameter, name in places:
        path = f"sys/module/{module}/parameters/{parameter}"
        if (on := m.switch(path)) is not None:
            return Check(check, "pass" if on else "warn", f"{name}: {'on' if on else 'off'}", f"/{path}", None if on else advice)
    source = "/sys/module: " + ", ".join(f"{module}.{parameter}" for module, parameter, _ in places)
    its_modules = {module for module, _, _ in places}
    if its_modules == {"kvm_intel", "kvm_amd"} and m.architecture not in ("x86", None):
        return Check(check, "unknown", "only x86 has this switch", source)
    if m.back_ends and its_modules.isdisjoint(m.back_ends):
        return Check(check, "unknown", f"{', '.join(m.back_ends)} has no such switch", source)
    return m.unknown(check, source)


def paging(m: Machine) -> Check:
    """The CPU translates guest addresses itself."""
    places = (("kvm_intel", "ept", "EPT"), ("kvm_amd", "npt", "NPT"))
    return _parameter(m, "two-level paging", places, "Without it KVM shadows each guest page table: reload the module with it on.")


def interrupts(m: Machine) -> Check:
    """Interrupts reach a running vCPU without an exit."""
    places = (("kvm_intel", "enable_apicv", "APICv"), ("kvm_amd", "avic", "AVIC"))
    return _parameter(
        m, "interrupt virtualization", places, "Each interrupt costs an exit; where the CPU has it, reload the module with it on."
    )


def nested(m: Machine) -> Check:
    """Guests can run guests."""
    places = (
        ("kvm_intel", "nested", "kvm_intel"),
        ("kvm_amd", "nested", "kvm_amd"),
        ("kvm_hv", "nested", "kvm_hv"),
        ("kvm", "nested", "kvm"),
    )
    return _parameter(m, "nested guests", places, "Only guests that run guests need it: reload the module with nested=1.")


def halt_polling(m: Machine) -> Check:
    """How long an idle vCPU's thread keeps the host CPU busy before it sleeps."""
    path = "sys/module/kvm/parameters/halt_poll_ns"
    longest = m.root.number(path)
    if longest is None or longest < 0:
        return m.unknown("halt polling", f"/{path}")
    words = f"an idle vCPU polls for up to {longest / 1000:g} µs, in kernel time" if longest else "off: an idle vCPU sleeps at once"
    return Check("halt polling", "pass", words, f"/{path}")
