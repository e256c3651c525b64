"""The topology a guest is given: sockets, dies, cores and threads, and its NUMA cells. Pure.

Source of the APIC ids: QEMU's include/hw/i386/topology.h; each level takes as many bits as its largest number needs.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsIndex

from kvmlab.errors import CpuListError, GuestError
from kvmlab.host import cpulist

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("sockets", "dies", "cores", "threads")
_FORM = re.compile(r"(\d{1,4})x(?:(\d{1,4})x)?(\d{1,4})x(\d{1,4})", re.ASCII)


@dataclass(frozen=True)
class Topology:
    """Sockets in all, dies a socket, cores a die, threads a core.

    Examples
    --------
    >>> str(Topology.parse("2x2x2")), Topology.parse("2x1x2x2").vcpus
    ('2x1x2x2', 8)
    """

    sockets: int
    dies: int
    cores: int
    threads: int

    @classmethod
    def parse(cls, text: str) -> Topology:
        """ "2x1x2x2" is sockets x dies x cores x threads; "2x2x2" has one die a socket.

        Parameters
        ----------
        text : str
            Three or four numbers from 1 on.

        Raises
        ------
        GuestError
            For anything else.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if not match or not all(int(number or 1) for number in match.groups()):
            raise GuestError(f"Topology {text!r}: write sockets x dies x cores x threads, as in '2x1x2x2', or 'host-like'.")
        return cls(*(int(number or 1) for number in match.groups()))

    @property
    def vcpus(self) -> int:
        """How many vCPUs that makes."""
        return self.sockets * self.dies * self.cores * self.threads

    def __str__(self) -> str:
        return f"{self.sockets}x{self.dies}x{self.cores}x{self.threads}"

    def arithmetic(self) -> str:
        """As a reader would do it."""
        sizes = [(getattr(self, level), level) for level in LEVELS]
        return " x ".join(f"{size} {level if size > 1 else level[:-1]}" for size, level in sizes) + f" = {self.vcpus} vCPUs"

    def places(self) -> list[tuple[int, int, int, int]]:
        """Of each vCPU: its socket, die, core and SMT thread. Threads count fastest, as QEMU has it.

        >>> Topology(1, 1, 2, 2).places()
        [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 0, 1, 1)]
        """
        return [
            (socket, die, core, thread)
            for socket in range(self.sockets)
            for die in range(self.dies)
            for core in range(self.cores)
            for thread in range(self.threads)
        ]

    def apic_ids(self) -> list[int]:
        """Of each vCPU. They have gaps where a level's number is no power of two.

        >>> Topology(2, 1, 3, 1).apic_ids()
        [0, 1, 2, 4, 5, 6]
        """
        threads, cores, dies = ((number - 1).bit_length() for number in (self.threads, self.cores, self.dies))
        return [((socket << dies | die) << cores | core) << threads | thread for socket, die, core, thread in self.places()]


def like(cpus: pd.DataFrame, chosen: Sequence[int]) -> tuple[Topology, list[int]]:
    """The shape of some of a machine's CPUs, and these CPUs in the order of the vCPUs that are to mirror them.

    Parameters
    ----------
    cpus : DataFrame
        From ``Host.cpus()``.
    chosen : sequence of int
        Online host CPUs.

    Raises
    ------
    GuestError
        For a shape that is not the same in every socket, die and core: it has no sockets x dies x cores x threads.
    """
    rows = cpus.set_index("cpu").loc[list(chosen), ["socket", "die", "core", "smt"]].fillna(0)
    places = sorted((tuple(int(number) for number in row), cpu) for cpu, *row in rows.itertuples())
    counts = [_counts([place[: level + 1] for place, _ in places]) for level in range(len(LEVELS))]
    if uneven := [(name, sorted(found)) for name, found in zip(LEVELS, counts, strict=True) if len(found) > 1]:
        name, found = uneven[0]
        raise GuestError(
            f"Host CPUs {cpulist.format(chosen)} are no regular shape: {' or '.join(map(str, found))} {name} where there should be "
            f"the same number everywhere. Choose whole cores, as many in each socket, or write it out, as in '1x1x2x1'."
        )
    return Topology(*(min(found) for found in counts)), [cpu for _, cpu in places]


def _counts(places: list[tuple[int, ...]]) -> set[int]:
    """How many different children the parents on this level have."""
    children: dict[tuple[int, ...], set[int]] = {}
    for *parent, child in places:
        children.setdefault(tuple(parent), set()).add(child)
    return {len(found) for found in children.values()}


@dataclass(frozen=True)
class Cells:
    """NUMA cells: the vCPUs of each, and how far each is from each.

    Raises
    ------
    GuestError
        For vCPUs that are in two cells, in none, or that the guest does not have, and for distances that cannot be.
    """

    vcpus: tuple[str, ...]
    distances: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def parse(cls, cells: Sequence[str], distances: Sequence[Sequence[int]] | None, vcpus: int) -> Cells:
        """Check what a user wrote against a guest of so many vCPUs.

        Parameters
        ----------
        cells : list of str
            The vCPUs of each, as in ["0-3", "4-7"]; "" for a cell without any.
        distances : list of lists, optional
            A row a cell, 10 to itself.
        vcpus : int
            How many the guest has.
        """
        if not isinstance(cells, Sequence) or isinstance(cells, str) or not cells:
            raise GuestError(f"NUMA cells {cells!r}: write a list with the vCPUs of each cell, as in ['0-3', '4-7'].")
        owner: dict[int, int] = {}
        for number, text in enumerate(cells):
            for vcpu in _vcpus(number, text):
                if vcpu >= vcpus:
                    raise GuestError(f"NUMA cell {number}, '{text}': there is no vCPU {vcpu}; the guest has 0 to {vcpus - 1}.")
                if vcpu in owner:
                    raise GuestError(f"vCPU {vcpu} is in the NUMA cells {owner[vcpu]} and {number}: each vCPU belongs to one.")
                owner[vcpu] = number
        if left := sorted(set(range(vcpus)) - set(owner)):
            raise GuestError(f"vCPU {cpulist.format(left)} is in no NUMA cell: the cells {list(cells)} must hold all of 0 to {vcpus - 1}.")
        return cls(tuple(cells), tuple(_distances(distances, len(cells))) if distances is not None else ())


def named(cells: Sequence[str] | None) -> int:
    """How many vCPUs a guest needs to have all those that its cells name; 0 for none."""
    listed = cells if isinstance(cells, Sequence) and not isinstance(cells, str) else ()
    return max((vcpu + 1 for number, text in enumerate(listed) for vcpu in _vcpus(number, text)), default=0)


def _vcpus(number: int, text: str) -> tuple[int, ...]:
    try:
        return cpulist.parse(text)
    except (CpuListError, AttributeError) as error:
        raise GuestError(f"NUMA cell {number}: {error}") from error


def _distances(rows: Sequence[Sequence[int]], cells: int) -> Iterator[tuple[int, ...]]:
    if len(rows) != cells or any(len(row) != cells for row in rows):
        raise GuestError(f"NUMA distances {rows!r}: write {cells} rows of {cells} numbers, one for each pair of the {cells} cells.")
    for number, row in enumerate(rows):
        yield tuple(_distance(value, number, other) for other, value in enumerate(row))


def _distance(value: SupportsIndex, number: int, other: int) -> int:
    with suppress(TypeError):  # of what is no whole number
        distance = operator.index(value)
        if distance == 10 if number == other else 11 <= distance <= 254:
            return distance
    raise GuestError(f"NUMA distance {value!r} from cell {number} to {other}: write 10 to itself and 11 to 254 to others.")
