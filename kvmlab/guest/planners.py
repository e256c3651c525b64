"""Planners: a host CPU for each vCPU, by one of five strategies, with a reason that can be read for each. Pure, but for `autoplan`.

All go through the vCPUs in order and give each the CPU that suits it best: first one that no vCPU has, then one on the node of its
memory, then one on the core of its siblings; the rest is the strategy. Emulator and I/O threads get what is left.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kvmlab.errors import PlanError
from kvmlab.guest import scene as scenes
from kvmlab.guest.scene import Placed, Scene
from kvmlab.guest.targets import legal_cpus
from kvmlab.host import cpulist

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab
    from kvmlab.guest.pinning import Plan


class Choice(NamedTuple):
    """A line of a plan, and why."""

    guest: str
    who: int | str
    cpus: tuple[int, ...]
    reason: str


def autoplan(lab: GuestLab, strategy: str, guests: str | Iterable[str] | None = None, cpus: str | None = None) -> Plan:
    """What ``lab.autoplan`` does."""
    _refuse_unknown(strategy)
    if guests is None:  # those that an apply may change
        guests = [process.guest for process in lab.processes() if lab._allow_changes or process.uuid in lab._mine]
    choices = decide(strategy, scenes.of(lab), guests, cpus)
    from kvmlab.guest.pinning import Plan

    return Plan(lab, {choice[:2]: cpulist.format(choice.cpus) for choice in choices}, [choice.reason for choice in choices])


def decide(strategy: str, scene: Scene, guests: str | Iterable[str] | None = None, cpus: str | None = None) -> list[Choice]:
    """A line for each vCPU, then for each emulator and I/O thread of these guests.

    Parameters
    ----------
    strategy : {"spread", "pack", "siblings", "one-to-one", "like-guest"}
    scene : Scene
    guests : str or list of str, optional
        Which; all by default. vCPUs of others keep what they are pinned to.
    cpus : str, optional
        The host CPUs for the vCPUs; by default all that are online and not isolated.

    Raises
    ------
    PlanError
        For another strategy, unknown guests or CPUs, and for more vCPUs than CPUs where each is to have its own.
    """
    _refuse_unknown(strategy)
    wanted = _guests(scene, guests)
    board = _Board(scene, wanted, _candidates(scene, cpus))
    if strategy == "one-to-one":
        board.reserve(sum(len(_threads(scene, guest, "vcpu")) for guest in wanted))
    for guest in wanted:
        vcpus = _threads(scene, guest, "vcpu")
        board.start(STRATEGIES[strategy](vcpus, board))
        for thread in vcpus:
            board.give(thread)
    for guest in wanted:
        for thread in (*_threads(scene, guest, "emulator"), *_threads(scene, guest, "iothread")):
            board.leave(thread)
    return board.choices


def _refuse_unknown(strategy: str) -> None:
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        near = difflib.get_close_matches(str(strategy), STRATEGIES, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise PlanError(f"There is no strategy {strategy!r}.{meant} There are: {', '.join(STRATEGIES)}.")


def _guests(scene: Scene, guests: str | Iterable[str] | None) -> list[str]:
    there = sorted({thread.guest for thread in scene.placed if thread.guest is not None and thread.kind == "vcpu"})
    if not isinstance(guests, str | Iterable | None):
        raise PlanError(f"guests={guests!r}: write names of running guests, such as {there[:2]}.")
    wanted = there if guests is None else list(dict.fromkeys([guests] if isinstance(guests, str) else guests))
    if strange := [guest for guest in wanted if guest not in there]:
        raise PlanError(f"There is no running guest {strange[0]!r} to place: there are {', '.join(there) or 'none'}.")
    return wanted


def _threads(scene: Scene, guest: str, kind: str) -> list[Placed]:
    return [thread for thread in scene.placed if thread.guest == guest and thread.kind == kind]


def _candidates(scene: Scene, cpus: str | None) -> list[int]:
    online, isolated = scene.layout.online, scene.layout.isolated
    if cpus is None:
        return sorted(online - isolated or online)
    return list(legal_cpus(f"cpus={cpus!r}", cpus, online))


@dataclass(frozen=True)
class _Style:
    """What a strategy adds for one guest.

    `mates` are to share a core, `homes` are the node (or more: socket, die) for each vCPU, `suits` ranks CPUs that are as good
    in all else, and `why` says it.
    """

    mates: dict[int, tuple[int, ...]]
    suits: Callable[[int], tuple]
    why: Callable[[Placed, int], str]
    homes: dict[int, tuple] = field(default_factory=dict)


class _Board:
    """The host's CPUs, and which vCPUs each has by now."""

    def __init__(self, scene: Scene, guests: Sequence[str], candidates: list[int]):
        self.layout, self.candidates, self._named = scene.layout, candidates, candidates
        self.on: dict[int, list[Placed]] = {cpu: [] for cpu in scene.layout.online}
        self._on_node: Counter[int] = Counter()
        for thread in scene.placed:
            if thread.kind == "vcpu" and thread.guest not in guests and thread.pinned and len(thread.cpus) == 1:
                self._take(thread, thread.cpus[0])
        self._cpus_of_node = Counter(map(scene.layout.node, candidates))
        self.choices: list[Choice] = []

    def start(self, style: _Style) -> None:
        """The next guest."""
        self._style, self._at = style, {}

    def _take(self, thread: Placed, cpu: int) -> None:
        if cpu in self.on:  # not an offline one
            self.on[cpu].append(thread)
            self._on_node[self.layout.node(cpu)] += 1

    # ---- what strategies ask

    def core_load(self, cpu: int) -> int:
        """vCPUs on its core."""
        return sum(len(self.on[other]) for other in self.layout.core[cpu])

    def node_load(self, cpu: int) -> float:
        """vCPUs for each CPU of its node."""
        return self._on_node[self.layout.node(cpu)] / self._cpus_of_node[self.layout.node(cpu)]

    def first(self, cpu: int) -> int:
        """2 for the first CPU, where the kernel's own work often ends up, 1 for others on its core, 0 for all else."""
        first = min(self.layout.online)
        return 2 if cpu == first else int(first in self.layout.core[cpu])

    def own(self, cpu: int) -> int:
        """vCPUs on its core that are of the same guest."""
        return sum(other in self.layout.core[cpu] for other in self._at.values())

    def strangers(self, guest: str | None, cpu: int) -> bool:
        """Another guest has a vCPU on its core."""
        return any(thread.guest != guest for other in self.layout.core[cpu] for thread in self.on[other])

    def smt(self) -> int:
        """Threads of the largest core."""
        return max(len(self.layout.core[cpu]) for cpu in self.candidates)

    def home(self, threads: list[Placed], depth: int, tightest: bool, within: tuple = (), taken: Iterable[tuple] = ()) -> tuple:
        """The node, socket or die for these vCPUs: where their memory is, with room for all, and best on cores of nobody else."""
        places = sorted({place[:depth] for place in map(self.layout.place.get, self.candidates) if place[: len(within)] == within})
        nodes, taken = {node for thread in threads for node in thread.nodes}, set(taken)

        def rank(place: tuple) -> tuple:
            idle = [cpu for cpu in self.candidates if self.layout.place[cpu][:depth] == place and not self.on[cpu]]
            alone = sum(not self.strangers(threads[0].guest, cpu) for cpu in idle)
            fits = alone >= len(threads)
            far = bool(nodes) and place[0] not in nodes
            return place in taken, far, not fits, len(idle) < len(threads), alone if fits and tightest else -alone, place

        return min(places, key=rank)

    # ---- giving

    def reserve(self, vcpus: int) -> None:
        """Only CPUs that no vCPU has. The first one is given last: where there are enough, it stays for all else."""
        left = [cpu for cpu in self.candidates if not self.on[cpu]]
        if vcpus > len(left):
            had = f", of which {len(self.candidates) - len(left)} have vCPUs of other guests" if len(left) < len(self.candidates) else ""
            told = f"{vcpus} vCPUs take {vcpus} CPUs, and there are {len(self.candidates)} ({cpulist.format(self.candidates)}){had}"
            raise PlanError(f"one-to-one: {told}: {vcpus - len(left)} too few. Place fewer guests, name more CPUs, or take 'spread'.")
        self.candidates = left

    def give(self, thread: Placed) -> None:
        """A CPU for a vCPU."""
        mates = {self._at[mate]: mate for mate in self._style.mates.get(thread.who, ()) if mate in self._at}
        waiting = 1 + sum(mate not in self._at for mate in self._style.mates.get(thread.who, ()))
        cpu = min(self.candidates, key=lambda cpu: self._rank(thread, cpu, mates, waiting))
        self.choices.append(Choice(thread.guest, thread.who, (cpu,), f"{thread} on CPU {cpu}: {self._reason(thread, cpu, mates)}"))
        self._take(thread, cpu)
        self._at[thread.who] = cpu

    def _rank(self, thread: Placed, cpu: int, mates: dict[int, int], waiting: int) -> tuple:
        core, home = self.layout.core[cpu], self._style.homes.get(thread.who, ())
        room = sum(not self.on[other] for other in core if other in self.candidates)
        return (
            len(self.on[cpu]),
            bool(thread.nodes) and self.layout.node(cpu) not in thread.nodes,
            bool(mates) and not mates.keys() & set(core),
            waiting > 1 and room < waiting,
            self.strangers(thread.guest, cpu),
            self.layout.place[cpu][: len(home)] != home,
            *self._style.suits(cpu),
            self.layout.place[cpu],
            cpu,
        )

    def _reason(self, thread: Placed, cpu: int, mates: dict[int, int]) -> str:
        beside = [(other, mate) for other, mate in mates.items() if other in self.layout.core[cpu] and other != cpu]
        if self.on[cpu]:
            reason = f"all CPUs have a vCPU by now, and none has fewer than this one, which has {self.on[cpu][-1]}"
        elif beside:
            other, mate = beside[0]
            reason = f"the SMT sibling of CPU {other}, where its {'sibling ' if mate in thread.siblings else ''}vCPU {mate} runs"
        else:
            reason = self._style.why(thread, cpu)
        far = thread.nodes and self.layout.node(cpu) not in thread.nodes
        return reason + (f"; no CPU is left on node {cpulist.format(thread.nodes)}, where its memory is" if far else "")

    def leave(self, thread: Placed) -> None:
        """For an emulator or I/O thread: the CPUs near its guest that no vCPU has."""
        calm = self.layout.online - self.layout.isolated
        idle = {cpu for cpu in calm if not self.on[cpu]}
        own = {choice.cpus[0] for choice in self.choices if choice.guest == thread.guest and isinstance(choice.who, int)}
        near = {cpu for cpu in idle if self.layout.node(cpu) in set(map(self.layout.node, own))}
        cpus = near & set(self._named) or near or idle
        reason = (
            "no vCPU is pinned there"
            if cpus
            else "no CPU is left over: on those of its own vCPUs"
            if own & calm
            else "none of them is isolated"
        )
        cpus = tuple(sorted(cpus or own & calm or calm or own))
        where = f"CPU{'s' if len(cpus) > 1 else ''} {cpulist.format(cpus)}"
        self.choices.append(Choice(thread.guest, thread.who, cpus, f"{thread} on {where}: {reason}"))


# ---- the strategies


def _spread(vcpus: list[Placed], board: _Board) -> _Style:
    def why(thread: Placed, cpu: int) -> str:
        return _core_words(board, thread, cpu) + (f" on node {board.layout.node(cpu)}" if len(board.layout.nodes) > 1 else "")

    return _Style(_siblings_of(vcpus), lambda cpu: (board.core_load(cpu), board.node_load(cpu), board.first(cpu)), why)


def _pack(vcpus: list[Placed], board: _Board) -> _Style:
    home = board.home(vcpus, 1, tightest=True)

    def why(thread: Placed, cpu: int) -> str:
        if board.own(cpu):
            return "its guest is on this core already"
        return f"the next core of node {board.layout.node(cpu)}, which its {len(vcpus)} vCPUs are to fill"

    return _Style(
        _siblings_of(vcpus),
        lambda cpu: (-board.own(cpu), board.first(cpu), board.core_load(cpu)),
        why,
        dict.fromkeys(_numbers(vcpus), home),
    )


def _siblings(vcpus: list[Placed], board: _Board) -> _Style:
    """What the guest takes for a core is a core; where it knows of no SMT, so many vCPUs in a row as a core has threads."""
    mates, size = _siblings_of(vcpus), board.smt()
    numbers = _numbers(vcpus)
    if not any(mates.values()):
        rows = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        mates = {vcpu: tuple(other for other in row if other != vcpu) for row in rows for vcpu in row}

    def why(thread: Placed, cpu: int) -> str:
        together = sorted((thread.who, *mates[thread.who]))
        what = f", for its vCPUs {cpulist.format(together)}" if len(together) > 1 and len(board.layout.core[cpu]) > 1 else ""
        return _core_words(board, thread, cpu) + what

    return _Style(
        mates, lambda cpu: (board.core_load(cpu), board.first(cpu)), why, dict.fromkeys(numbers, board.home(vcpus, 1, tightest=False))
    )


def _one_to_one(vcpus: list[Placed], board: _Board) -> _Style:
    def why(thread: Placed, cpu: int) -> str:
        return f"its own alone, {_core_words(board, thread, cpu)}"

    home = board.home(vcpus, 1, tightest=True)
    return _Style(_siblings_of(vcpus), lambda cpu: (board.core_load(cpu), board.first(cpu)), why, dict.fromkeys(_numbers(vcpus), home))


def _like_guest(vcpus: list[Placed], board: _Board) -> _Style:
    """Each socket of the guest has a socket for a home, and each die a die in it; a guest with more sockets than the host is one."""
    sockets = _together(vcpus, 1)
    if len(sockets) > len({place[:2] for place in map(board.layout.place.get, board.candidates)}):
        sockets = {(): vcpus}
    homes: dict[int, tuple] = {}
    for socket in sockets.values():
        outer = board.home(socket, 2, True, taken={home[:2] for home in homes.values()})
        for die in _together(socket, 2).values() if len(sockets) > 1 or len(_together(vcpus, 1)) == 1 else [socket]:
            inner = board.home(die, 3, True, outer, set(homes.values()))
            homes |= dict.fromkeys(_numbers(die), inner)

    def why(thread: Placed, cpu: int) -> str:
        _, socket, die, core, _ = board.layout.place[cpu]
        here = f"core {core} of socket {socket}, die {die}"
        if len(sockets) < len(_together(vcpus, 1)):
            return f"{here}: the guest has more sockets than this host, so that all of them share one"
        if not thread.place:
            return f"{here}: what the guest looks like is not known"
        return f"{here} stands for the guest's core {thread.place[2]} of socket {thread.place[0]}, die {thread.place[1]}"

    return _Style(_siblings_of(vcpus), lambda cpu: (board.core_load(cpu), board.first(cpu)), why, homes)


def _numbers(vcpus: Iterable[Placed]) -> list[int]:
    return [thread.who for thread in vcpus]


def _siblings_of(vcpus: Iterable[Placed]) -> dict[int, tuple[int, ...]]:
    return {thread.who: thread.siblings for thread in vcpus}


def _together(vcpus: list[Placed], depth: int) -> dict[tuple, list[Placed]]:
    """By socket, or by socket and die, as the guest sees it."""
    found: dict[tuple, list[Placed]] = {}
    for thread in vcpus:
        found.setdefault(thread.place[:depth], []).append(thread)
    return found


def _core_words(board: _Board, thread: Placed, cpu: int) -> str:
    others = [other for beside in board.layout.core[cpu] for other in board.on[beside]]
    if not others:
        return "a core that no vCPU is pinned to"
    return f"no core is free, and this one is shared with {others[0]}"


STRATEGIES = {"spread": _spread, "pack": _pack, "siblings": _siblings, "one-to-one": _one_to_one, "like-guest": _like_guest}
