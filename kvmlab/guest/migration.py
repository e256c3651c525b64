"""Guests that move: live from one host to another, or through a file; and how long they stood still.

Sources: libvirt's migration guide (https://libvirt.org/migration.html), virDomainGetJobStats, and the lab guest's turns, which
are read from the memory of both QEMU processes about a thousand times a second.
"""

from __future__ import annotations

import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.columns import frame
from kvmlab.errors import GuestError, KvmlabError
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.guest import Guest
from kvmlab.guest.interrupt import held_back
from kvmlab.guest.microguest.page import ControlPage
from kvmlab.guest.spec import GuestSpec
from kvmlab.guest.topology import LEVELS, Topology
from kvmlab.host import tsc

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.two_hosts import HostGuests

AROUND_S = 0.4  # watched before and after the move
_TICK_S = 0.001
_ASK_S = 0.05  # between two looks at what libvirt says
_FLAGS = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_TUNNELLED
_ACCEL = {"kvm": "kvm", "qemu": "tcg"}


@dataclass(frozen=True)
class Move:
    """A guest that moved, and what that took.

    Attributes
    ----------
    guest : Guest
        The same as before; it runs on the destination now.
    result : DataFrame
        One row, of the frame "moves".
    samples : DataFrame
        One row a vCPU and reading, from a moment before the move to a moment after it: its turns, and on which
        host it ran. ``plots.migration`` draws it.
    """

    guest: Guest
    result: pd.DataFrame
    samples: pd.DataFrame

    def __repr__(self) -> str:
        row = self.result.iloc[0]
        paused = "" if row.isna()["pause_s"] else f"; it stood still for {1000 * row.pause_s:.0f} ms"
        libvirts = "" if row.isna()["downtime_s"] else f" (libvirt says {1000 * row.downtime_s:.0f} ms)"
        sent = "" if row.isna()["sent_kib"] else f"; {row.sent_kib:.0f} of {row.memory_kib:.0f} KiB were sent"
        return f"'{row.guest}' moved from {row.source} to {row.destination} in {row.seconds:.2f} s{paused}{libvirts}{sent}."


def migrate(
    source: HostGuests,
    name: str,
    to: HostGuests,
    cpu: str | None = None,
    xml: str | None = None,
    tell: Callable[[float, str], None] = lambda share, words: None,
) -> Move:
    """What ``Lab.migrate`` of two hosts does; `tell` hears how far it has come."""
    _refuse_others(source, name, to)
    guest, domain = source.owned(name), source.domain(name)
    guest.check()
    spec, there = _described(source.xml(name), to, cpu, xml)
    job = _Job(domain, to, there)
    try:
        with _Watch(guest, spec, source, to) as watch:
            _move(job, guest, spec, source, to, watch, tell)
            time.sleep(AROUND_S)
        return _told(guest, job, watch, source, to)
    except KeyboardInterrupt:
        print(f"Stopped: '{name}' is on host {(to if job.moved else source).host.name}.", file=sys.stderr)
        raise


def _move(
    job: _Job, guest: Guest, spec: GuestSpec, source: HostGuests, to: HostGuests, watch: _Watch, tell: Callable[[float, str], None]
) -> None:
    """However it ends, one of the two hosts owns the guest afterwards, and nothing of it is left on the other."""
    to.expect(spec)
    try:
        time.sleep(AROUND_S)
        for vcpu in range(guest.vcpus):
            guest.page.forget_longest_gap(vcpu)
        job.run(watch.look, tell)
    except KvmlabError as error:
        raise type(error)(f"{error}{_still_there(source, spec.name)}") from error.__cause__
    finally:
        with held_back():
            job.end()
            if job.moved:
                to.adopt(spec, source.release(spec.uuid))
            else:
                to.drop(spec.uuid)


def _refuse_others(source: HostGuests, name: str, to: HostGuests) -> None:
    home = source.host.home
    place = getattr(getattr(to, "host", None), "home", None)
    if place == home:
        raise GuestError(f"'{name}' is on host {source.host.name} already: move it to the other Lab of this TwoHosts().")
    if place is None or place.parent != home.parent:
        raise GuestError(f"'{name}' cannot move to {to!r}: it moves to the other Lab of the same TwoHosts().")
    _ = to.connection  # raises where it is closed


def _still_there(source: HostGuests, name: str) -> str:
    with suppress(KvmlabError, libvirt.libvirtError):
        if source.domain(name).state()[0] == libvirt.VIR_DOMAIN_RUNNING:
            return f" '{name}' runs on, on host {source.host.name}."
    return ""


class _Job:
    """libvirt's migration, which is one call that returns at its end, in a thread of its own.

    Events tell when that begins and ends: a Ctrl-C in Thread.join makes a running thread look like one that has ended
    (CPython 3.11, Thread._wait_for_tstate_lock).
    """

    def __init__(self, domain: libvirt.virDomain, to: HostGuests, xml: str):
        self._domain, self._to, self._name = domain, to.host.name, domain.name()
        self._arguments = f"qemu+unix:///session?socket={to.host.socket}", {libvirt.VIR_MIGRATE_PARAM_DEST_XML: xml}, _FLAGS
        self._error: libvirt.libvirtError | None = None
        self._begun, self._done = threading.Event(), threading.Event()
        self.moved, self.span = False, (0.0, 0.0)

    def run(self, look: Callable[[], None], tell: Callable[[float, str], None]) -> None:
        """Start it and wait for its end."""
        asked = 0.0
        threading.Thread(target=self._move, name="kvmlab move", daemon=True).start()
        while not self._done.wait(0.01):
            look()
            if time.monotonic() > asked + _ASK_S:
                self._ask(tell)
                asked = time.monotonic()
        if self._error:
            with explained(f"Moving '{self._name}' to host {self._to}"):
                raise self._error

    def end(self) -> None:
        """Abort it, if it still goes on."""
        while self._begun.wait(0.1) and not self._done.wait(_ASK_S):
            with suppress(libvirt.libvirtError):  # libvirt has not begun yet, or is through
                self._domain.abortJob()

    def _move(self) -> None:
        self._begun.set()
        begin = time.monotonic()
        try:
            self._domain.migrateToURI3(self._arguments[0], *self._arguments[1:])
            self.moved = True
        except libvirt.libvirtError as error:
            self._error = error
        finally:
            self.span = begin, time.monotonic()
            self._done.set()

    def _ask(self, tell: Callable[[float, str], None]) -> None:
        with suppress(libvirt.libvirtError):  # before its begin and after its end there is nothing to be told
            said = self._domain.jobStats()
            if total := said.get("data_total"):
                left = said.get("data_remaining", 0)
                tell(1 - left / total, f"'{self._name}' to host {self._to}: {left / 2**20:.0f} of {total / 2**20:.0f} MiB left")


class _Watch:
    """The turns of a guest, read from the memory of the QEMU that it leaves and of the one that it comes to."""

    def __init__(self, guest: Guest, spec: GuestSpec, source: HostGuests, to: HostGuests):
        self._spec, self._to = spec, to
        self._pages = {source.host.name: ControlPage(guest.process.pid, spec.apic_ids)}
        self.readings: list[tuple[float, str, list[int]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvmlab move watcher", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._stop.set()
        self._thread.join()
        for page in self._pages.values():
            page.close()

    def look(self) -> None:
        """See whether there is a QEMU on the other host yet."""
        if self._to.host.name not in self._pages and (process := self._to.incoming(self._spec)):
            with suppress(GuestError, ValueError):  # its memory comes a moment later
                self._pages[self._to.host.name] = ControlPage(process.pid, self._spec.apic_ids)

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            for host, page in tuple(self._pages.items()):
                self.readings.append((time.monotonic(), host, [sum(page.turns(vcpu)) for vcpu in range(self._spec.vcpus)]))


def timeline(
    readings: list[tuple[float, str, list[int]]], source: str, to: str
) -> tuple[list[tuple[float, int, str, int]], tuple[float, float] | None]:
    """Readings of both hosts as (time, vCPU, host, turns) where the guest really ran, and its pause: the longest of its vCPUs.

    While it is copied, the destination's memory holds what the source's held a moment before; it runs there when its turns
    rise beyond the last of the source. A vCPU that does no turns has no pause.

    >>> timeline([(1.0, "a", [5]), (1.1, "a", [7]), (1.1, "b", [5]), (1.2, "a", [7]), (1.2, "b", [8])], "a", "b")
    ([(1.0, 0, 'a', 5), (1.1, 0, 'a', 7), (1.2, 0, 'b', 8)], (1.1, 1.2))
    """
    rows, pauses = [], []
    for vcpu in range(len(readings[0][2])):
        here = [(when, turns[vcpu]) for when, host, turns in readings if host == source]
        last = here[-1][1]
        stopped = next(when for when, turns in here if turns == last)
        there = [(when, turns[vcpu]) for when, host, turns in readings if host == to and turns[vcpu] > last]
        rows += [(when, vcpu, source, turns) for when, turns in here if when <= stopped]
        rows += [(when, vcpu, to, turns) for when, turns in there]
        if there and here[0][1] < last:
            pauses.append((stopped, there[0][0]))
    return rows, max(pauses, key=lambda pause: pause[1] - pause[0], default=None)


def _told(guest: Guest, job: _Job, watch: _Watch, source: HostGuests, to: HostGuests) -> Move:
    rows, pause = timeline(watch.readings, source.host.name, to.host.name)
    samples = frame([(when, guest.name, vcpu, host, turns) for when, vcpu, host, turns in rows], "migration")
    with explained(f"Asking what the move of '{guest.name}' took"):
        said = to.domain(guest.name).jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED)
    begin, end = job.span
    row = (
        *(guest.name, guest.accel, guest.vcpus, source.host.name, to.host.name, end - begin),
        *(pause and pause[1] - pause[0], _longest_gap(guest), _scaled(said, "downtime", 1000)),
        *(_scaled(said, name, 1024) for name in ("memory_total", "memory_processed")),
        *(said.get(name) for name in ("memory_normal", "memory_constant", "memory_iteration")),
        _again(said),
    )
    missing = {"pause_s": "no vCPU did a turn of work meanwhile", "gap_s": "only 'spin' looks at its time stamp counter"}
    result = frame([row], "moves", missing)
    result.attrs["unavailable"] = {column: why for column, why in result.attrs["unavailable"].items() if result[column].isna().all()}
    samples.attrs |= {"source": source.host.name, "destination": to.host.name, "accel": guest.accel}
    samples.attrs |= {"span": [begin, end], "pause": pause and list(pause), "downtime_s": row[8]}
    return Move(guest, result, samples)


def _longest_gap(guest: Guest) -> float | None:
    spinning = [vcpu for vcpu in range(guest.vcpus) if guest.page.work(vcpu) == "spin"]
    return max((guest.page.gaps(vcpu).longest / tsc.hz() for vcpu in spinning), default=None)


def _scaled(said: dict, name: str, by: int) -> float | None:
    return said[name] / by if name in said else None


def _again(said: dict) -> int | None:
    """Pages beyond one of each."""
    try:
        return said["memory_normal"] + said["memory_constant"] - said["memory_total"] // said["memory_page_size"]
    except KeyError:
        return None


# ---- through a file


def save(lab: HostGuests, name: str, path: str | Path | None = None, xml: str | None = None) -> Path:
    """What ``Lab.save`` of two hosts does."""
    guest, domain = lab.owned(name), lab.domain(name)
    guest.check()
    file = Path(path).absolute() if path else lab.host.home.parent / f"{name}-{guest.uuid[:8]}.save"
    try:
        with explained(f"Saving '{name}' to {file}"):
            domain.saveFlags(str(file), None if xml is None else ET.tostring(_parsed(xml), encoding="unicode"))
    except KvmlabError as error:
        raise type(error)(f"{error}{_still_there(lab, name)}") from error.__cause__
    lab.drop(guest.uuid)
    return file


def restore(lab: HostGuests, path: str | Path, cpu: str | None = None, xml: str | None = None) -> Guest:
    """What ``Lab.restore`` of two hosts does."""
    file = str(Path(path).absolute())
    with explained(f"Reading {file}"):
        spec, there = _described(lab.connection.saveImageGetXMLDesc(file), lab, cpu, xml)
    lab.expect(spec)
    try:
        with explained(f"Restoring '{spec.name}' on host {lab.host.name}"):
            lab.connection.restoreFlags(file, there)
        return lab.adopt(spec)
    except BaseException:
        lab.drop(spec.uuid)
        raise


# ---- what it is here, and what it shall be there


def _described(here: str, to: HostGuests, cpu: str | None, xml: str | None) -> tuple[GuestSpec, str]:
    """The guest as it is, with its folder on the other host; and the XML by which that host shall run it."""
    domain = ET.fromstring(here)
    name, uuid = domain.findtext("name"), domain.findtext("uuid")
    shape = domain.find("cpu/topology")
    topology = None if shape is None else Topology(*(int(shape.get(level, "1")) for level in LEVELS))
    kind = _ACCEL.get(domain.get("type"))
    if kind is None:
        raise GuestError(f"'{name}' is a guest of {domain.get('type')!r}: hosts here run guests of {' and '.join(_ACCEL)} only.")
    spec = GuestSpec(name, int(domain.findtext("vcpu")), kind, str(to.image), str(to.folder_for(uuid)), uuid, topology=topology)
    there = domain if xml is None else _parsed(xml)
    if (loader := there.find("os/loader")) is not None:
        loader.text = spec.image
    if (bell := there.find("devices/serial/source")) is not None:
        bell.set("path", spec.bell)
    if cpu is not None:
        _replace_cpu(there, ET.fromstring(to.known_cpu(cpu)))
    return spec, ET.tostring(there, encoding="unicode")


def _parsed(xml: str) -> ET.Element:
    try:
        return ET.fromstring(xml)
    except (ET.ParseError, TypeError) as error:
        raise GuestError(f"xml= is no XML of a domain: {error}. Change what lab.xml(name) returns.") from error


def _replace_cpu(domain: ET.Element, cpu: ET.Element) -> None:
    """Another model; the topology, the NUMA cells and how strictly libvirt checks it stay unless the new one brings its own."""
    old = domain.find("cpu")
    if old is not None:
        cpu.set("check", cpu.get("check") or old.get("check") or "none")
        cpu.extend(part for part in old if part.tag in ("topology", "numa") and cpu.find(part.tag) is None)
        domain.remove(old)
    domain.append(cpu)
