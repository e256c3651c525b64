"""What ``lab.start`` is asked for (vCPUs, topology, cells, pins), checked and made to fit together before a guest starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvmlab.errors import CpuListError, GuestError
from kvmlab.guest.spec import MOST_VCPUS
from kvmlab.guest.topology import Cells, Topology, like, named
from kvmlab.host import cpulist
from kvmlab.host.host import Host

if TYPE_CHECKING:
    import pandas as pd

HOST_LIKE = "host-like"
_PARTS = ("socket", "die", "core", "cpu")


class Shape(NamedTuple):
    """How many vCPUs, in which topology and cells, and the host CPU of each where they are to be pinned."""

    vcpus: int
    topology: Topology | None
    cells: Cells | None
    pins: list[int] | None


def shape(
    vcpus: int | None,
    topology: str | None,
    cells: Sequence[str] | None,
    distances: Sequence[Sequence[int]] | None,
    pins: str | None,
) -> Shape:
    """Fit together what ``lab.start`` was asked for, and find out what it was not.

    Parameters
    ----------
    vcpus, topology, cells, distances, pins
        As for ``lab.start``.

    Raises
    ------
    GuestError
        For numbers that do not fit together.
    """
    host_cpus = None if pins is None else _online(pins)
    if topology == HOST_LIKE:
        asked, mirrored = like(Host().cpus(), host_cpus or _first(vcpus))
        host_cpus = mirrored if host_cpus else None
    else:
        asked = None if topology is None else Topology.parse(topology)
    if vcpus is None:
        vcpus = asked.vcpus if asked else len(host_cpus) if host_cpus else named(cells) or 1
    elif asked and asked.vcpus != vcpus:
        raise GuestError(f"{asked.arithmetic()}, not {vcpus}. Change one of these numbers, or leave the vCPUs out.")
    if host_cpus and len(host_cpus) != vcpus:
        raise GuestError(f"pins={pins!r} are {len(host_cpus)} host CPUs for {vcpus} vCPUs: name one for each.")
    if cells is None and distances is not None:
        raise GuestError("NUMA distances without cells: name the vCPUs of each cell too, as in cells=['0-3', '4-7'].")
    return Shape(vcpus, asked, None if cells is None else Cells.parse(cells, distances, vcpus), host_cpus)


def _online(pins: str) -> list[int]:
    try:
        wanted = cpulist.as_written(pins)
    except (CpuListError, AttributeError) as error:
        raise GuestError(f"pins={pins!r}: write a list of host CPUs, one for each vCPU, as in '0-3'.") from error
    online = Host().cpus().query("online")["cpu"].tolist()
    if strange := sorted(set(wanted) - set(online)):
        raise GuestError(f"pins={pins!r}: CPU {strange[0]} is not among the online CPUs {cpulist.format(online)}.")
    if not wanted:
        raise GuestError("pins='': name a host CPU for each vCPU, as in '0-3'.")
    return list(wanted)


def _first(vcpus: int | None) -> list[int]:
    """So many online CPUs of this host by their place; by default as many whole sockets, dies or cores as a guest can be like."""
    online = Host().cpus().query("online").sort_values(["socket", "die", "core", "smt", "cpu"])
    if vcpus is None:
        return next(filter(None, (_whole(online, [*_PARTS[: depth + 1]]) for depth in range(len(_PARTS)))))
    if vcpus not in range(1, len(online) + 1):
        raise GuestError(f"A host-like guest with {vcpus!r} vCPUs: this host has {len(online)} online CPUs to be like.")
    return online["cpu"].tolist()[:vcpus]


def _whole(online: pd.DataFrame, place: list[str]) -> list[int]:
    """The first ones of these parts that fit into a guest together; none where the first part alone is too large."""
    chosen: list[int] = []
    for _, part in online.groupby(place, dropna=False):
        if len(chosen) + len(part) > MOST_VCPUS:
            break
        chosen += part["cpu"].tolist()
    return chosen
