"""Counters into rates, residency and sentences. `delta` is the only place where counters become rates."""

from __future__ import annotations

import pandas as pd

from kvmlab.columns import documents, frame

VCPU = ["guest", "vcpu", "tid"]  # with the thread: a guest of the same name that came later is another


@documents("delta")
def delta(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Rates between two frames of ``lab.vcpus()``: one row a vCPU that is in both.

    A counter that is NA in one of them gives an NA rate.

    """
    pairs = before.merge(after, on=VCPU, suffixes=("_0", "_1"))
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
    groups = samples.groupby(VCPU, dropna=False)
    first, last = groups.head(1), groups.tail(1)
    last.attrs = samples.attrs
    return delta(first, last)


@documents("residency")
def residency(samples: pd.DataFrame) -> pd.DataFrame:
    """On which host CPUs each vCPU really ran: one row a vCPU and host CPU that it was seen on.

    How long it ran between two samples is exact; that it did so on the host CPU of the later sample is not quite, for it
    may have moved in between.

    """
    ran = samples.groupby(VCPU, dropna=False)["run_s"].diff()
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
