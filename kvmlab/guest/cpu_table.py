"""What a guest was asked to have, what libvirt believes that it got, and what its own CPUID shows; and trials of many models.

The three differ more often than one would think. libvirt's model and QEMU's of the same name are not the same list; what the
accelerator cannot give is dropped, silently unless check="full"; and the processor itself answers CPUID where the kernel lets it.

Source: virDomainGetXMLDesc (VIR_DOMAIN_XML_MIGRATABLE keeps what was asked, the live XML what libvirt saw after the start),
libvirt's cpu_map files (which bit of CPUID a flag is), CPUID asked inside of the guest.
"""

from __future__ import annotations

import itertools
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmlab.columns import frame
from kvmlab.errors import GuestError
from kvmlab.guest import cpumap, flag_names
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.cpu_models import with_reasons
from kvmlab.guest.cpu_xml import MODES

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.guest import Guest
    from kvmlab.guest.lab import GuestLab

_NO_LIST = "libvirt hands maximum on to QEMU as it is: nothing is asked by name"
_HAVE = {"force", "require", "optional", None}
_BY_THE_SYSTEM = ("osxsave", "ospke")  # they show that the operating system turned on xsave, pku
_MSR = "it is a bit of a model-specific register, which CPUID does not show"


@dataclass
class Views:
    """A guest's flags, by libvirt's names, as three see them."""

    asked: set[str] | None  # None: nothing was asked by name
    live: set[str] | None  # what libvirt saw after the start; None where it does not say
    got: set[str]


def asked_got(connection: libvirt.virConnect, guest: Guest) -> pd.DataFrame:
    """What ``Lab.asked_got`` does."""
    seen = views(connection, guest)
    features = cpumap.load().features()
    names = [name for name in features if name in seen.got or name in (seen.asked or ())]
    rows = [(guest.name, name, ", ".join(flag_names.shown_as(name)) or None, *_verdict(name, features[name], seen)) for name in names]
    return with_reasons(frame(rows, "asked_got"), _unavailable(seen))


def views(connection: libvirt.virConnect, guest: Guest) -> Views:
    """What was asked, what libvirt saw, and what the guest's CPUID shows."""
    with explained(f"Asking for the XML of '{guest.name}'"):
        domain = connection.lookupByUUIDString(guest.uuid)
        asked, live = (_cpu(domain.XMLDesc(flags)) for flags in (libvirt.VIR_DOMAIN_XML_MIGRATABLE, 0))
        host = _cpu(connection.getCapabilities(), "host/cpu") if asked.get("mode") == "host-passthrough" else None
    wanted = _named(asked) if host is None else _changed(_named(host), asked)
    return Views(wanted, _named(live), got(guest))


def _cpu(xml: str, path: str = "cpu") -> ET.Element:
    found = ET.fromstring(xml).find(path)
    return ET.Element("cpu", mode="maximum") if found is None else found


def _named(cpu: ET.Element) -> set[str] | None:
    """The flags that a <cpu> element with a model's name stands for; None without one."""
    model = cpu.findtext("model")
    if not model:
        return None
    return _changed(set(cpumap.load().model(model).features), cpu)


def _changed(flags: set[str], cpu: ET.Element) -> set[str]:
    """With what is named beside the model added or removed; a host's flags have no policy."""
    by_policy = {
        wanted: {f.get("name") for f in cpu.findall("feature") if (f.get("policy") in _HAVE) == wanted} for wanted in (True, False)
    }
    return (flags | by_policy[True]) - by_policy[False]


def got(guest: Guest) -> set[str]:
    """The flags that the guest's CPUID shows to its vCPU 0, by libvirt's names."""
    leaves = guest.cpuid_all()
    return {name for name, feature in cpumap.load().features().items() if any(_is_set(place, leaves) for place in feature.places)}


def _is_set(place: cpumap.Place, leaves) -> bool:
    answer = leaves.get((place.leaf, place.subleaf)) if place.kind == "cpuid" else None
    return answer is not None and answer[("eax", "ebx", "ecx", "edx").index(place.register)] & place.mask == place.mask


def _verdict(name: str, feature: cpumap.Feature, seen: Views) -> tuple:
    asked = name in seen.asked if seen.asked is not None else None
    live = name in seen.live if seen.live is not None else None
    if all(place.kind == "msr" for place in feature.places):
        return asked, live, None, "not told", _MSR
    here = name in seen.got
    verdict = "got" if asked and here else "dropped" if asked else "added" if asked is False else "got"
    return asked, live, here, verdict, _why(name, verdict, live)


def _why(name: str, verdict: str, live: bool | None) -> str | None:
    """As far as libvirt's view of the running guest tells it."""
    if verdict == "dropped" and name in _BY_THE_SYSTEM:
        return "the system in the guest turns it on: the lab guest does not"
    if verdict == "dropped":
        return "libvirt believes that the guest has it" if live else "QEMU's model of that name lacks it, or cannot have it here"
    if verdict == "added":
        return (
            "QEMU gave it: of its own model, or to every guest" if live else "libvirt does not see it: the processor or the kernel shows it"
        )
    return "libvirt believes that the guest lacks it: the processor or the kernel shows it" if live is False else None


def _unavailable(seen: Views) -> dict[str, str]:
    reasons = {"got": _MSR, "flag": "/proc/cpuinfo does not show it", "why": "there is nothing to explain"}
    if seen.asked is None:
        reasons["asked"] = _NO_LIST
    if seen.live is None:
        reasons["live"] = "libvirt does not look into a CPU that it hands on to QEMU as it is"
    return reasons


# ---- many models


def trials(
    lab: GuestLab,
    models: Iterable[str],
    match: Sequence[str | None] = (None,),
    check: Sequence[str | None] = (None,),
    fallback: Sequence[str | None] = (None,),
) -> pd.DataFrame:
    """What ``Lab.cpu_trials`` does."""
    for what, given in (("models", models), ("match", match), ("check", check), ("fallback", fallback)):
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise GuestError(f"{what}={given!r}: write a list, as in {what}=['{given or 'Westmere'}'].")
    ways = dict.fromkeys(_way(model, *rest) for model in models for rest in itertools.product(match, check, fallback))
    elements = {way: lab.cpu_xml(way[0], way[1], way[3], way[2]) for way in ways}  # what cannot be asked is no refusal of libvirt's
    started: list[Guest] = []
    try:
        rows = [_trial(lab, f"trial-{os.getpid()}-{number}", *asked, started) for number, asked in enumerate(elements.items())]
    finally:
        lab.end(started)
    nothing = {"words": "it started", "got_flags": "it did not start"} | dict.fromkeys(
        ("added", "dropped"), f"it did not start, or {_NO_LIST}"
    )
    default = {column: "left out: libvirt chooses" for column in ("match", "check", "fallback")}
    return with_reasons(
        frame(rows, "cpu_trials"), nothing | default | {"becomes": "it did not start, or libvirt hands it on to QEMU as it is"}
    )


def _way(model: str, match: str | None, check: str | None, fallback: str | None) -> tuple:
    return (model, None, check, None) if model in MODES else (model, match, check, fallback)


def _trial(lab: GuestLab, name: str, way: tuple, element: str, started: list[Guest]) -> tuple:
    begin = (lab.accel, *way)
    try:
        guest = lab.start(name, cpu=element)
    except GuestError as error:
        return (*begin, False, _words(error), *(None,) * 4)
    started.append(guest)
    seen = views(lab.connection, guest)
    becomes = ET.fromstring(lab.domain(name).XMLDesc(0)).findtext("cpu/model")
    return (*begin, True, None, becomes, len(seen.got), *_differences(seen))


def _words(error: GuestError) -> str:
    """libvirt's own, where it was libvirt that refused."""
    cause = error.__cause__
    return (cause.get_error_message() if isinstance(cause, libvirt.libvirtError) else None) or str(error)


def _differences(seen: Views) -> Iterator[str | None]:
    """Added and dropped."""
    if seen.asked is None:
        return iter((None, None))
    features = cpumap.load().features()
    told = {name for name, feature in features.items() if any(place.kind == "cpuid" for place in feature.places)}
    return (", ".join(name for name in features if name in flags & told) for flags in (seen.got - seen.asked, seen.asked - seen.got))
