"""Layout: a host's frames as plain sets and dictionaries, for code that asks them thousands of times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmlab.host import cpulist

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Layout:
    """Where each online CPU is, and what the kernel keeps away from it.

    Attributes
    ----------
    known, online : frozenset of int
        All CPUs that the kernel knows, and those that can run threads.
    isolated : frozenset of int
        Those without load balancing: isolcpus, and cpuset partitions that say so.
    nohz_full : frozenset of int
    place : dict
        Of each online CPU: its node, socket, die, core and SMT thread; 0 where the kernel does not say.
    core : dict
        Of each online CPU: the online CPUs of its core, itself among them.
    strength : dict
        Computing power, or the highest frequency where the kernel does not say; empty where it says neither.
    irqs : dict
        Of each online CPU that some are sent to: the numbers of the interrupts. Those that may go to all CPUs are not aimed.
    """

    known: frozenset[int]
    online: frozenset[int]
    isolated: frozenset[int]
    nohz_full: frozenset[int]
    place: dict[int, tuple[int, int, int, int, int]]
    core: dict[int, tuple[int, ...]]
    strength: dict[int, float]
    irqs: dict[int, frozenset[int]]

    @classmethod
    def of(cls, cpus: pd.DataFrame, isolation: pd.DataFrame) -> Layout:
        """From ``Host.cpus()`` and ``Host.isolation()``."""
        online = cpus[cpus["online"].fillna(False).astype(bool)]
        numbers = [int(cpu) for cpu in online["cpu"]]
        cores = online["core"].fillna(online["cpu"])  # a CPU of which no core is told is one by itself
        columns = [online[name].fillna(0) for name in ("node", "socket", "die")] + [cores, online["smt"].fillna(0)]
        place = {cpu: tuple(int(number) for number in at) for cpu, *at in zip(numbers, *columns, strict=True)}
        together: dict[tuple, list[int]] = {}
        for cpu in numbers:
            together.setdefault(place[cpu][1:4], []).append(cpu)
        return cls(
            known=frozenset(int(cpu) for cpu in cpus["cpu"]),
            online=frozenset(numbers),
            isolated=_isolated(isolation),
            nohz_full=frozenset(int(cpu) for cpu, on in zip(isolation["cpu"], isolation["nohz_full"].fillna(False), strict=True) if on),
            place=place,
            core={cpu: tuple(together[at[1:4]]) for cpu, at in place.items()},
            strength=_strength(online),
            irqs=_irqs(isolation, set(numbers)),
        )

    def node(self, cpu: int) -> int:
        """The NUMA node of an online CPU."""
        return self.place[cpu][0]

    @property
    def nodes(self) -> frozenset[int]:
        """The nodes that have online CPUs."""
        return frozenset(at[0] for at in self.place.values())


def _isolated(isolation: pd.DataFrame) -> frozenset[int]:
    rows = zip(isolation["cpu"], isolation["isolcpus"].fillna(False), isolation["cpuset_partition"].fillna(""), strict=True)
    return frozenset(int(cpu) for cpu, boot, partition in rows if boot or partition.endswith(("(isolated)", "no load balancing)")))


def _irqs(isolation: pd.DataFrame, online: set[int]) -> dict[int, frozenset[int]]:
    """Where nobody uses an interrupt, the kernel says that it may go everywhere."""
    rows = zip(isolation["cpu"], isolation["irqs"].fillna(""), strict=True)
    found = {int(cpu): frozenset(cpulist.parse(text)) for cpu, text in rows if cpu in online}
    everywhere = frozenset.intersection(*found.values()) if len(found) > 1 else frozenset()
    return {cpu: irqs - everywhere for cpu, irqs in found.items() if irqs - everywhere}


def _strength(online: pd.DataFrame) -> dict[int, float]:
    for name in ("capacity", "max_mhz"):
        if online[name].notna().all():
            return {int(cpu): float(value) for cpu, value in zip(online["cpu"], online[name], strict=True)}
    return {}
