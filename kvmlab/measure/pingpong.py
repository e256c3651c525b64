"""Ping-pong: two vCPUs hand a cache line to and fro. What a round trip costs tells how far apart their host CPUs are."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.guest.guest import Guest
from kvmlab.guest.microguest.page import WORK, wait_until
from kvmlab.guest.vcpus import ROOT
from kvmlab.host.host import Host
from kvmlab.measure import legal
from kvmlab.measure.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.lab import GuestLab

WORK_NAME = "ping-pong"
_SETTLE_S = 0.01  # threads that were pinned elsewhere have moved by then
_PATIENCE_S = 1.0  # a ball that is not back by then is lost: something else has one of the CPUs


@documents("pingpong")
def pingpong(
    lab: GuestLab,
    cpus: str | Iterable[int] | None = None,
    seconds: float = 0.1,
    repeats: int = 5,
    guest: Guest | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The round trip of a cache line between two vCPUs, for each pair of host CPUs that they can be pinned to: one row a pair and repeat.

    vCPU 0 writes a number into the line, vCPU 1 sees it and writes the next one, and so on, both busy in ring 3. Under KVM that
    is as fast as between two threads of the host; under TCG (``attrs["accel"]``) it is QEMU's emulation that is measured. Two
    vCPUs on the same CPU never see each other: the ball moves when the scheduler lets the other one run.

    Each repeat goes through all pairs in a random order, so that what drifts on this machine falls upon all of them alike. Ctrl-C
    ends it early and keeps what was measured (``attrs["stopped"]``). At the end, also after an error, the pins are as they were,
    and the guest is destroyed, or idle where it was given.

    Parameters
    ----------
    lab : Lab
    cpus : str or ints, optional
        Host CPUs, such as "0-3,8"; all that are online by default. N of them make N (N + 1) / 2 pairs.
    seconds : float
        Length of one run, 0.001 to 60. A run that takes turns on one CPU ends with the turn that it is in.
    repeats : int
        Runs of each pair.
    guest : Guest, optional
        One that `lab` started, whose vCPUs 0 and 1 play; by default one is started.
    seed : int
        Of the order.

    Raises
    ------
    KvmlabError
        For CPUs that are not online, other numbers, and a guest with one vCPU; before anything is measured.
    PinError
        For CPUs that the kernel refuses to the guest.

    Examples
    --------
    >>> runs = measure.pingpong(lab)                          # doctest: +SKIP
    >>> runs.groupby("relation")["round_trip_ns"].median()    # doctest: +SKIP

    """
    chosen = legal.legal_cpus(cpus)
    legal.runs(seconds, repeats, 0.001)
    order, places = _order(chosen, repeats, seed), _places()
    rows, stopped = [], False
    try:
        with _playing(lab, guest) as player, Progress(len(order) * (seconds + 2 * _SETTLE_S)) as bar:
            for n, (a, b, repeat) in enumerate(order):
                bar.tell(n / len(order), f"run {n + 1} of {len(order)}: CPUs {a} and {b}")
                rows.append((a, b, _relation(places[a], places[b]), repeat, *_run(lab, player, a, b, seconds)))
    except KeyboardInterrupt:
        stopped = True
        legal.say_stopped(rows)
    return _told(rows, lab, stopped)


def _order(cpus: tuple[int, ...], repeats: int, seed: int) -> list[tuple[int, int, int]]:
    """Each repeat is all pairs, in an order of its own: what is stopped early still has most pairs equally often."""
    draw, pairs = random.Random(seed), list(combinations_with_replacement(cpus, 2))
    return [(*pair, repeat) for repeat in range(repeats) for pair in draw.sample(pairs, len(pairs))]


def _places() -> dict[int, dict]:
    """Each host CPU's row of ``host.cpus()``, with None for what is not known."""
    cpus = Host().cpus().astype(object)
    return {row["cpu"]: row for row in cpus.where(cpus.notna(), None).to_dict("records")}


@contextmanager
def _playing(lab: GuestLab, given: Guest | None):
    """A guest whose vCPUs 0 and 1 play, for as long as it is wanted."""
    guest = given or lab.start(f"ping-pong-{os.getpid()}", vcpus=2)
    try:
        guest.work(WORK_NAME, vcpus=(0, 1))
        yield guest
    finally:
        if given:
            with suppress(KvmlabError):
                guest.work("idle", vcpus=(0, 1))
        else:
            guest.destroy()


def _run(lab: GuestLab, guest: Guest, a: int, b: int, seconds: float) -> tuple:
    """Round trips, seconds, nanoseconds of one, and what the vCPUs waited for their host CPUs."""
    lab.plan({(guest.name, 0): a, (guest.name, 1): b}).apply()
    try:
        time.sleep(_SETTLE_S)
        waited, (begin, before) = _waited_s(guest), _returned(guest)
        time.sleep(seconds)
        (end, after), waited_then = _returned(guest), _waited_s(guest)
    finally:
        lab.undo()
    guest.check()
    trips, spent = after - before, end - begin
    delay = None if None in (waited, waited_then) else waited_then - waited
    return trips, spent, spent * 1e9 / trips if trips else None, delay


def _returned(guest: Guest) -> tuple[float, int]:
    """When the ball came back next, and how often it had by then: a slow one is not counted in the middle of its way."""
    number = WORK[WORK_NAME]
    before = guest.page.turns(0)[number]
    wait_until(lambda: guest.page.turns(0)[number] != before, _PATIENCE_S)
    return time.monotonic(), guest.page.turns(0)[number]


def _waited_s(guest: Guest) -> float | None:
    """Both vCPUs' run delay so far."""
    texts = [ROOT.read(f"proc/{guest.process.pid}/task/{guest.process.vcpus[vcpu]}/schedstat") for vcpu in (0, 1)]
    return sum(int(text.split()[1]) for text in texts) / 1e9 if all(texts) else None


def _relation(a: dict, b: dict) -> str | None:
    """The nearest thing that two host CPUs share, from their rows of ``host.cpus()``; None where nothing tells."""

    def same(level: str, *within: str) -> bool:
        return a[level] is not None and all(a[name] == b[name] for name in (level, *within))

    if a["cpu"] == b["cpu"]:
        return "same CPU"
    if same("core", "socket", "die"):
        return "SMT siblings"
    if same("l2") or same("cluster", "socket", "die"):
        return "same cluster"
    if same("l3"):
        return "same L3"
    if same("node"):
        return "same node"
    return None if None in (a["node"], b["node"]) else "across nodes"


def _told(rows: list[tuple], lab: GuestLab, stopped: bool) -> pd.DataFrame:
    result = frame(rows, "pingpong")
    reasons = {
        "relation": "this host does not tell what these CPUs share",
        "round_trip_ns": "the ball did not come back in one of the runs: something else had one of its CPUs",
        "waited_s": "this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)",
    }
    result.attrs["unavailable"] = {column: why for column, why in reasons.items() if result[column].isna().any()}
    result.attrs |= {"accel": lab.accel, "stopped": stopped}
    return result
