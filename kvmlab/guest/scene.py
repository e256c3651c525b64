"""The scene: what the linter and the planners look at. Host CPUs, and the threads on them with where they may run.

Plain data: a recorded host with invented guests does as well as this machine now, which `of` reads. Sources:
sched_getaffinity(2), sched_getscheduler(2), proc(5) schedstat, cgroups(7) for the quota, and libvirt's XML of each guest for
its topology and the nodes that its memory is bound to.
"""

from __future__ import annotations

import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from kvmlab.errors import KvmlabError
from kvmlab.guest.connection import explained
from kvmlab.guest.numbers import asked_places
from kvmlab.guest.schedinfo import quota_of
from kvmlab.guest.targets import EMULATOR, iothreads
from kvmlab.guest.vcpus import ROOT, Process
from kvmlab.host import cpulist
from kvmlab.host.affinity import PF_NO_SETAFFINITY
from kvmlab.host.cpusets import online_cpus
from kvmlab.host.host import Host
from kvmlab.host.kinds import PF_KTHREAD
from kvmlab.host.layout import Layout
from kvmlab.host.threads import read_stat

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.lab import GuestLab
    from kvmlab.guest.targets import Pin

REAL_TIME = ("fifo", "rr", "deadline")
_POLICIES = {0: "other", 1: "fifo", 2: "rr", 3: "batch", 5: "idle", 6: "deadline", 7: "ext"}
_FRESH_S, _STALE_S, _LOOKS = 0.1, 2, 40  # how old a look may be that `busy` is taken from, and how many are kept
_HOST_S = 5  # the host's own frames are read anew after so long, or when a CPU comes or goes


@dataclass(frozen=True)
class Placed:
    """A thread, or a guest's emulator threads as one: where it may run, and what matters for that.

    Attributes
    ----------
    guest : str or None
        None for threads of no guest.
    who : int or str
        A vCPU's number, "emulator", "iothread 1", or "tid 4711" without a guest.
    cpus : tuple of int
        Host CPUs that it may use.
    pinned : bool
        Somebody narrowed that down.
    busy : float or None
        Share of a CPU that it asked for lately: ran, or waited for one. None is not known.
    kind : str
        "vcpu", "emulator", "iothread" or "thread".
    policy : str or None
        "other", "fifo", "rr", ...; see sched(7).
    quota : float or None
        CPUs' worth that it may take at most; None is none, or not known.
    siblings : tuple of int
        The vCPUs that share a core with it, as its guest sees it.
    nodes : tuple of int
        Host NUMA nodes that its memory is bound to; () is not known.
    place : tuple of int
        Its socket, die, core and thread in the guest; () is not known.
    """

    guest: str | None
    who: int | str
    cpus: tuple[int, ...]
    pinned: bool = True
    busy: float | None = None
    kind: str = "vcpu"
    policy: str | None = None
    quota: float | None = None
    siblings: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()
    place: tuple[int, ...] = ()

    def __str__(self) -> str:
        who = f"vCPU {self.who}" if isinstance(self.who, int) else self.who.replace("iothread", "I/O thread")
        return who if self.guest is None else f"{self.guest} {who}"


@dataclass(frozen=True)
class Scene:
    """A host's frames (``Host.cpus()``, ``isolation()``, ``nodes()``), and the threads on it."""

    cpus: pd.DataFrame
    isolation: pd.DataFrame
    nodes: pd.DataFrame
    placed: tuple[Placed, ...] = ()

    @cached_property
    def layout(self) -> Layout:
        """The frames as Python has them fastest."""
        return Layout.of(self.cpus, self.isolation)

    def with_pins(self, pins: Iterable[Pin]) -> Scene:
        """The same with these pins applied; threads that are not there yet come with them."""
        wanted = {(pin.guest, pin.who): tuple(pin.cpus) for pin in pins}
        placed = [self._moved(thread, wanted.pop((thread.guest, thread.who), None)) for thread in self.placed]
        added = [Placed(guest, who, cpus, self._narrowed(cpus), kind=_kind(guest, who)) for (guest, who), cpus in wanted.items()]
        return self._sharing_layout(replace(self, placed=(*placed, *added)))

    def _moved(self, thread: Placed, cpus: tuple[int, ...] | None) -> Placed:
        return thread if cpus is None else replace(thread, cpus=cpus, pinned=self._narrowed(cpus))

    def _narrowed(self, cpus: Iterable[int]) -> bool:
        """libvirt gives a guest that nobody pinned all online CPUs or, from 10.4 on, those of them that are not isolated."""
        return frozenset(cpus) not in (self.layout.online, self.layout.online - self.layout.isolated)

    def _sharing_layout(self, other: Scene) -> Scene:
        other.__dict__["layout"] = self.layout  # it is cached there, and a plan does not change the host
        return other


def _kind(guest: str | None, who: int | str) -> str:
    if guest is None:
        return "thread"
    return "vcpu" if isinstance(who, int) else str(who).split()[0]


# ---- this machine now


def of(lab: GuestLab) -> Scene:
    """This machine and the guests on a Lab's libvirt, now.

    How busy threads are is taken from the last look, where there was one within two seconds; otherwise from two looks, a tenth
    of a second apart. Where CPUs are isolated, the threads of no guest that may run there are among them.
    """
    looker = _LOOKERS.setdefault(lab, _Looker())
    return looker.scene(lab)


@dataclass
class _Known:
    """What of a guest does not change while it runs."""

    places: dict[int, tuple[int, ...]] = field(default_factory=dict)
    nodes: dict[int, tuple[int, ...]] = field(default_factory=dict)


class _Looker:
    """Remembers the last looks of a Lab, and what takes long to read and seldom changes."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._looks: list[tuple[float, dict[int, float]]] = []  # when, and how long each thread had asked for a CPU by then
        self._host: tuple | None = None
        self._read_at = 0.0

    def scene(self, lab: GuestLab) -> Scene:
        processes = lab.processes()
        host = self._frames()
        tids = [tid for process in processes for tid in _tids(process)] + [tid for tid, _ in host.foreign]
        earlier = self._earlier(tids, {tid for process in processes for tid in process.vcpus.values()})
        now = (time.monotonic(), _asked(tids))
        self._looks = [*(look for look in self._looks if now[0] - look[0] < _STALE_S), now][-_LOOKS:]
        busy = _Busy(earlier, now)
        known = self._known = {process.uuid: self._known.get(process.uuid) or _known(lab, process, host) for process in processes}
        placed = [thread for process in processes for thread in _of_guest(process, known[process.uuid], host.scene, busy)]
        placed += [_foreign(tid, cpus, host.scene, busy) for tid, cpus in host.foreign]
        return host.scene._sharing_layout(replace(host.scene, placed=tuple(placed)))

    def _frames(self) -> _Machine:
        online, now = online_cpus(ROOT), time.monotonic()
        if self._host is None or self._host[0] != online or now - self._read_at > _HOST_S:
            self._host, self._read_at = (online, _Machine.read()), now
        return self._host[1]

    def _earlier(self, tids: list[int], vcpus: set[int]) -> tuple[float, dict[int, float]]:
        """The newest look that is old enough to compare with; a new one where there is none, or vCPUs came since."""
        now = time.monotonic()
        fitting = [look for look in self._looks if _FRESH_S <= now - look[0] < _STALE_S and vcpus <= look[1].keys()]
        if fitting:
            return fitting[-1]
        look = (now, _asked(tids))
        self._looks.append(look)
        time.sleep(_FRESH_S)
        return look


_LOOKERS: WeakKeyDictionary[GuestLab, _Looker] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Machine:
    """The host without guests, and the threads of no guest that may run on its isolated CPUs."""

    scene: Scene
    foreign: tuple[tuple[int, frozenset[int]], ...]

    @classmethod
    def read(cls) -> _Machine:
        host = Host()
        scene = Scene(host.cpus(), host.isolation(), host.nodes())
        quiet = scene.layout.isolated | scene.layout.nohz_full
        return cls(scene, tuple(_allowed_on(quiet)) if quiet else ())


def _allowed_on(cpus: frozenset[int]) -> Iterator[tuple[int, frozenset[int]]]:
    """Threads that may run there, but for guests' own, and for those that the kernel binds to a CPU each."""
    for pid in ROOT.numbered("proc"):
        if b"-uuid\0" in (ROOT.read_bytes(f"proc/{pid}/cmdline") or b""):
            continue
        for tid in ROOT.numbered(f"proc/{pid}/task"):
            allowed = _affinity(tid)
            stat = read_stat(ROOT, pid, tid) if allowed & cpus else None
            if stat and not stat.flags & PF_NO_SETAFFINITY and not (stat.flags & PF_KTHREAD and len(allowed) == 1):
                yield tid, allowed


class _Busy:
    """Share of a CPU that threads asked for between two looks."""

    def __init__(self, before: tuple[float, dict[int, float]], after: tuple[float, dict[int, float]]):
        self._seconds = after[0] - before[0]
        self._before, self._after = before[1], after[1]

    def of(self, tids: Iterable[int]) -> float | None:
        """All of them together, as far as they were there both times."""
        shares = [(self._after[tid] - self._before[tid]) / self._seconds for tid in tids if tid in self._before and tid in self._after]
        return sum(min(1.0, max(0.0, share)) for share in shares) if shares else None


def _asked(tids: Iterable[int]) -> dict[int, float]:
    """Seconds that each thread ran or waited for a CPU so far."""
    texts = {tid: ROOT.read_bytes(f"proc/{tid}/schedstat") for tid in tids}
    return {tid: sum(int(number) for number in text.split()[:2]) / 1e9 for tid, text in texts.items() if text}


def _tids(process: Process) -> list[int]:
    return [*process.vcpus.values(), *process.emulator, *process.iothreads]


def _of_guest(process: Process, known: _Known, scene: Scene, busy: _Busy) -> Iterator[Placed]:
    for vcpu, tid in sorted(process.vcpus.items()):
        place = known.places.get(vcpu, ())
        siblings = tuple(other for other, at in known.places.items() if other != vcpu and at[:3] == place[:3]) if place else ()
        inside = dict(siblings=siblings, nodes=known.nodes.get(vcpu, ()), place=place, quota=quota_of(process.pid, tid))
        yield from _placed(process, vcpu, "vcpu", [tid], scene, busy, **inside)
    for number, tid in sorted(iothreads(process).items()):
        yield from _placed(process, f"iothread {number}", "iothread", [tid], scene, busy)
    yield from _placed(process, EMULATOR, EMULATOR, process.emulator, scene, busy)


def _placed(process: Process, who: int | str, kind: str, tids: list[int], scene: Scene, busy: _Busy, **inside: object) -> Iterator[Placed]:
    """One Placed for these threads together; none where all are gone."""
    cpus = frozenset().union(*(_affinity(tid) for tid in tids))
    if cpus:
        asked, quota = busy.of(tids), inside.get("quota")
        if asked is not None and quota is not None:
            asked = min(asked, quota)  # schedstat takes for waiting what a quota takes away
        yield Placed(process.guest, who, tuple(sorted(cpus)), scene._narrowed(cpus), asked, kind, _policy(tids[0]), **inside)


def _foreign(tid: int, cpus: frozenset[int], scene: Scene, busy: _Busy) -> Placed:
    return Placed(None, f"tid {tid}", tuple(sorted(cpus)), scene._narrowed(cpus), busy.of([tid]), "thread", _policy(tid))


def _affinity(tid: int) -> frozenset[int]:
    try:
        return frozenset(os.sched_getaffinity(tid))
    except OSError:
        return frozenset()


def _policy(tid: int) -> str | None:
    with suppress(OSError):
        return _POLICIES.get(os.sched_getscheduler(tid) & 0xFF)  # the flag SCHED_RESET_ON_FORK is above that
    return None


def _known(lab: GuestLab, process: Process, host: _Machine) -> _Known:
    """The guest's topology, and the host nodes of each vCPU's memory where there are several."""
    try:
        domain = lab.domain(process.guest)
        with explained(f"Asking for the XML of '{process.guest}'"):
            xml = domain.XMLDesc()
    except KvmlabError:  # it ended meanwhile
        return _Known()
    places = {vcpu: tuple(int(number) for number in place.split(":")) for vcpu, place in asked_places(xml).items()}
    return _Known(places, memory_nodes(xml) if len(host.scene.nodes) > 1 else {})


def memory_nodes(xml: str) -> dict[int, tuple[int, ...]]:
    """Of each vCPU: the host nodes that its memory is bound to (<numatune>), its own cell's where the guest has cells.

    >>> memory_nodes("<domain><vcpu>1</vcpu><numatune><memory mode='strict' nodeset='1'/></numatune></domain>")
    {0: (1,)}
    """
    root = ET.fromstring(xml)
    bound = root.find("numatune/memory")
    everywhere = cpulist.parse(bound.get("nodeset", "")) if bound is not None else ()
    of_cell = {node.get("cellid"): cpulist.parse(node.get("nodeset", "")) for node in root.iterfind("numatune/memnode")}
    found = dict.fromkeys(range(int(root.findtext("vcpu"))), everywhere)
    for cell in root.iterfind("cpu/numa/cell"):
        found |= dict.fromkeys(cpulist.parse(cell.get("cpus", "")), of_cell.get(cell.get("id"), everywhere))
    return {vcpu: nodes for vcpu, nodes in found.items() if nodes}
