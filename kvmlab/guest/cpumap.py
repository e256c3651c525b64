"""libvirt's list of CPU models and of the features they consist of: its cpu_map files. Pure, needs no libvirt-python.

libvirt has one list each for x86, POWER and Arm. A model names its features, or the model that it takes them over from; a feature
names its bit: of a CPUID leaf, or of a model-specific register. Arm's and POWER's models are known by a number in the processor
(``pvrs``) alone. s390x has no list: libvirt asks QEMU.

Source: /usr/share/libvirt/cpu_map/index.xml and the files that it includes.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kvmlab.errors import CpuModelError
from kvmlab.guest.cpu_xml import nearest
from kvmlab.host import cpulist

FOLDER = "/usr/share/libvirt/cpu_map"
ARCHS = {
    **{"x86_64": "x86", "i686": "x86", "ppc64": "ppc64", "ppc64le": "ppc64", "aarch64": "arm", "armv7l": "arm", "armv6l": "arm"},
    **{"s390x": "s390x", "riscv64": "riscv", "loongarch64": "loongarch"},
}
_MODEL_PARTS = {
    "decode",
    "signature",
    "vendor",
    "feature",
    "model",
    "pvr",
    "check",
    "alias",
}  # check: libvirt >= 10.10, of starting a guest
_FEATURE_PARTS = {"cpuid", "msr", "alias"}
_REGISTERS = ("eax", "ebx", "ecx", "edx")


class Place(NamedTuple):
    """Where a feature's bit is: in a leaf and subleaf of CPUID, or in a model-specific register."""

    kind: str  # cpuid or msr
    leaf: int  # or the register's number
    subleaf: int
    register: str  # eax, ebx, ecx or edx
    mask: int


class Feature(NamedTuple):
    name: str
    places: tuple[Place, ...]
    migratable: bool


class Signature(NamedTuple):
    """What CPUID leaf 1 says of a processor of this model; all steppings where none is named."""

    family: int
    model: int
    steppings: tuple[int, ...]


class Pvr(NamedTuple):
    """POWER: the processor version register; Arm: the part number of MIDR_EL1."""

    value: int
    mask: int


@dataclass(frozen=True)
class Model:
    name: str
    arch: str  # as libvirt's map calls it: x86, ppc64, arm
    vendor: str | None  # Intel, AMD, ...; None: any
    parent: str | None  # the model that it takes everything over from
    features: frozenset[str]  # all, those of the parent too
    own: frozenset[str]  # those that its own file names
    removed: frozenset[str]  # were in it in an earlier QEMU: libvirt turns them off by name
    signatures: tuple[Signature, ...]
    pvrs: tuple[Pvr, ...]
    decode_host: bool  # libvirt may choose it to describe a host
    decode_guest: bool  # ... a guest, as host-model and baseline do


class _Arch(NamedTuple):
    models: Mapping[str, Model]
    features: Mapping[str, Feature]
    vendors: Mapping[str, str]


class CpuMap:
    """What `load` gives: models, features and vendors by architecture, each in the order of libvirt's files (old models first).

    An architecture is named as `uname -m` does (x86_64, ppc64le, aarch64) or as libvirt's map (x86, ppc64, arm).
    """

    def __init__(self, folder: str, archs: Mapping[str, _Arch]) -> None:
        self.folder = folder
        self._archs = archs

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(arch.models)} models of {name}" for name, arch in self._archs.items())
        return f"CpuMap of {self.folder}: {counts}"

    def models(self, arch: str = "x86_64") -> Mapping[str, Model]:
        """Name to model; none where libvirt has no list of the architecture (s390x, RISC-V)."""
        return self._of(arch).models

    def features(self, arch: str = "x86_64") -> Mapping[str, Feature]:
        """Name to feature, in libvirt's names."""
        return self._of(arch).features

    def vendors(self, arch: str = "x86_64") -> Mapping[str, str]:
        """Vendor to what identifies it: the string of CPUID on x86 (GenuineIntel), the implementer's number on Arm."""
        return self._of(arch).vendors

    def model(self, name: str, arch: str = "x86_64") -> Model:
        """One model.

        Raises
        ------
        CpuModelError
            For a name that is none, with the nearest, and for a model of another architecture.
        """
        known = self.models(arch)
        if name in known:
            return known[name]
        for other, entry in self._archs.items():
            if name in entry.models:
                raise CpuModelError(f"CPU model '{name}' is one of {other}, not of {arch}.")
        full = next((long for long, short in ARCHS.items() if short == arch), arch)
        raise CpuModelError(f"libvirt knows no CPU model '{name}' of {full}.{nearest(name, known)} All: virsh cpu-models {full}.")

    def _of(self, arch: str) -> _Arch:
        if arch not in ARCHS and arch not in ARCHS.values():
            raise CpuModelError(f"There is no architecture '{arch}'.{nearest(arch, ARCHS)} It is one of {', '.join(ARCHS)}.")
        return self._archs.get(ARCHS.get(arch, arch), _Arch({}, {}, {}))


@cache
def load(folder: str = FOLDER) -> CpuMap:
    """Read libvirt's cpu_map; each folder once.

    Raises
    ------
    CpuModelError
        Where the folder or a file is missing, is no XML, or holds an element that this kvmlab does not know (a newer libvirt).

    Examples
    --------
    >>> load().models("x86_64")["Westmere"].vendor                             # doctest: +SKIP
    'Intel'
    """
    root = _root(Path(folder) / "index.xml")
    archs = {}
    for arch in root:
        if arch.tag != "arch":
            raise _unknown(Path(folder) / "index.xml", arch)
        archs[arch.get("name", "")] = _arch(Path(folder), arch)
    return CpuMap(folder, archs)


def _arch(folder: Path, index: ET.Element) -> _Arch:
    """All that the index includes for one architecture; a later libvirt puts the includes into groups."""
    found = _Arch({}, {}, {})
    for part in index.iter():
        if part.tag not in ("arch", "group", "include"):
            raise _unknown(folder / "index.xml", part)
        if part.tag == "include":
            path = folder / part.get("filename", "")
            for element in _root(path):
                _add(found, index.get("name", ""), element, path)
    return found


def _add(found: _Arch, arch: str, element: ET.Element, path: Path) -> None:
    name = element.get("name", "")
    if element.tag == "vendor":
        found.vendors[name] = element.get("string") or element.get("value", "")
    elif element.tag == "feature":
        found.features[name] = _feature(element, path)
    elif element.tag == "model":
        found.models[name] = _model(found, arch, element, path)
    else:
        raise _unknown(path, element)


def _feature(element: ET.Element, path: Path) -> Feature:
    _only(element, _FEATURE_PARTS, path)
    places = tuple(place for part in element for place in _places(part) if part.tag != "alias")
    return Feature(element.get("name", ""), places, element.get("migratable") != "no")


def _places(part: ET.Element) -> Iterable[Place]:
    leaf = _number(part, "eax_in") if part.tag == "cpuid" else _number(part, "index")
    for register in _REGISTERS:
        if mask := _number(part, register):
            yield Place(part.tag, leaf, _number(part, "ecx_in"), register, mask)


def _number(part: ET.Element, attribute: str) -> int:
    return int(part.get(attribute, "0"), 0)


def _model(found: _Arch, arch: str, element: ET.Element, path: Path) -> Model:
    _only(element, _MODEL_PARTS, path)
    name = element.get("name", "")
    parent = _parent(found, element, path)
    own, removed = _features(found, name, element, path)
    vendor = element.find("vendor")
    signatures = tuple(_signature(part) for part in element.iter("signature"))
    pvrs = tuple(Pvr(_number(part, "value"), int(part.get("mask", "0xffffffff"), 0)) for part in element.iter("pvr"))
    decode = element.find("decode")
    return Model(
        name=name,
        arch=arch,
        vendor=vendor.get("name") if vendor is not None else parent and parent.vendor,
        parent=parent and parent.name,
        features=own | parent.features if parent else own,
        own=own,
        removed=removed,
        signatures=signatures or (parent.signatures if parent else ()),
        pvrs=pvrs or (parent.pvrs if parent else ()),
        decode_host=decode is None or decode.get("host") == "on",
        decode_guest=decode is None or decode.get("guest") == "on",
    )


def _parent(found: _Arch, element: ET.Element, path: Path) -> Model | None:
    part = element.find("model")
    if part is None:
        return None
    if part.get("name") not in found.models:
        raise CpuModelError(f"{path}: '{element.get('name')}' builds on the model '{part.get('name')}', which no file before it defines.")
    return found.models[part.get("name")]


def _features(found: _Arch, model: str, element: ET.Element, path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The features that a model's file names: those it has, and those that were taken out of it."""
    parts = element.findall("feature")
    if unknown := [part.get("name") for part in parts if part.get("name") not in found.features]:
        raise CpuModelError(f"{path}: '{model}' has the feature '{unknown[0]}', which no file before it defines.")
    removed = frozenset(part.get("name") for part in parts if part.get("removed") == "yes")
    return frozenset(part.get("name") for part in parts) - removed, removed


def _signature(part: ET.Element) -> Signature:
    steppings = cpulist.parse(part.get("stepping")) if part.get("stepping") else ()
    return Signature(_number(part, "family"), _number(part, "model"), steppings)


def _root(path: Path) -> ET.Element:
    try:
        root = ET.parse(path).getroot()
    except OSError as error:
        raise CpuModelError(
            f"{path}: {error.strerror}. libvirt's list of CPU models comes with its daemon (Debian: libvirt0, Fedora: libvirt-libs); "
            f"for another folder: cpumap.load(folder)."
        ) from error
    except ET.ParseError as error:
        raise CpuModelError(f"{path} is no XML: {error}. Install libvirt's files anew.") from error
    if root.tag != "cpus":
        raise _unknown(path, root)
    return root


def _only(element: ET.Element, known: set[str], path: Path) -> None:
    for part in element:
        if part.tag not in known:
            raise _unknown(path, part)


def _unknown(path: Path, element: ET.Element) -> CpuModelError:
    return CpuModelError(
        f"{path} has an element <{element.tag}>, which this kvmlab does not know: it is of a newer libvirt. "
        f"Install a newer kvmlab, or read another folder: cpumap.load(folder)."
    )
