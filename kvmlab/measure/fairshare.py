"""Who gets how much of which CPU: weighted max-min fair shares with affinity sets, demands and quotas. Pure and exact.

Nobody can get more without somebody taking less who has, for its weight, no more. What is assumed of the kernel's fair
scheduler (CFS, and EEVDF since Linux 6.6; Documentation/scheduler, kernel/sched/fair.c), and where it does otherwise:

- A thread is on one CPU at a time, and every CPU is as fast as any other: SMT siblings and turbo clocks are not known here.
  Nothing else runs.
- Grouped, the threads of a guest have one weight together: so it is in CPU cgroups (qemu:///system) and in autogroups. On each
  CPU the group counts by its part of the group's load (calc_group_shares): of a guest with one busy vCPU on CPU 0 and one on
  CPU 1, each counts half, also where the other CPU has nobody else. What one thread leaves over goes to those of its group
  first that may use the same CPUs. A thread's load is the time that it runs or waits, in 1024ths; loads and shares depend on
  each other, and are found together, step by step. Pinned threads that always work get what this says; beside a vCPU of
  the same guest that works half of the time on another CPU, one was seen to get a tenth less.
- Threads flow between the CPUs that they may use as water does. The kernel moves whole threads, now and then: three busy
  guests on two CPUs get two thirds of a CPU only in the long run, and where the threads' weights differ, the heavy ones get up
  to a sixth less.
- A thread that has nothing to do now and then begins at moments of its own, and is ready for as long as its work takes at the
  rate that it would have if it never slept. How long that really is, is a matter of luck (those that begin together
  wait for each other, others hardly at all) and of slices: work shorter than one (3 to 4 ms) waits for the end of
  another's, whatever the weights.
- A quota holds for each thread, as libvirt's vcpu_quota does. What it takes away is waiting, as in schedstat, and no load.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import inf
from typing import NamedTuple

from kvmlab.errors import PlanError

_LOAD = 1024  # of a thread that is always ready, as in the kernel
_ROUNDS = 50  # loads settle within ten or so


@dataclass(frozen=True)
class Task:
    """A thread that wants CPU time.

    Parameters
    ----------
    name : str
    cpus : set of int
        The CPUs that it may use.
    weight : int
        Against others; of its whole group where there is one and groups count.
    demand : number
        Of one CPU, what it would use alone: 0 to 1.
    quota : number, optional
        Of one CPU, what it may use at most.
    group : str, optional
        The guest that it belongs to.

    Raises
    ------
    PlanError
        For no CPUs, a weight or quota that is not above 0, and a demand that is not from 0 to 1.
    """

    name: str
    cpus: frozenset[int]
    weight: int = 1024
    demand: Fraction | float = 1
    quota: Fraction | float | None = None
    group: str | None = None

    def __post_init__(self):
        if not self.cpus:
            raise PlanError(f"{self.name}: an empty CPU set; it must be able to run on one CPU at least.")
        if not 0 < self.weight < inf:
            raise PlanError(f"{self.name}: weight {self.weight!r}; write a number above 0, such as 1024.")
        if not 0 <= self.demand <= 1:
            raise PlanError(f"{self.name}: demand {self.demand!r}; a thread can want from 0 to 1 of a CPU.")
        if self.quota is not None and not 0 < self.quota < inf:
            raise PlanError(f"{self.name}: quota {self.quota!r}; write how much of a CPU it may use, above 0, or None.")

    @cached_property
    def cap(self) -> Fraction:
        """What it uses at most."""
        return min(_exact(self.demand), _exact(1 if self.quota is None else self.quota), Fraction(1))


class Share(NamedTuple):
    """Of the time: how much of it a task runs, and how much it is ready and does not run."""

    run: Fraction
    waited: Fraction


def shares(tasks: Iterable[Task], grouped: bool) -> list[Share]:
    """What each task gets, in the order of `tasks`.

    Parameters
    ----------
    tasks : list of Task
    grouped : bool
        The tasks of a group share its weight. False: every thread for itself.

    Raises
    ------
    PlanError
        For tasks of one group with different weights, where they are to share one.

    Examples
    --------
    >>> a, b = Task("a", frozenset({1}), weight=1024), Task("b", frozenset({1}), weight=3072)
    >>> [str(share.run) for share in shares([a, b], grouped=False)]
    ['1/4', '3/4']
    >>> two_vcpus = [Task("a0", frozenset({0}), group="a"), Task("a1", frozenset({1}), group="a"), Task("b0", frozenset({1}), group="b")]
    >>> [str(share.run) for share in shares(two_vcpus, grouped=True)]
    ['1', '1/3', '2/3']
    """
    tasks = list(tasks) if grouped else [replace(task, group=None) for task in tasks]
    _refuse_unequal(tasks)
    loads = [Fraction(1)] * len(tasks)
    for _ in range(_ROUNDS):
        runs = _runs(tasks, loads)
        ready = [_ready(tasks, loads, i, run) for i, run in enumerate(runs)]
        before, loads = loads, [max(Fraction(round(part * _LOAD), _LOAD), Fraction(1, _LOAD)) for part in ready]
        if loads == before:
            break
    return [Share(run, (ready[i] if run == _exact(tasks[i].demand) else 1) - run) for i, run in enumerate(runs)]


def _refuse_unequal(tasks: Sequence[Task]) -> None:
    weights: dict[str, int] = {}
    for task in tasks:
        if task.group is not None and weights.setdefault(task.group, task.weight) != task.weight:
            raise PlanError(
                f"Group '{task.group}': weights {weights[task.group]} and {task.weight}; the tasks of a group share one weight."
            )


def _exact(number: float) -> Fraction:
    return Fraction(str(number))  # of 0.1 a tenth, and not the nearest float


def _ready(tasks: Sequence[Task], loads: Sequence[Fraction], i: int, run: Fraction) -> Fraction:
    """For how much of the time a task runs or waits: less than always where it gets all that it asks for, or may use."""
    if not 0 < run == tasks[i].cap < 1:
        return Fraction(tasks[i].cap > 0)
    awake = [*tasks[:i], replace(tasks[i], demand=1, quota=None), *tasks[i + 1 :]]
    return run / _runs(awake, [*loads[:i], Fraction(1), *loads[i + 1 :]])[i]


# ---- flows: tasks of one group that may use the same CPUs, which share what the flow gets


@dataclass(frozen=True, eq=False)
class _Flow:
    cpus: frozenset[int]
    weight: Fraction
    caps: dict[int, Fraction]  # of its tasks, by their place in the list

    @cached_property
    def cap(self) -> Fraction:
        return sum(self.caps.values())

    def at(self, level: Fraction | None) -> Fraction:
        return self.cap if level is None else min(self.cap, self.weight * level)


def _runs(tasks: Sequence[Task], loads: Sequence[Fraction]) -> list[Fraction]:
    runs = [Fraction(0)] * len(tasks)
    for flow, rate in _max_min(_flows(tasks, loads)):
        level = _level([(1, cap) for cap in flow.caps.values()], rate)
        for i, cap in flow.caps.items():
            runs[i] = cap if level is None else min(cap, level)
    return runs


def _flows(tasks: Sequence[Task], loads: Sequence[Fraction]) -> list[_Flow]:
    """A flow weighs that part of its group's weight that its tasks are of the group's load."""
    members: dict[tuple, list[int]] = {}
    load_of: dict[object, Fraction] = {}
    for i, task in enumerate(tasks):
        if task.cap:
            group = i if task.group is None else str(task.group)
            members.setdefault((group, task.cpus), []).append(i)
            load_of[group] = load_of.get(group, 0) + loads[i]
    return [
        _Flow(cpus, _exact(tasks[ids[0]].weight) * sum(loads[i] for i in ids) / load_of[group], {i: tasks[i].cap for i in ids})
        for (group, cpus), ids in members.items()
    ]


def _max_min(flows: list[_Flow]) -> list[tuple[_Flow, Fraction]]:
    """All rise together, each by its weight, until some CPUs are full: who can use no others stays there, the rest rises on elsewhere."""
    found = []
    while flows:
        level, full = _bottleneck(flows)
        stuck = [flow for flow in flows if level is None or flow.cpus <= full]
        found += [(flow, flow.at(level)) for flow in stuck]
        flows = [replace(flow, cpus=flow.cpus - full) for flow in flows if flow not in stuck]
    return found


def _bottleneck(flows: Sequence[_Flow]) -> tuple[Fraction | None, frozenset[int]]:
    """The level at which the first CPUs are full, and these; None and none where there is room for all.

    Too high a level is too much for some CPUs; the level that is right for them is lower, and may be too much for others still.
    """
    level, full = None, frozenset()
    while over := _overfull(flows, level):
        full = over
        level = _level([(flow.weight, flow.cap) for flow in flows if flow.cpus <= full], Fraction(len(full)))
    return level, full


def _level(members: Iterable[tuple[Fraction | int, Fraction]], amount: Fraction) -> Fraction | None:
    """Where each of (weight, cap) has min(cap, weight * level), and all together the amount; None where their caps are less."""
    waiting = sorted(members, key=lambda member: member[1] / member[0])
    weight = sum(member[0] for member in waiting)
    for mine, cap in waiting:
        if cap * weight > amount * mine:
            return amount / weight
        amount, weight = amount - cap, weight - mine
    return None


# ---- do they fit? The way to find out is a maximum flow (Ford and Fulkerson), from flows to CPUs


def _overfull(flows: Sequence[_Flow], level: Fraction | None) -> frozenset[int]:
    """CPUs to which flows that can use no others want more time than they have; empty where everything fits."""
    wants: dict[frozenset[int], Fraction] = {}
    for flow in flows:
        wants[flow.cpus] = wants.get(flow.cpus, Fraction(0)) + flow.at(level)
    rooms = [frozenset(cpus for cpus in wants if cpu in cpus) for cpu in sorted(frozenset().union(*wants))]
    free = {room: Fraction(count) for room, count in Counter(rooms).items()}
    used: dict[tuple, Fraction] = {}
    for source, wanted in wants.items():
        while wanted:
            way, asked = _way(source, free, used)
            if not way:
                return frozenset().union(*asked)
            amount = min(wanted, free[way[-1][1]], *(used[other, room] for _, room, other in way[:-1]))
            wanted -= amount
            _push(way, amount, free, used)
    return frozenset()


def _way(source: frozenset[int], free: Mapping, used: Mapping) -> tuple[tuple, Iterable]:
    """The shortest way to a free room, in steps of who, room, and who gives way there; and who was asked to. No steps: no room."""
    ways: dict[frozenset[int], tuple] = {source: ()}
    queue = deque([source])
    while queue:
        cpus = queue.popleft()
        for room in (room for room in free if cpus in room):
            if free[room]:
                return (*ways[cpus], (cpus, room, None)), ways
            for other in room:
                if other not in ways and used.get((other, room)):
                    ways[other] = (*ways[cpus], (cpus, room, other))
                    queue.append(other)
    return (), ways


def _push(way: tuple, amount: Fraction, free: dict, used: dict) -> None:
    for who, room, other in way:
        used[who, room] = used.get((who, room), 0) + amount
        if other is None:
            free[room] -= amount
        else:
            used[other, room] -= amount
