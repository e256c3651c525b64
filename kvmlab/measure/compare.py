"""The topology that was asked for beside the one that a guest sees."""

from __future__ import annotations

import pandas as pd

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.guest.topology import Topology

_LEVELS = ["socket", "die", "core", "smt"]


@documents("compared_topology")
def compare_topology(asked: str | pd.DataFrame, seen: pd.DataFrame) -> pd.DataFrame:
    """One row a vCPU: where it was asked to be, and where it sees itself.

    Numbers are counted within the level above, so that only the shape matters: hardware numbers its cores with gaps.

    Parameters
    ----------
    asked : str or DataFrame
        As in ``lab.start(topology="2x1x2x2")``, or the CPUs that the guest was to be like: ``Host.cpus()``.
    seen : DataFrame
        From ``Guest.topology()``.

    Raises
    ------
    KvmlabError
        For another number of CPUs.

    Examples
    --------
    >>> compare_topology("2x1x2x2", g.topology()).same.all()                                 # doctest: +SKIP
    True
    """
    # a guest's vCPUs are counted threads first; a host's CPUs often are not
    wanted = sorted(places(asked[asked["online"]])) if isinstance(asked, pd.DataFrame) else Topology.parse(asked).places()
    found = places(seen)
    if len(wanted) != len(found):
        raise KvmlabError(f"{len(wanted)} CPUs were asked for and {len(found)} are seen: compare frames of the same guest.")
    rows = [(vcpu, _text(a), _text(b), a == b) for vcpu, a, b in zip(seen["cpu"], wanted, found, strict=True)]
    return frame(rows, "compared_topology")


def places(cpus: pd.DataFrame) -> list[tuple[int, ...]]:
    """Of each CPU: the rank of its socket, of its die within the socket, of its core within the die, and of itself within the core."""
    ids = [tuple(row) for row in cpus[_LEVELS].fillna(0).astype(int).itertuples(index=False)]
    ranks: dict[tuple[int, ...], dict[int, int]] = {}
    for place in sorted(set(ids)):
        for level, number in enumerate(place):
            within = ranks.setdefault(place[:level], {})
            within.setdefault(number, len(within))
    return [tuple(ranks[place[:level]][number] for level, number in enumerate(place)) for place in ids]


def _text(place: tuple[int, ...]) -> str:
    return ":".join(map(str, place))
