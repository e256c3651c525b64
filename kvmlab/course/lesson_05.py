"""Exercises of 05_cpu_models."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.course import look
from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs
from kvmlab.errors import CourseError
from kvmlab.host.host import Host

if TYPE_CHECKING:
    from kvmlab.guest.guest import Guest
    from kvmlab.guest.lab import GuestLab

INTEL = ("Nehalem", "Westmere", "SandyBridge", "Haswell", "Skylake-Server")
MODELS = (
    *("qemu64", "kvm64", "Conroe", "Penryn", "Nehalem", "Westmere", "SandyBridge", "IvyBridge", "Haswell", "Broadwell"),
    *("Skylake-Client", "Skylake-Server", "Cascadelake-Server", "Opteron_G1", "Opteron_G3", "EPYC"),
)
_WANTED, _UNWANTED = ("aes", "rdrand"), ("avx", "pclmulqdq")


def _guests(labs: Labs) -> list[tuple[GuestLab, Guest]]:
    return [(lab, guest) for lab in labs.open for guest in lab.own.values()]


@exercise(
    "05.1",
    "A Westmere to which check='full' agrees, on TCG",
    hints=(
        "With check='full' libvirt compares what was asked with what the guest got, and refuses what is too much as well. "
        "soft.asked_got(w1) has the flags that w1 got unasked: the verdict is 'added'.",
        "cpu_xml('Westmere', check='full', add=[...]) asks for them too, and then they are not too much.",
    ),
)
def full(labs: Labs, answer) -> Iterator[Finding]:
    asked = [(lab, guest, _asked(lab, guest)) for lab, guest in _guests(labs) if guest.accel == "tcg"]
    westmeres = [(lab, guest, cpu) for lab, guest, cpu in asked if cpu.findtext("model") == "Westmere"]
    checked = [(lab, guest) for lab, guest, cpu in westmeres if cpu.get("check") == "full"]
    if not checked:
        told = "; ".join(f"{guest.name} is one with check='{cpu.get('check', 'none')}'" for _, guest, cpu in westmeres)
        yield Finding(False, f"No guest on TCG was asked to be a Westmere with check='full'. {told or 'None was asked to be a Westmere'}.")
        return
    lab, guest = checked[-1]
    seen = lab.asked_got(guest)
    odd = seen[seen.verdict.isin(["added", "dropped"])]
    told = f"{guest.name} runs, and was asked for {int(seen.asked.sum())} flags"
    yield Finding(odd.empty, f"{told}: its CPUID shows {'these and no others' if odd.empty else 'otherwise ' + ', '.join(odd.feature)}.")


def _asked(lab: GuestLab, guest: Guest) -> ET.Element:
    """The <cpu> element that the guest was started with; the live XML has what became of it."""
    from kvmlab.guest.connection import libvirt

    found = ET.fromstring(lab.domain(guest.name).XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)).find("cpu")
    return ET.Element("cpu") if found is None else found


@exercise(
    "05.2",
    "The hosts that have to go for avx2",
    hints=(
        "A guest that moves among hosts may only have what all of them have: models.baseline of them.",
        "plots.will_migrate and will_start show the staircase: avx2 came with one of the steps. Keep as many hosts as you can.",
    ),
    wants="names of hosts, such as ['Haswell']",
)
def avx2(labs: Labs, answer) -> Iterator[Finding]:
    from kvmlab.guest import models

    gone = {answer} if isinstance(answer, str) else set(answer)
    if strange := gone - set(INTEL):
        raise CourseError(f"{sorted(map(str, strange))[0]!r} is none of the five Intel hosts: {', '.join(INTEL)}.")
    if gone == set(INTEL):
        raise CourseError("No host would be left.")
    park = {name: models.Cpu.of_model(name) for name in INTEL}
    rest = [name for name in INTEL if name not in gone]
    without = [name for name in rest if "avx2" not in park[name].features]
    baseline = models.baseline({name: park[name] for name in rest})
    yield Finding(not without, f"Of {', '.join(rest)} the baseline is {baseline.model}, {'without' if without else 'with'} avx2.")
    needless = [name for name in gone if "avx2" in park[name].features]
    told = f"{' and '.join(needless)} could have stayed" if needless else "No host went that could have stayed"
    yield Finding(not needless, f"{told}.")


@exercise(
    "05.3",
    "A guest with four vCPUs that has moved, at work",
    hints=(
        "a.start('c4', vcpus=4) starts it on host a; give it work, then a.migrate('c4', b).",
        "It may stay where it arrived. All four vCPUs shall spin.",
    ),
)
def moved(labs: Labs, answer) -> Iterator[Finding]:
    four = [guest for _, guest in _guests(labs) if guest.vcpus == 4]
    came = [guest for guest in four if _came(guest)]
    if not came:
        told = (
            f"{', '.join(guest.name for guest in four)} has four vCPUs and was started where it is" if four else "No guest has four vCPUs"
        )
        yield Finding(False, f"{told}.")
        return
    guest = came[-1]
    yield Finding(True, f"{guest.name} has four vCPUs, and process {guest.process.pid} was started to take it in (-incoming).")
    busy = [guest.page.work(vcpu) for vcpu in range(4)]
    yield Finding(busy == ["spin"] * 4, f"Its vCPUs do: {', '.join(map(str, busy))}.")


def _came(guest: Guest) -> bool:
    """QEMU says on its command line that it waits for somebody else's guest."""
    return b"-incoming" in Path(f"/proc/{guest.process.pid}/cmdline").read_bytes().split(b"\0")


@exercise(
    "05.4",
    "The richest model that starts on all nine hosts",
    hints=(
        "everywhere, of the cells of the park, has True for those that start on all of them.",
        "soft.cpu_models() has how many flags each model has: its column features.",
    ),
    wants="the name of a CPU model",
)
def everywhere(labs: Labs, answer: str) -> Iterator[Finding]:
    from kvmlab.guest import cpumap, models

    if answer not in MODELS:
        raise CourseError(f"{answer!r} is none of the sixteen models: {', '.join(MODELS)}.")
    starts = models.will_start(MODELS, park())
    mine = starts[starts.model == answer].set_index("host")
    missing = {host: flags for host, flags in mine.missing.items() if not mine.starts.eq(True)[host]}
    for host, flags in list(missing.items())[:2]:
        yield Finding(False, f"{answer} does not start on {host}, which lacks {_some(flags)}.")
    if missing:
        return
    yield Finding(True, f"{answer} starts on all {len(mine)} hosts.")
    flags = {name: len(cpumap.load().model(name).features) for name, ok in starts.groupby("model").starts.all().items() if ok}
    richer = [name for name, count in flags.items() if count > flags[answer]]
    yield Finding(
        not richer, f"It has {flags[answer]} flags, and {'another one has more' if richer else 'none of the others that do has more'}."
    )


def _some(flags: str) -> str:
    names = [name.strip() for name in flags.split(",") if name.strip()]
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more flags' if len(names) > 4 else ''}" or "nothing that is known"


def park() -> dict:
    """The nine hosts of the lesson."""
    from kvmlab.guest import models

    made_up = {name: models.Cpu.of_model(name) for name in ("Nehalem", "Westmere", "SandyBridge", "Haswell", "Skylake-Server", "EPYC")}
    shapes = {"recorded Intel": "x86_64-2n2s8c2t", "recorded AMD": "x86_64-8s2c1t"}
    return made_up | {name: look.recorded(shape) for name, shape in shapes.items()} | {"this machine": Host()}


@exercise(
    "05.5",
    "A guest that can aes and rdrand, and not avx, nor pclmulqdq",
    hints=(
        "Which model of the staircase is the first with aes? cpu_xml(model, add=[...], remove=[...]) adds flags and takes others out.",
        "libvirt's name of pclmulqdq is pclmuldq: cpu_xml offers the nearest name for one that it does not know. On TCG, for a KVM "
        "that runs inside of another may show flags that nobody asked for.",
    ),
)
def chosen_flags(labs: Labs, answer) -> Iterator[Finding]:
    guests = [guest for _, guest in _guests(labs) if guest.accel == "tcg"]
    if not guests:
        yield Finding(False, "No guest of yours runs on TCG.")
        return
    flags = {guest.name: set(guest.flags().flag) for guest in guests}
    best = min(flags, key=lambda name: len(_wrong(flags[name])))
    wrong = _wrong(flags[best])
    shown = [flag for flag in (*_WANTED, *_UNWANTED) if flag in flags[best]]
    yield Finding(not wrong, f"Of {len(flags)} guests {best} is nearest: of these flags, its CPUID shows {', '.join(shown) or 'none'}.")


def _wrong(flags: set[str]) -> list[str]:
    return [flag for flag in _WANTED if flag not in flags] + [flag for flag in _UNWANTED if flag in flags]
