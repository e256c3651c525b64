"""Measurements: sample running guests, and turn what was sampled into rates, residency and sentences.

`delta` is the only place where counters become rates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.guest import vcpus

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

_VCPU = ["guest", "vcpu", "tid"]  # with the thread: a guest of the same name that came later is another


def sample(lab: GuestLab, seconds: float = 5, hz: float = 10) -> pd.DataFrame:
    """What ``lab.sample`` does: rows of ``lab.vcpus()``, `hz` times a second, on a clock that does not drift.

    Guests that come and go meanwhile are in it for as long as they are there.
    """
    parts, missed = _ticks(lambda: [row for process in lab.processes() for row in vcpus.rows(process)], seconds, hz)
    result = frame([row for rows in parts for row in rows], "vcpus", vcpus.unavailable(lab.processes()))
    result.attrs |= {"hz": hz, "missed": missed, "accel": lab.accel}
    return result


def follow(read: Callable[[], pd.DataFrame], seconds: float = 5, hz: float = 10) -> pd.DataFrame:
    """Any frame of counters, such as ``host.cpu_times``, read `hz` times a second, below each other.

    ``attrs["missed"]`` counts the ticks that were skipped because the machine was too busy to keep up.

    Examples
    --------
    >>> from kvmlab import Host
    >>> follow(Host().cpu_times, seconds=0.1, hz=20)["time_s"].nunique() > 1
    True
    """
    frames, missed = _ticks(read, seconds, hz)
    result = pd.concat(frames, ignore_index=True)
    result.attrs = frames[-1].attrs | {"hz": hz, "missed": missed}
    return result


def _ticks(read: Callable[[], Any], seconds: float, hz: float) -> tuple[list, int]:
    """What `read` returned at each tick of a clock that does not drift, and how many ticks were missed."""
    if not (0 < seconds <= 3600 and 0 < hz <= 100):
        raise KvmlabError(f"seconds={seconds!r}, hz={hz!r}: write up to 3600 seconds and up to 100 samples a second.")
    found, missed, begin = [], 0, time.monotonic()
    for tick in range(round(seconds * hz) + 1):
        late = time.monotonic() - (begin + tick / hz)
        if late > 1 / hz:
            missed += 1
            continue
        time.sleep(max(0.0, -late))
        found.append(read())
    return found, missed


@documents("delta")
def delta(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Rates between two frames of ``lab.vcpus()``: one row a vCPU that is in both.

    A counter that is NA in one of them gives an NA rate.

    """
    pairs = before.merge(after, on=_VCPU, suffixes=("_0", "_1"))
    pairs = pairs[pairs["time_s_1"] > pairs["time_s_0"]]
    seconds = pairs["time_s_1"] - pairs["time_s_0"]

    def rate(column: str, scale: float = 1) -> pd.Series:
        return scale * (pairs[f"{column}_1"] - pairs[f"{column}_0"]) / seconds

    columns = (rate("run_s", 100), rate("run_delay_s", 100), rate("migrations"), rate("turns"))
    result = frame(zip(pairs["guest"], pairs["vcpu"], seconds, *columns, strict=True), "delta", after.attrs.get("unavailable"))
    result.attrs["accel"] = after.attrs.get("accel")
    return result


def rates(samples: pd.DataFrame) -> pd.DataFrame:
    """`delta` between each vCPU's first and last sample."""
    groups = samples.groupby(_VCPU, dropna=False)
    first, last = groups.head(1), groups.tail(1)
    last.attrs = samples.attrs
    return delta(first, last)


@documents("residency")
def residency(samples: pd.DataFrame) -> pd.DataFrame:
    """On which host CPUs each vCPU really ran: one row a vCPU and host CPU that it was seen on.

    How long it ran between two samples is exact; that it did so on the host CPU of the later sample is not quite, for it
    may have moved in between.

    """
    ran = samples.groupby(_VCPU, dropna=False)["run_s"].diff()
    spent = samples.assign(run_s=ran).groupby(["guest", "vcpu", "cpu"], as_index=False)["run_s"].sum()
    total = spent.groupby(["guest", "vcpu"])["run_s"].transform("sum")
    share = (spent["run_s"] / total).where(total > 0)
    return frame(zip(spent["guest"], spent["vcpu"], spent["cpu"], spent["run_s"], share, strict=True), "residency")


def in_words(samples: pd.DataFrame) -> str:
    """One sentence a vCPU: where it ran, how often it moved, how long it waited."""
    where = residency(samples)
    lines = []
    for row in rates(samples).itertuples():
        mine = where[(where["guest"] == row.guest) & (where["vcpu"] == row.vcpu) & (where["share"] >= 0.005).fillna(False)]
        places = " and ".join(f"CPU {r.cpu} ({100 * r.share:.0f} %)" for r in mine.itertuples()) or "no CPU"
        moves = "" if pd.isna(row.migrations_per_s) else f", moved {_rounded(row.migrations_per_s)} times a second"
        waits = "" if pd.isna(row.run_delay_pct) else f", waited for a CPU {row.run_delay_pct:.0f} % of the time"
        lines.append(f"{row.guest} vCPU {row.vcpu} ran on {places}{moves}{waits}.")
    return "\n".join(lines)


def _rounded(rate: float) -> str:
    return f"{rate:.0f}" if rate == 0 or rate >= 10 else f"{rate:.1f}"
