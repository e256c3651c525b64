"""Over-commit: more and more guests work on the same host CPUs; what each got stands beside what the model predicts."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import inf
from numbers import Real
from statistics import fmean, median
from typing import TYPE_CHECKING

import pandas as pd

from kvmlab.columns import documents, frame
from kvmlab.errors import GuestError, KvmlabError
from kvmlab.guest import schedinfo
from kvmlab.guest.microguest.works import parameters
from kvmlab.host import cpulist
from kvmlab.measure import fairshare, legal
from kvmlab.measure.crew import Member, Wanted, crew
from kvmlab.measure.progress import Progress
from kvmlab.measure.run import Run, run

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

NAME = "overcommit-{}"
_START_S, _SETTLE_S = 0.5, 0.2
_DEFAULT_WEIGHT = 1024
_LITTLE = 0.001  # of a CPU: who runs less does no work to speak of


@documents("overcommit")
def overcommit(
    lab: GuestLab,
    guests: int | Iterable[int] = range(1, 9),
    cpus: str | Iterable[int] = "1",
    work: str = "spin",
    seconds: float = 2,
    repeats: int = 3,
    vcpus: int = 1,
    parameter: int | None = None,
    weights: Sequence[int | None] | None = None,
    quota: float | Sequence[float | None] | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What each of 1, 2, 3 ... guests gets of the same host CPUs, measured and predicted: one row a number of guests, repeat and vCPU.

    As many guests as it takes are started, "overcommit-1" and so on; their vCPUs are pinned to `cpus`, and QEMU's other threads
    to the other CPUs, where there are any. In each run so many of them work and the others are idle; each repeat goes
    through all numbers in a random order. At the end, however it comes, the guests are gone.

    The model knows of nothing else on these CPUs: what there was is in the column `others`. Ctrl-C ends it early and keeps
    what was measured (``attrs["stopped"]``). A guest that ends has no rows from that run on, ``attrs["ended"]`` says when
    that was, and the others go on. ``attrs["sampler"]`` is the part of a CPU that measuring took, ``attrs["grouped"]`` whether
    the kernel shares CPUs out to guests first, and then to each guest's threads.

    Parameters
    ----------
    lab : Lab
    guests : int or several
        How many guests work at once.
    cpus : str or ints
        Host CPUs that their vCPUs may use, such as "0-3,8"; None for all that are online.
    work : str
        What they do, with `parameter`, as for ``guest.work``. To the model "duty" is busy `parameter` percent of the time,
        "idle" never, and everything else always.
    seconds : float
        Length of one run, 0.1 to 60.
    repeats : int
        Runs of each number of guests.
    vcpus : int
        Of each guest.
    parameter : int, optional
    weights : list of int, optional
        ``cpu_shares`` of the first guest, the second ...; see ``lab.schedinfo``. None: as it is.
    quota : float or list, optional
        Of one CPU, what each vCPU may use at most: 0.1 is 10 %, the least 0.01. A number is for all guests, a list as `weights`.
    progress : bool, optional
        Show how far it has come; by default in a terminal or notebook.
    seed : int
        Of the order.

    Raises
    ------
    KvmlabError
        For CPUs that are not online, other numbers, and more guests than fit into the memory that is free; before any is measured.
    GuestError
        For a work, weight or quota that cannot be, and for a weight or quota in session mode.

    Examples
    --------
    >>> runs = measure.overcommit(lab, guests=(1, 2, 4, 8))                              # doctest: +SKIP
    >>> runs.groupby("guests")[["share", "predicted", "waited", "felt"]].median()        # doctest: +SKIP

    """
    counts, chosen = _counts(guests), legal.legal_cpus(cpus)
    legal.runs(seconds, repeats)
    quotas = [quota] * max(counts) if isinstance(quota, int | float) else () if quota is None else quota
    wanted = Wanted(max(counts), vcpus, chosen, work, parameter, () if weights is None else weights, quotas)
    found, order = _Experiment(wanted, seconds), _order(counts, repeats, seed)
    try:
        with Progress(wanted.number * _START_S + len(order) * (seconds + _SETTLE_S), progress) as bar:
            starting = lambda n: bar.tell(0, f"guest {n} of {wanted.number} starts")  # noqa: E731
            with crew(lab, NAME, wanted, starting) as members:
                found.grouped = schedinfo.grouped(member.guest.process for member in members)
                for n, (count, kept) in enumerate(order):
                    bar.tell(n / len(order), f"run {n + 1} of {len(order)}: {count} guests")
                    found.run(members, count, kept)
    except KeyboardInterrupt:
        found.stopped = True
        legal.say_stopped(found.rows)
    return found.frame(lab.accel)


def jain(values: Iterable[float]) -> float:
    """How fair a division is: 1 where all get the same, 1/n where one of n gets all (Jain, Chiu and Hawe, 1984).

    Raises
    ------
    KvmlabError
        Where nothing was divided: no values, only zeros, or one that is missing or below zero.

    Examples
    --------
    >>> jain([0.25, 0.25, 0.25, 0.25]), jain([1, 0, 0, 0])
    (1.0, 0.25)
    """
    parts = list(values) if isinstance(values, Iterable) else [None]
    if not all(isinstance(part, Real) and 0 <= part < inf for part in parts) or not any(parts):
        raise KvmlabError(f"jain({values!r:.80}): write what each one got, a list of numbers from 0 on, one of them above 0.")
    parts = [part / max(parts) for part in parts]
    return float(sum(parts) ** 2 / (len(parts) * sum(part**2 for part in parts)))


def _counts(guests: int | Iterable[int]) -> list[int]:
    counts = list(guests) if isinstance(guests, Iterable) else [guests]
    if not counts or any(type(count) is not int or count < 1 for count in counts):
        raise KvmlabError(f"guests={guests!r}: write how many guests work at once, such as range(1, 9), (1, 2, 4) or 30.")
    return sorted(set(counts))


def _order(counts: list[int], repeats: int, seed: int) -> list[tuple[int, bool]]:
    """How many guests, and whether that is kept. Each repeat is all numbers, in an order of its own.

    What a turn costs is known from one guest alone: where that was not asked for, it comes first, and is not kept.
    """
    draw = random.Random(seed)
    order = [(count, True) for _ in range(repeats) for count in draw.sample(counts, len(counts))]
    return order if 1 in counts else [(1, False), *order]


class _Experiment:
    """What was measured so far, and what happened meanwhile."""

    def __init__(self, wanted: Wanted, seconds: float):
        self._wanted, self._seconds = wanted, seconds
        self.rows: list[dict] = []
        self._repeats: Counter[int] = Counter()
        self._costs: list[float] = []
        self._ended: dict[str, str] = {}
        self.grouped: bool | None = None
        self.stopped = False

    def run(self, members: list[Member], count: int, kept: bool) -> None:
        """So many of those that live work, and are idle again. Where one ends meanwhile, those that are left do it anew."""
        while working := self._living(members, count)[:count]:
            for member in working:
                self._set(member, self._wanted.work, self._wanted.parameter)
            time.sleep(_SETTLE_S)
            found = run([member.guest for member in working], self._wanted.cpus, self._seconds)
            if found.stopped:
                raise KeyboardInterrupt
            lasting = self._living(working, count)
            for member in lasting:
                self._set(member, "idle")
            if lasting == working:
                self._keep(working, kept, found)
                return

    def _living(self, members: list[Member], count: int) -> list[Member]:
        living = [member for member in members if member.guest.process.alive()]
        self._ended |= {
            one.guest.name: f"while {count} worked" for one in members if one not in living and one.guest.name not in self._ended
        }
        return living

    def _set(self, member: Member, work: str, parameter: int | None = None) -> None:
        try:
            member.guest.work(work, parameter=parameter)
        except GuestError:
            if member.guest.process.alive():
                raise

    def _keep(self, members: list[Member], kept: bool, found: Run) -> None:
        """What each got, beside what the model gives it."""
        repeat = self._repeats[len(members)] if kept else None
        self._repeats[len(members)] += kept
        self._costs.append(found.cost)
        given = {member.guest.name: member for member in members}
        predicted = self._shares(members)
        for got in found.got:
            told = {"guests": len(members), "repeat": repeat, "others": found.others, "member": given[got.guest]}
            self.rows.append(told | got._asdict() | {"predicted": predicted[got.guest, got.vcpu]})

    def _shares(self, members: list[Member]) -> dict[tuple[str, int], fairshare.Share]:
        cpus, demand = frozenset(self._wanted.cpus), _demand(self._wanted.work, self._wanted.parameter)
        tasks = {
            (one.guest.name, vcpu): fairshare.Task(one.guest.name, cpus, one.weight or _DEFAULT_WEIGHT, demand, one.quota, one.guest.name)
            for one in members
            for vcpu in range(one.guest.vcpus)
        }
        return dict(zip(tasks, fairshare.shares(tasks.values(), self.grouped), strict=True))

    def frame(self, accel: str) -> pd.DataFrame:
        """All that was measured, with how many turns the model expects of each."""
        alone = [
            row["turns"] / row["share"]
            for row in self.rows
            if row["guests"] == 1 and row["turns"] is not None and (row["share"] or 0) > _LITTLE
        ]
        result = frame([self._row(row, median(alone) if alone else None) for row in self.rows if row["repeat"] is not None], "overcommit")
        reasons = _reasons(self._wanted.work)
        result.attrs["unavailable"] = {column: why for column, why in reasons.items() if result[column].isna().any()}
        cost = fmean(self._costs) if self._costs else None
        told = {"accel": accel, "stopped": self.stopped, "ended": self._ended, "sampler": cost, "grouped": self.grouped}
        result.attrs |= told
        return result

    def _row(self, row: dict, alone: float | None) -> tuple:
        """In the order of columns.FRAMES["overcommit"]."""
        share, member = row["predicted"], row["member"]
        expected = 0.0 if share.run == 0 else None if alone is None else alone * float(share.run)
        return (
            *(row["guests"], row["repeat"], row["guest"], row["vcpu"], self._wanted.work, cpulist.format(self._wanted.cpus)),
            *(member.weight, member.quota, row["seconds"], row["share"], float(share.run), row["waited"], float(share.waited)),
            *(row["felt"], row["switches"], row["turns"], expected, row["p50"], row["p99"], row["longest"], row["others"]),
        )


def _demand(work: str, parameter: int | None) -> Fraction:
    """Of one CPU, what a vCPU with this work wants."""
    if work == "duty":
        return Fraction(parameters(work, [0], [0], parameter)[0], 100)
    return Fraction(work not in ("idle", "stop"))


def _reasons(work: str) -> dict[str, str]:
    """Why columns may hold NA."""
    silent = "this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)"
    looks = work in ("spin", "duty")
    blind = "it came to no turn in a run" if looks else f"the work '{work}' does not look at its clock; spin and duty do"
    reasons = dict.fromkeys(("share", "waited", "switches_per_s"), silent) | dict.fromkeys(("felt", "p50_s", "p99_s", "longest_s"), blind)
    reasons |= {
        "weight": "no guest was given any shares or quota",
        "quota": "no limit was set",
        "others": "/proc/stat lacks one of these CPUs",
    }
    return reasons | {
        "turns_per_s": "not all of its turns could be read",
        "predicted_turns_per_s": "what a turn costs is not known: one guest alone was not measured",
    }
