"""Exercises of 07_vcpu_pinning."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from math import ceil
from typing import TYPE_CHECKING

from kvmlab.course import look
from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs
from kvmlab.course.lesson_04 import as_measured, measured_part
from kvmlab.course.lesson_06 import busy_process
from kvmlab.errors import CourseError
from kvmlab.host import cpulist
from kvmlab.host.host import Host

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.course.look import Places

_ON_A_RECORDED_HOST = f"A plan for the recorded host {look.PARK} counts instead"


def _vcpus(places: Places) -> dict:
    return {key: cpus for key, cpus in places.items() if isinstance(key[1], int)}


@exercise(
    "07.1",
    "All vCPUs of c1 and c2 on one host CPU",
    hints=(
        "In the canvas: click the same column in the row of each vCPU, and Apply. Or a plan: dict.fromkeys(everybody, first).",
        "taskset -pc TID shows the CPUs of one thread; where() shows them all.",
    ),
)
def stacked(labs: Labs, answer) -> Iterator[Finding]:
    places = _vcpus(look.live(labs, "c1", "c2"))
    yield from look.one_cpu(places, *places)
    used = frozenset().union(*places.values())
    told = f"All {len(places)} vCPUs together may use CPU{'s' * (len(used) > 1)} {cpulist.format(used)}"
    yield Finding(len(used) == 1, f"{told}{', one and the same' if len(used) == 1 else ': one is wanted'}.")


@exercise(
    "07.2",
    "A CPU for c2's last vCPU that no other vCPU may use",
    hints=(
        "It takes two things: that vCPU on a CPU, and all the others away from it. Nobody keeps off a CPU by himself.",
        "The others are c1's vCPUs as well, and c2's: put them all on another CPU.",
    ),
)
def dedicated(labs: Labs, answer) -> Iterator[Finding]:
    vcpus = _vcpus(look.live(labs, "c1", "c2"))
    *others, last = sorted(vcpus)
    if len(os.sched_getaffinity(0)) == 1:
        yield Finding(True, "This machine has one CPU only, and nobody can be kept off it. That the others do not want it counts instead.")
        works = {other: labs.guest(other[0]).page.work(other[1]) for other in others}
        yield from (Finding(work == "idle", f"{look.words(other)} does: {work}.") for other, work in works.items())
        return
    yield from look.one_cpu(vcpus, last)
    for other in others:
        shared = vcpus[other] & vcpus[last]
        may = f"{look.words(other)} may use CPU {cpulist.format(vcpus[other])}"
        yield Finding(not shared, f"{may}{f', and so share CPU {cpulist.format(shared)}' if shared else ', and keeps off'}.")


def _planned(plan: object, *needed: tuple[str, int | str]) -> Places:
    places = look.planned(plan, look.recorded(look.PARK))
    if missing := [look.words(key) for key in needed if key not in places]:
        raise CourseError(f"The plan has no line for {', '.join(missing)}.")
    return places


@exercise(
    "07.3",
    "A plan that moves none, and lets none wait for longer than it must",
    hints=(
        "Who has one CPU only cannot move. How many of the busy ones have to share a CPU, at the least?",
        "Three on two CPUs: one is alone, two share, half and half. Where guests are groups (runs.attrs['grouped']) it "
        "matters which two: two of one guest weigh the same.",
    ),
    wants="a plan, such as {('c1', 0): 0, ('c1', 1): 0, ('c2', 0): 0}",
)
def least_wait(labs: Labs, answer: Mapping) -> Iterator[Finding]:
    places = look.live(labs, "c1", "c2")
    works = {(name, vcpu): labs.guest(name).page.work(vcpu) for name, vcpu in _vcpus(places)}
    last = max(key for key in works if key[0] == "c2")
    idle = works[last] == "idle" and all(work == "spin" for key, work in works.items() if key != last)
    yield Finding(
        idle, f"{look.words(last)} {'is idle and the others spin' if idle else 'has to be idle, and all the others have to spin'}."
    )
    if idle:
        yield from _waits(labs, answer, [key for key in works if key != last])


def _waits(labs: Labs, plan: Mapping, busy: list) -> Iterator[Finding]:
    """First by the plan alone; what it comes to is measured, for a kernel may share a CPU out otherwise than one thinks."""
    from kvmlab import measure

    lab, now = labs.lab("c1"), look.live(labs, "c1", "c2")
    planned = {pin.key: frozenset(pin.cpus) for pin in lab.plan(plan).pins}  # what cannot be says so
    where = {key: planned.get(key, now[key]) for key in busy}
    wide = [look.words(key) for key in busy if len(where[key]) > 1]
    yield Finding(
        not wide, f"{', '.join(wide)} may use several CPUs, and so may move." if wide else "Each busy vCPU has one CPU: none moves."
    )
    together = max(sum(cpu in cpus for cpus in where.values()) for cpu in frozenset().union(*where.values()))
    least = ceil(len(busy) / min(2, len(os.sched_getaffinity(0))))
    yield Finding(together <= least, f"There is a CPU that {together} of {len(busy)} may use; with two CPUs, {least} would do.")
    if not wide and together <= least:
        tried = measure.placement(lab, {"yours": plan}, seconds=0.6, repeats=2, progress=False)
        rows = tried[[key in busy for key in zip(tried.guest, tried.vcpu, strict=True)]]
        yield from _no_longer_than(rows, 1 - 1 / (least + 0.5))  # between sharing with so many and with one more


def _no_longer_than(rows: pd.DataFrame, most: float) -> Iterator[Finding]:
    waited = rows.groupby(["guest", "vcpu"]).waited.min()  # the better of two runs: one may have been disturbed
    who, longest = waited.idxmax(), float(waited.max())
    told = f"{look.words(who)} waited longest, for {longest:.0%} of the time"
    yield Finding(longest < most, f"{told}{'' if longest < most else f'; {most:.0%} is the most that it should be'}.")
    if longest >= most:
        yield from look.somebody_else(float(rows.others.min()), ", ".join(sorted(set(rows.cpus))))


@exercise(
    "07.4",
    "What c2's one vCPU gets beside one of c1's two",
    hints=(
        "runs.attrs['grouped'] says whether the kernel shares a CPU out to guests first, and then to their threads.",
        "c1's weight is spread over both of its busy vCPUs: on each CPU it counts half. Half against a whole?",
    ),
    wants="a percentage",
)
def beside_half(labs: Labs, answer: float) -> Iterator[Finding]:
    given, cpus = float(answer), sorted(os.sched_getaffinity(0))
    pins = {(0, 0): cpus[0], (0, 1): cpus[-1], (1, 0): cpus[-1]}
    yield as_measured(given, 100 * measured_part(look.own_lab(labs), pins))


@exercise(
    "07.5",
    "A busy process, kept away from c1's vCPU 0",
    hints=(
        "subprocess.Popen([sys.executable, '-c', 'while True: pass']).pid is the answer; it has to be placed as well.",
        "One plan for both: {f'pid {pid}': first, ('c1', 0): last}. Who floats may come along at any time.",
    ),
    wants="the number of a process (pid)",
)
def kept_away(labs: Labs, answer: int) -> Iterator[Finding]:
    if len(os.sched_getaffinity(0)) == 1 or isinstance(answer, Mapping):
        yield from _kept_away_there(answer)
        return
    yield from busy_process(int(answer))
    theirs = frozenset().union(*(cpulist.parse(cpus) for cpus in Host().affinity(int(answer)).allowed_cpus))
    yield _apart(f"process {int(answer)}", theirs, look.live(labs, "c1")["c1", 0])


def _kept_away_there(answer: object) -> Iterator[Finding]:
    if not isinstance(answer, Mapping):
        yield Finding(False, f"This machine has one CPU only. {_ON_A_RECORDED_HOST}, such as {{'pid 4711': '1', ('c1', 0): '1'}}.")
        return
    places = _planned(answer, ("c1", 0))
    theirs = [cpus for key, cpus in places.items() if isinstance(key, str)]
    if not theirs:
        raise CourseError("The plan has no line for a process, such as 'pid 4711'.")
    yield _apart("the process", theirs[0], places["c1", 0])


def _apart(process: str, theirs: frozenset[int], mine: frozenset[int]) -> Finding:
    both = theirs & mine
    told = f"c1 vCPU 0 may use CPU {cpulist.format(mine)}, and {process} {cpulist.format(theirs)}"
    return Finding(not both, f"{told}: {f'both may use {cpulist.format(both)}' if both else 'they never meet'}.")


@exercise(
    "07.6",
    "c1's vCPUs 0 and 1 on the two SMT threads of one core, the emulator elsewhere",
    hints=(
        "host.cpus() has socket, die and core of each CPU: those that agree in all three are one core's. smt tells them apart.",
        "The numbers of siblings are not always neighbours, and one of the two may be offline.",
    ),
    wants="'here' once c1 is placed so or, where no core shows two SMT threads, a plan for the recorded host",
)
def siblings(labs: Labs, answer) -> Iterator[Finding]:
    here = answer == "here"
    host = Host() if here else look.recorded(look.PARK)
    if not _cores(host, least=2):
        yield Finding(False, f"No core of this machine shows two SMT threads. {_ON_A_RECORDED_HOST}.")
        return
    needed = ("c1", 0), ("c1", 1), ("c1", "emulator")
    places = look.live(labs, "c1") if here else _planned(answer, *needed)
    if needed[1] not in places:
        yield Finding(False, f"c1 has one vCPU only. {_ON_A_RECORDED_HOST}.")
        return
    yield from look.one_cpu(places, *needed[:2])
    used = places[needed[0]] | places[needed[1]]
    core = next((core for core in _cores(host, least=2) if used <= core), None)
    told = f"CPUs {cpulist.format(used)} are {'' if core and len(used) == 2 else 'not '}the two SMT threads of one core"
    yield Finding(core is not None and len(used) == 2, f"{told}.")
    emulator = places[needed[2]]
    yield Finding(not emulator & (core or used), f"c1's emulator may use CPU {cpulist.format(emulator)}.")


def _cores(host: Host, least: int) -> list[frozenset[int]]:
    """The online CPUs of each core that has so many."""
    cpus = host.cpus().query("online")
    groups = (frozenset(map(int, found)) for found in cpus.groupby(["socket", "die", "core"], dropna=False).cpu.agg(list))
    return [core for core in groups if len(core) >= least]


@exercise(
    "07.7",
    "Everything floats again: nothing pinned, no step to undo, no journal left",
    hints=(
        "lab.undo() takes back one step, and says how many lines that were: 0 when there is none left. Or Undo in the canvas.",
        "kvmlab doctor --clean puts back what killed processes of yours left behind.",
    ),
)
def floating(labs: Labs, answer) -> Iterator[Finding]:
    from kvmlab.guest import journal

    everywhere = frozenset(os.sched_getaffinity(0))
    places = look.live(labs, "c1", "c2")
    bound = {key: cpus for key, cpus in places.items() if not cpus >= everywhere}
    for key, cpus in list(bound.items())[:4]:
        yield Finding(False, f"{look.words(key)} may use CPU {cpulist.format(cpus)} only, of {cpulist.format(everywhere)}.")
    if not bound:
        yield Finding(True, f"All {len(places)} rows, vCPUs and emulators, may use CPU {cpulist.format(everywhere)}.")
    steps = sum(lab.undoable for lab in labs.open)
    yield Finding(not steps, f"{'One step' if steps == 1 else f'{steps} steps' if steps else 'No step'} could still be undone.")
    left = journal.left_behind()
    yield Finding(
        not left, f"{f'{len(left)} journals of killed processes wait' if left else 'No journal of a killed process waits'} to be put back."
    )
