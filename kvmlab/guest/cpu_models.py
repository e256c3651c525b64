"""The CPU models that libvirt knows, what is usable here, and what libvirt makes of a <cpu> element.

Sources: virConnectGetCPUModelNames (the names), virConnectGetDomainCapabilities (usable, deprecated; what stands in the way,
<blockers>, from libvirt 10.9 on), libvirt's cpu_map files (vendor, inheritance, flags), and QEMU's query-cpu-definitions (what
stands in the way where libvirt is older; the versions of a model).
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kvmlab.columns import frame
from kvmlab.errors import CpuModelError, GuestError
from kvmlab.guest import cpumap, qemu_once
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.cpu_xml import nearest

if TYPE_CHECKING:
    import pandas as pd

ARCHITECTURES = ("x86_64", "ppc64", "aarch64", "s390x")
DOMAIN_TYPE = {"kvm": "kvm", "tcg": "qemu"}
_EXPAND = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
_NOT_OF_QEMU = "QEMU here has no model of that name, or says nothing of it"
_BOOLEAN = {"yes": True, "no": False}


@dataclass
class Capabilities:
    """What libvirt's domain capabilities and QEMU say of the models of one accelerator; `problem` where there are none."""

    problem: str | None = None
    emulator: str = ""
    models: dict[str, ET.Element] = field(default_factory=dict)
    host_model: ET.Element | None = None
    missing: dict[str, list[str]] = field(default_factory=dict)  # model to the flags in its way
    missing_problem: str | None = None
    definitions: dict[str, dict] = field(default_factory=dict)  # QEMU's own list


def models(connection: libvirt.virConnect, arch: str = "x86_64") -> pd.DataFrame:
    """What ``Lab.cpu_models`` does."""
    check_arch(arch)
    with explained(f"Asking for the CPU models of {arch}"):
        names = connection.getCPUModelNames(arch)
    kvm, tcg = capabilities(connection, arch, "kvm"), capabilities(connection, arch, "tcg")
    names += [name for name in {**tcg.models, **kvm.models} if name not in names]
    result = frame([_row(arch, name, kvm, tcg) for name in names], "cpu_models")
    return with_reasons(result, _unavailable(arch, result, kvm, tcg))


def with_reasons(result: pd.DataFrame, reasons: Mapping[str, str]) -> pd.DataFrame:
    """The frame with the reasons for the gaps that it has."""
    result.attrs["unavailable"] = {column: why for column, why in reasons.items() if result.empty or result[column].isna().any()}
    return result


def check_arch(arch: str) -> None:
    """Raise a CpuModelError for an architecture of which kvmlab cannot ask."""
    if arch not in ARCHITECTURES:
        raise CpuModelError(f"Architecture {arch!r}:{nearest(str(arch), ARCHITECTURES)} Write one of {', '.join(ARCHITECTURES)}.")


def known_names(connection: libvirt.virConnect) -> dict[str, list[str]]:
    """Architecture to the names of the CPU models that libvirt knows of it."""
    with explained("Asking for the names of the CPU models"):
        return {arch: connection.getCPUModelNames(arch) for arch in ARCHITECTURES}


def _row(arch: str, name: str, kvm: Capabilities, tcg: Capabilities) -> tuple:
    written = cpumap.load().models(arch).get(name)
    listed = kvm.models.get(name, tcg.models.get(name))
    defined = tcg.definitions or kvm.definitions
    alias = defined.get(name, {}).get("alias-of")
    return (
        *(arch, name, _vendor(written, listed)),
        *(_usable(name, kvm), _usable(name, tcg), _missing(name, kvm), _missing(name, tcg)),
        *(_deprecated(name, listed, defined), alias, _versions(alias, defined)),
        *(written and written.parent, len(written.features) if written and written.features else None),
    )


def _vendor(written: cpumap.Model | None, listed: ET.Element | None) -> str | None:
    vendor = listed.get("vendor") if listed is not None else None
    return (written and written.vendor) or (vendor if vendor != "unknown" else None)


def _usable(name: str, able: Capabilities) -> bool | None:
    """A model that libvirt knows and QEMU does not is of no use here."""
    if able.problem:
        return None
    return _BOOLEAN.get(able.models[name].get("usable", "")) if name in able.models else False


def _missing(name: str, able: Capabilities) -> str | None:
    return ", ".join(able.missing[name]) if name in able.missing else None


def _deprecated(name: str, listed: ET.Element | None, defined: dict[str, dict]) -> bool | None:
    if listed is not None and "deprecated" in listed.attrib:
        return listed.get("deprecated") == "yes"
    return defined.get(name, {}).get("deprecated")


def _versions(alias: str | None, defined: dict[str, dict]) -> str | None:
    """QEMU's versions of a model with the names that stand for them: Westmere-v1, Westmere-v2 (Westmere-IBRS)."""
    if not alias:
        return None
    family = alias.rpartition("-v")[0]
    names = {entry["alias-of"]: name for name, entry in defined.items() if "alias-of" in entry}
    own = sorted((n for n in defined if n.rpartition("-v")[0] == family and n.rpartition("-v")[2].isdigit()), key=_number)
    return ", ".join(f"{version} ({names[version]})" if names.get(version, family) != family else version for version in own)


def _number(version: str) -> int:
    return int(version.rpartition("-v")[2])


def _unavailable(arch: str, models: pd.DataFrame, kvm: Capabilities, tcg: Capabilities) -> dict[str, str]:
    """Why columns have gaps."""
    if models.empty:
        emulator = f"; {tcg.problem}" if tcg.problem else ""
        return {"model": f"libvirt has no list of {arch}: it takes any name, and QEMU decides{emulator}"}
    reasons = {"vendor": "the model is of no vendor", "features": f"libvirt's list of {arch} names no flags of a model"}
    reasons["inherits"] = (
        "each model in this libvirt's list names all its flags itself" if models.inherits.isna().all() else "it builds on none"
    )
    for accel, able in (("kvm", kvm), ("tcg", tcg)):
        reasons[accel] = able.problem or f"QEMU does not tell what of {arch} is usable"
        reasons[f"{accel}_missing"] = able.problem or able.missing_problem or _NOT_OF_QEMU
    return reasons | dict.fromkeys(("alias_of", "versions", "deprecated"), tcg.problem or tcg.missing_problem or _NOT_OF_QEMU)


# ---- what an accelerator can do


def capabilities(connection: libvirt.virConnect, arch: str, accel: str) -> Capabilities:
    """What libvirt and QEMU say of the CPU models of an architecture under "kvm" or "tcg"."""
    try:
        root = ET.fromstring(connection.getDomainCapabilities(None, arch, None, DOMAIN_TYPE[accel]))
    except libvirt.libvirtError as error:  # no emulator of that architecture, or no KVM
        return Capabilities(problem=f"libvirt says: {error.get_error_message()}")
    custom = root.find("cpu/mode[@name='custom']")
    able = Capabilities(
        emulator=root.findtext("path", ""),
        models={model.text: model for model in custom.findall("model")} if custom is not None else {},
        host_model=root.find("cpu/mode[@name='host-model'][@supported='yes']"),
    )
    _ask_qemu(able, connection, accel)
    if blockers := custom.findall("blockers") if custom is not None else []:
        able.missing = {name: [] for name in able.models if able.models[name].get("usable") == "yes"}
        able.missing |= {block.get("model"): [part.get("name") for part in block] for block in blockers}
    return able


def _ask_qemu(able: Capabilities, connection: libvirt.virConnect, accel: str) -> None:
    if urlsplit(connection.getURI()).hostname or not os.access(able.emulator, os.X_OK):
        able.missing_problem = f"{able.emulator} is not on this machine, and this libvirt does not say what is missing (10.9 does)"
        return
    try:
        answer = qemu_once.ask(able.emulator, accel, "query-cpu-definitions")
    except GuestError as error:
        able.missing_problem = str(error)
        return
    able.definitions = {entry["name"]: entry for entry in answer}
    flags = {entry["name"]: entry["unavailable-features"] for entry in answer if "unavailable-features" in entry}
    able.missing = {name: list(dict.fromkeys(flags[name])) for name in able.models if name in flags}


# ---- what libvirt makes of a <cpu> element


def expand(connection: libvirt.virConnect, cpu: str, accel: str, arch: str = "x86_64") -> pd.DataFrame:
    """What ``Lab.cpu_expansion`` does, of a <cpu> element."""
    able = capabilities(connection, arch, accel)
    if able.problem:
        raise GuestError(f"What a CPU becomes under {accel.upper()} cannot be told: {able.problem}.")
    mode = ET.fromstring(cpu).get("mode", "custom")
    if mode in ("host-passthrough", "maximum"):
        why = f"libvirt hands {mode} on to QEMU as it is: start a guest and ask its CPUID"
        return frame([], "cpu_expansion", {"feature": why})
    named = _named(cpu, able) if mode == "host-model" else cpu
    short, full = (_baseline(connection, named, accel, arch, flags) for flags in (0, _EXPAND))
    best = None if able.host_model is None else _baseline(connection, _named("<cpu/>", able), accel, arch, _EXPAND)
    unknown = {"possible": "libvirt offers no host-model here, which would tell"}
    return with_reasons(frame(list(_expansion(short, full, best)), "cpu_expansion"), unknown)


def _named(cpu: str, able: Capabilities) -> str:
    """The host-model that libvirt would write into a guest's XML, as a named model, with what the user adds and removes."""
    if able.host_model is None:
        raise GuestError("libvirt offers no host-model here: see virsh domcapabilities.")
    element = ET.Element("cpu", mode="custom", match="exact")
    changed = {feature.get("name"): feature for feature in ET.fromstring(cpu).findall("feature")}
    element.extend(part for part in able.host_model if part.get("name") not in changed)
    element.extend(changed.values())
    return ET.tostring(element, encoding="unicode")


def _baseline(connection: libvirt.virConnect, cpu: str, accel: str, arch: str, flags: int) -> ET.Element:
    """What the accelerator can give of one CPU."""
    with explained(f"Expanding {cpu}"):
        return ET.fromstring(connection.baselineHypervisorCPU(None, arch, None, DOMAIN_TYPE[accel], [cpu], flags))


def _expansion(short: ET.Element, full: ET.Element, best: ET.Element | None) -> Iterator[tuple]:
    """libvirt takes out flags of the model that cannot be had, but believes in all that are named beside it: `best` tells."""
    beside = {feature.get("name") for feature in short.findall("feature")}
    possible = None if best is None else {f.get("name") for f in best.findall("feature") if f.get("policy") != "disable"}
    for feature in full.findall("feature"):
        name, wanted = feature.get("name"), feature.get("policy") != "disable"
        origin = "taken out" if not wanted else "added" if name in beside else "model"
        yield short.findtext("model"), name, wanted and (None if possible is None else name in possible), origin
