"""A machine as a tree of boxes: which node, socket, die, cache and core holds which host CPUs.

The frames give sets of CPUs, and a set goes inside the smallest one that holds it, as hwloc does it. So it needs no rule about which
level stands above which: on some machines a socket has nodes, on others a node has sockets, and a cache may span either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from kvmlab.plots.style import size

LEVELS = ("node", "socket", "die", "core", "l3", "l2")  # of boxes with the same CPUs, the outermost first


@dataclass
class Box:
    """Something of the machine.

    Parameters
    ----------
    kind : str
        machine, node, socket, die, core, cache, cpu, or offline: CPUs that are, and so of no core that is known.
    names : list of str
        What stands on it: "node 0", "socket 0", "8 GiB".
    cpus : frozenset of int
        The host CPUs in it.
    caches : list of str
        The caches that just these CPUs share: "L3 16 MiB".
    children : list of Box
        What is inside, in order.
    state : str
        Of a CPU: offline, isolated, nohz_full, or "isolated, nohz_full". Of a core: its strength, where the machine's cores differ.
    """

    kind: str
    names: list[str]
    cpus: frozenset[int]
    caches: list[str] = field(default_factory=list)
    children: list[Box] = field(default_factory=list)
    state: str = ""

    @cached_property
    def likeness(self) -> tuple:
        """The same for boxes that are to look alike, because they are of the same kind and hold the same kinds."""
        return self.kind, *sorted({child.kind for child in self.children})

    def all(self) -> Iterator[Box]:
        """This box and all inside it."""
        yield self
        for child in self.children:
            yield from child.all()


@dataclass(frozen=True)
class Group:
    """CPUs that belong together, before they have a place in the tree."""

    level: str
    cpus: frozenset[int]
    names: tuple[str, ...]
    state: str = ""


def tree(cpus: pd.DataFrame, caches: pd.DataFrame | None = None, nodes: pd.DataFrame | None = None) -> tuple[Box, list[str]]:
    """The machine, and what of it has no place in a picture of boxes inside boxes."""
    machine = Box("machine", [], frozenset(int(cpu) for cpu in cpus["cpu"]))
    fitting, crossing = _nested(groups(cpus, caches, nodes))
    innermost = dict.fromkeys(machine.cpus, machine)
    for group in sorted(fitting, key=lambda group: (-len(group.cpus), LEVELS.index(group.level))):
        box = _put(group, innermost[min(group.cpus)])
        innermost |= dict.fromkeys(group.cpus, box)
    _put_cpus(cpus, innermost)
    without, lost = _nodes_without_cpus(cpus, nodes)
    machine.children += without
    for box in machine.all():
        box.children = _in_order(box.children)
    return machine, lost + sorted({group.names[0] for group in crossing})


def _in_order(children: list[Box]) -> list[Box]:
    """By number where all are of one kind that has numbers, else by first CPU; then what has no CPUs, and what is offline."""
    numbered = len({child.kind for child in children if child.kind != "offline"}) == 1

    def rank(child: Box) -> tuple:
        number = int(child.names[0].split()[-1]) if numbered and child.names and child.kind != "offline" else min(child.cpus, default=0)
        return child.kind == "offline", not child.cpus, number

    return sorted(children, key=rank)


def _put(group: Group, outer: Box) -> Box:
    """The box of this group: one of its own, or the outer one where that holds the same CPUs. A core always has its own."""
    cache = group.level in ("l3", "l2")
    same = group.cpus == outer.cpus and outer.kind != "machine"
    if not same or group.level == "core":
        kind, names, caches = ("cache", [], list(group.names)) if cache else (group.level, list(group.names), [])
        outer.children.append(Box(kind, names, group.cpus, caches, state=group.state))
        return outer.children[-1]
    if cache:
        outer.caches += group.names
    else:
        outer.names[1:1] = group.names  # behind the node's number, before its memory
    return outer


def _put_cpus(cpus: pd.DataFrame, innermost: dict[int, Box]) -> None:
    """Each in the innermost box that holds it; what is offline and in no core, apart from the rest there."""
    offline: dict[int, Box] = {}
    for row in cpus.itertuples():
        cpu = int(row.cpu)
        box, outer = Box("cpu", [str(cpu)], frozenset({cpu}), state=state(row)), innermost[cpu]
        if box.state == "offline" and outer.kind != "core":
            if id(outer) not in offline:
                offline[id(outer)] = Box("offline", ["offline"], frozenset())
                outer.children.append(offline[id(outer)])
            outer = offline[id(outer)]
            outer.cpus |= box.cpus
        outer.children.append(box)


def state(row) -> str:
    """What is special about a CPU; what is not known of it is not."""
    if _is(row.online, False):
        return "offline"
    return ", ".join(name for name in ("isolated", "nohz_full") if _is(getattr(row, name), True))


def _is(value: object, wanted: bool) -> bool:
    return not pd.isna(value) and bool(value) is wanted


def _nested(found: Iterable[Group]) -> tuple[list[Group], list[Group]]:
    """Those that can be boxes inside boxes, and those that cut across one of them: of two such, the later level gives way."""
    fitting, crossing = [], []
    of_cpu: dict[int, list[Group]] = {}
    for group in found:
        others = {id(other): other for cpu in group.cpus for other in of_cpu.get(cpu, ())}.values()
        if all(other.cpus <= group.cpus or group.cpus <= other.cpus for other in others):
            fitting.append(group)
            for cpu in group.cpus:
                of_cpu.setdefault(cpu, []).append(group)
        else:
            crossing.append(group)
    return fitting, crossing


# ---- the groups of each level


def groups(cpus: pd.DataFrame, caches: pd.DataFrame | None, nodes: pd.DataFrame | None) -> Iterator[Group]:
    """All groups of CPUs that the frames tell of, level by level."""
    memory = {} if nodes is None else {row.node: memory_of(row) for row in nodes.itertuples()}
    for (node,), members in _together(cpus, "node"):
        yield Group("node", members, (f"node {node}", *memory.get(node, ())))
    for (socket,), members in _together(cpus, "socket"):
        yield Group("socket", members, (f"socket {socket}",))
    if (cpus.groupby("socket")["die"].nunique() > 1).any():
        for (_, die), members in _together(cpus, "socket", "die"):
            yield Group("die", members, (f"die {die}",))
    strengths = strength(cpus)
    for (*_, core), members in _together(cpus, "socket", "die", "core"):
        yield Group("core", members, (f"core {core}",), strengths.get(min(members), ""))
    for level in (3, 2):
        sizes = cache_sizes(caches, level)
        for (cache,), members in _together(cpus, f"l{level}"):
            yield Group(f"l{level}", members, (f"L{level} {sizes.get(cache, '')}".strip(),))


def _together(cpus: pd.DataFrame, *columns: str) -> Iterator[tuple[tuple, frozenset[int]]]:
    """The CPUs that have the same in all these columns; those without the last one are in no group."""
    known = cpus[cpus[columns[-1]].notna()]
    for key, rows in known.groupby(list(columns), dropna=False):
        yield key, frozenset(int(cpu) for cpu in rows["cpu"])


def _telling(cpus: pd.DataFrame) -> str | None:
    """The column by which cores differ: the one that tells fewer kinds apart, for frequencies may differ from core to core."""
    columns = [column for column in ("capacity", "max_mhz") if cpus[column].nunique() > 1]
    return min(columns, key=lambda column: cpus[column].nunique(), default=None)


def strength(cpus: pd.DataFrame) -> dict[int, str]:
    """What each CPU's core can do, where not all can do the same."""
    column = _telling(cpus)
    known = cpus[cpus[column].notna()] if column else cpus[:0]
    return {int(cpu): _strength(column, value) for cpu, value in zip(known["cpu"], known[column or "cpu"], strict=True)}


def strengths(cpus: pd.DataFrame) -> list[tuple[str, int]]:
    """The kinds of core where they differ, the strongest first, and how many of each there are."""
    column = _telling(cpus)
    if column is None:
        return []
    cores = cpus[cpus["core"].notna() & cpus[column].notna()].drop_duplicates(["socket", "die", "core"])
    return list(Counter(_strength(column, value) for value in sorted(cores[column], reverse=True)).items())


def _strength(column: str, value: float) -> str:
    return f"of capacity {value}" if column == "capacity" else f"of up to {value / 1000:.3g} GHz"


def memory_of(row) -> tuple[str, ...]:
    """What to say of a node's memory: nothing where it is not known."""
    if pd.isna(row.mem_total_kib):
        return ()
    return (gib(row.mem_total_kib) if row.mem_total_kib else "no memory",)


def gib(kib: int) -> str:
    """
    >>> gib(8388608), gib(480520)
    ('8 GiB', '0.46 GiB')
    """
    number = kib / 1024**2
    return f"{number:.2g} GiB" if number < 1 else f"{number:,.0f} GiB" if number >= 100 else f"{number:.3g} GiB"


def cache_sizes(caches: pd.DataFrame | None, level: int) -> dict[int, str]:
    """The size of each data or unified cache of a level, where it is known."""
    if caches is None:
        return {}
    known = caches[(caches["level"] == level) & (caches["type"] != "Instruction") & caches["size_kib"].notna()]
    return {int(cache): size(int(kib)) for cache, kib in zip(known["cache"], known["size_kib"], strict=True)}


def cpus_of(cpus: pd.DataFrame) -> str:
    """Which CPUs a node lacks that has none: of those that are offline nobody knows the node."""
    return "CPUs" if cpus["online"].fillna(True).all() else "online CPUs"


def _nodes_without_cpus(cpus: pd.DataFrame, nodes: pd.DataFrame | None) -> tuple[list[Box], list[str]]:
    """Nodes of memory alone, as boxes; and the names of nodes whose CPUs are told in no usable way."""
    placed = set(cpus["node"].dropna())
    rest = [] if nodes is None else [row for row in nodes.itertuples() if row.node not in placed]
    empty = [row for row in rest if not pd.isna(row.cpus) and row.cpus == ""]
    boxes = [Box("node", [f"node {row.node}", f"no {cpus_of(cpus)}", *memory_of(row)], frozenset()) for row in empty]
    return boxes, [f"node {row.node}" for row in rest if row not in empty]
