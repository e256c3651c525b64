"""Placement: the same guests with the same work under several plans, in turns; what each plan made of them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.guest import schedinfo
from kvmlab.guest.interrupt import held_back
from kvmlab.guest.pinning import Plan
from kvmlab.guest.watch import own_guests
from kvmlab.host import cpulist
from kvmlab.measure import legal
from kvmlab.measure.progress import Progress
from kvmlab.measure.run import Run, run

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.guest import Guest
    from kvmlab.guest.lab import GuestLab

_SETTLE_S = 0.2
_UNAVAILABLE = {  # why columns may hold NA
    **dict.fromkeys(("share", "waited"), "this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)"),
    "migrations_per_s": "this kernel has no /proc/PID/sched (CONFIG_SCHED_DEBUG)",
    "turns_per_s": "not all of its turns could be read",
    **dict.fromkeys(("p99_s", "longest_s"), "only spin and duty look at their clock, and need a turn for it"),
    "others": "/proc/stat lacks one of these CPUs",
}


@documents("placement")
def placement(
    lab: GuestLab,
    plans: Mapping[str, Mapping | Plan],
    seconds: float = 2,
    repeats: int = 3,
    progress: bool | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What the vCPUs of a Lab's guests do, wait and move under each of several plans: one row a plan, repeat and vCPU.

    The guests keep the work that they have. First each plan is applied and undone, so that one that cannot be is named before
    anything is measured. In each run one of them is applied, measured after 0.2 s, and undone; each repeat goes through all plans in a
    random order, so that what changes meanwhile favours none of them. Rows stand in the order of the runs.

    However it ends, everything may run where it might before. Ctrl-C ends it early and keeps the runs that were whole
    (``attrs["stopped"]``). A guest that ends has no rows from that run on, ``attrs["ended"]`` says when that was, and the others go
    on without it. ``attrs["sampler"]`` is the part of a CPU that measuring took, ``attrs["grouped"]`` whether the kernel shares
    CPUs out to guests first, and then to each guest's threads.

    Parameters
    ----------
    lab : Lab
    plans : mapping
        Name to what ``lab.plan`` takes, or to a Plan. An empty one, {}, leaves everything where it may run now.
    seconds : float
        Length of one run, 0.1 to 60.
    repeats : int
        Runs of each plan.
    progress : bool, optional
        Show how far it has come; by default in a terminal or notebook.
    seed : int
        Of the order.

    Raises
    ------
    KvmlabError
        For a Lab without guests of its own, for no plans, and other numbers.
    PlanError, PinError, GuestError
        For a plan that cannot be made or applied, with its name; before anything is measured.

    Examples
    --------
    >>> plans = {"float": {}, "one-to-one": {("c1", 0): "0", ("c1", 1): "1"}, "stacked": {("c1", 0): "0", ("c1", 1): "0"}}
    >>> runs = measure.placement(lab, plans)                                             # doctest: +SKIP
    >>> runs.groupby(["plan", "guest", "vcpu"])[["share", "waited", "longest_s"]].median()  # doctest: +SKIP

    """
    legal.runs(seconds, repeats)
    if not isinstance(plans, Mapping) or not plans:
        example = "{'float': {}, 'pinned': {('c1', 0): '1'}}"
        raise KvmlabError(f"plans={plans!r}: write a name and what lab.plan takes for each, such as {example}.")
    found, order = _Experiment(lab, plans, seconds), _order(list(plans), repeats, seed)
    try:
        with Progress(len(order) * (seconds + _SETTLE_S), progress) as bar:
            for n, (name, repeat) in enumerate(order):
                bar.tell(n / len(order), f"run {n + 1} of {len(order)}: {name}")
                found.run(name, repeat)
    except KeyboardInterrupt:
        found.stopped = True
        legal.say_stopped(found.rows)
    return found.frame()


def _order(names: list[str], repeats: int, seed: int) -> list[tuple[str, int]]:
    draw = random.Random(seed)
    return [(name, repeat) for repeat in range(repeats) for name in draw.sample(names, len(names))]


@contextmanager
def _named(name: str) -> Iterator[None]:
    """An error that comes of a plan says of which."""
    try:
        yield
    except KvmlabError as error:
        raise type(error)(f"Plan {name!r}: {error}") from error


@contextmanager
def _applied(lab: GuestLab, plan: Plan) -> Iterator[None]:
    """A plan, for as long as the with-block takes; no Ctrl-C comes between it and its undoing."""
    applied = False
    try:
        with held_back():
            if plan.pins:
                plan.apply()
                applied = True
        yield
    finally:
        if applied:
            with held_back():
                lab.undo()


class _Experiment:
    """The plans, what was measured so far, and what happened meanwhile."""

    def __init__(self, lab: GuestLab, plans: Mapping[str, Mapping | Plan], seconds: float):
        self._lab, self._seconds = lab, seconds
        self._guests = own_guests(lab)
        if not self._guests:
            raise KvmlabError("This Lab has no guests of its own: start some with lab.start, and give them work.")
        self._plans = {name: self._checked(name, plan) for name, plan in plans.items()}
        self._grouped = schedinfo.grouped(guest.process for guest in self._guests)
        self.rows: list[tuple] = []
        self._costs: list[float] = []
        self._ended: dict[str, str] = {}
        self.stopped = False

    def _checked(self, name: str, plan: Mapping | Plan) -> dict:
        """Its lines, as ``lab.plan`` takes them; it was applied for a moment."""
        if isinstance(plan, Plan):
            plan = {pin.key: cpulist.format(pin.cpus) for pin in plan.pins}
        if not isinstance(plan, Mapping):
            raise KvmlabError(f"Plan {name!r} is {plan!r:.60}: write what lab.plan takes, such as {{('c1', 0): '1'}}.")
        with _named(name), _applied(self._lab, self._lab.plan(plan)):
            return dict(plan)

    def run(self, name: str, repeat: int) -> None:
        """Once under this plan. Where a guest ends meanwhile, those that are left do it anew."""
        while guests := self._living(name, repeat):
            try:
                places, found = self._measured(guests, name)
            except (KvmlabError, ProcessLookupError):
                if self._living(name, repeat) == guests:
                    raise
                continue
            if found.stopped:
                raise KeyboardInterrupt
            if self._living(name, repeat) == guests:
                self._keep(guests, name, repeat, places, found)
                return

    def _living(self, name: str, repeat: int) -> list[Guest]:
        for guest in self._guests:
            if guest.name not in self._ended and not guest.process.alive():
                self._ended[guest.name] = f"under {name!r}, repeat {repeat}"
        return [guest for guest in self._guests if guest.name not in self._ended]

    def _measured(self, guests: Sequence[Guest], name: str) -> tuple[dict[tuple[str, int], set[int]], Run]:
        """Where each vCPU might run, by the kernel, and what it got there."""
        pins = {key: cpus for key, cpus in self._plans[name].items() if isinstance(key, str) or key[0] not in self._ended}
        with _named(name), _applied(self._lab, self._lab.plan(pins)):
            time.sleep(_SETTLE_S)
            places = {(guest.name, vcpu): os.sched_getaffinity(tid) for guest in guests for vcpu, tid in guest.process.vcpus.items()}
            return places, run(guests, sorted(set().union(*places.values())), self._seconds)

    def _keep(self, guests: Sequence[Guest], name: str, repeat: int, places: Mapping, found: Run) -> None:
        """In the order of columns.FRAMES["placement"]."""
        self._costs.append(found.cost)
        pages = {guest.name: guest.page for guest in guests}
        for got in found.got:
            where = cpulist.format(places[got.guest, got.vcpu])
            told = name, repeat, got.guest, got.vcpu, pages[got.guest].work(got.vcpu), where, got.seconds
            self.rows.append((*told, got.share, got.waited, got.migrations, got.turns, got.p99, got.longest, found.others))

    def frame(self) -> pd.DataFrame:
        """All that was measured."""
        result = frame(self.rows, "placement")
        result.attrs["unavailable"] = {column: why for column, why in _UNAVAILABLE.items() if result[column].isna().any()}
        cost = fmean(self._costs) if self._costs else None
        result.attrs |= {"accel": self._lab.accel, "plans": list(self._plans), "stopped": self.stopped, "ended": self._ended}
        result.attrs |= {"sampler": cost, "grouped": self._grouped}
        return result
