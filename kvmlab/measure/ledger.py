"""The ledger: where a vCPU's wall clock went, and how much of it is not explained.

Sources: proc(5), /proc/PID/task/TID/schedstat for what is exact (it ran, it waited for a CPU) and stat for what the kernel only
counts in ticks (in which mode it ran); the sampled states of the thread for the time that it was blocked; KVM's statistics.

Blocked time must not come from the rest of the sum, or the sum would always be right. KVM's own halt_wait_ns is no better: it
lasts until the vCPU runs again and so counts the wait for a host CPU once more (3 % of the wall clock beside two busy CPUs), is
not counted before the halt ends, and knows no other sleep.
"""

from __future__ import annotations

from math import sqrt

import pandas as pd

from kvmlab.columns import documents, frame
from kvmlab.host.threads import TICKS_PER_S
from kvmlab.measure.rates import VCPU

_TICKS = 10  # so many must have been counted to tell modes apart: each mode's share of them is then good to some 15 %
_SAMPLES = 10  # so many states must have been seen to tell how long it was blocked
_Z = 1.96
NOTE = (
    "run_s and run_delay_s are exact. user_s, kernel_s and guest_s are shares of the kernel's ticks, scaled to run_s. "
    "blocked_s is an estimate from sampled states, so residual_s is to be read beside blocked_error_s."
)


@documents("ledger")
def ledger(samples: pd.DataFrame) -> pd.DataFrame:
    """Where the wall clock of each vCPU went: one row a vCPU thread that was sampled twice or more.

    The residual is what neither running nor waiting nor being blocked explains; it is below 0 where they overlap. The
    kernel brings run_s up to date once a tick, which alone makes some milliseconds. Much of it is left by threads that block and
    wake all the time, such as two vCPUs that contend for QEMU's lock: they are seen in state R, and no counter grows.

    Parameters
    ----------
    samples : DataFrame
        From ``lab.sample`` or a ``Sampler``; the more samples, the better is blocked_s known. Two frames of ``lab.vcpus()``
        below each other (``pd.concat``) will do for all but that.

    """
    groups = [(key, rows) for key, rows in samples.groupby(VCPU, dropna=False) if _risen(rows["time_s"])]
    counted = _counted(samples, groups)
    accels = samples.attrs.get("accels", {})
    result = frame([_row(key, rows, accels.get(key[0]), counted.get(key, {})) for key, rows in groups], "ledger")
    reasons = _reasons(samples.attrs.get("unavailable", {}))
    result.attrs["unavailable"] = {column: why for column, why in reasons.items() if result[column].isna().any()}
    result.attrs |= {name: samples.attrs[name] for name in ("hz", "missed", "accel") if name in samples.attrs} | {"note": NOTE}
    return result


def _row(key: tuple, rows: pd.DataFrame, accel: str | None, counted: dict[str, float]) -> tuple:
    seconds, run, delay = (_risen(rows[name]) for name in ("time_s", "run_s", "run_delay_s"))
    blocked, error, source = _blocked(rows)
    residual = None if None in (run, delay, blocked) else seconds - run - delay - blocked
    halted = counted.get("halt_wait_ns")
    return (
        *(*key, accel, _mostly_on(rows), seconds, run, *_split(rows, run), delay, blocked, source, error),
        *(residual, None if residual is None else 100 * residual / seconds),
        *(None if halted is None else halted * seconds / 1e9, counted.get("exits")),
    )


def _risen(counter: pd.Series) -> float | None:
    """From the first to the last reading; None where one of them is missing or the counter fell."""
    first, last = counter.iloc[0], counter.iloc[-1]
    return None if pd.isna(first) or pd.isna(last) or last < first else float(last - first)


def _split(rows: pd.DataFrame, run: float | None) -> tuple[float | None, ...]:
    """User, kernel and guest time: ticks, scaled so that they add up to what the thread really ran."""
    ticks = [_risen(rows[name]) for name in ("user_s", "kernel_s", "guest_s")]
    user_fell = ticks[0] is None and rows[["user_s"]].iloc[[0, -1]].notna().all(axis=None)
    ticks[0] = 0.0 if user_fell else ticks[0]  # guest time is part of it, and counted apart: it may be a tick ahead
    if run is None or None in ticks or sum(ticks) * TICKS_PER_S < _TICKS - 0.5:
        return None, None, None
    return tuple(part * run / sum(ticks) for part in ticks)


def _blocked(rows: pd.DataFrame) -> tuple[float | None, float | None, str | None]:
    """Each sample stands for the time halfway to its neighbours; R is running or waiting for a CPU, and all else is blocked."""
    known = rows[rows["state"].notna()]
    count = len(known)
    if count < _SAMPLES:
        return None, None, None
    times = known["time_s"].to_numpy(float)
    steps = times[1:] - times[:-1]
    asleep = known["state"].ne("R").to_numpy(bool)
    blocked = float((steps * (asleep[1:].astype(float) + asleep[:-1])).sum() / 2)
    seconds = float(times[-1] - times[0])
    share = blocked / seconds
    error = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)  # E. B. Wilson, 1927
    return blocked, error * seconds, f"state in {count} samples"


def _mostly_on(rows: pd.DataFrame) -> int | None:
    ran = rows["run_s"].astype("Float64").diff().groupby(rows["cpu"]).sum()
    return int(ran.idxmax()) if len(ran) else None


# ---- what KVM counted


def _counted(samples: pd.DataFrame, groups: list[tuple[tuple, pd.DataFrame]]) -> dict[tuple, dict[str, float]]:
    """KVM's counters a second, by vCPU thread. They are those of the last guest of a name, which still ran at the end."""
    last = {key[:2]: key for key, _ in sorted(groups, key=lambda group: group[1]["time_s"].iloc[-1])}
    return {
        last[guest, vcpu]: {name: value / seconds for name, value in risen.items()}
        for guest, vcpu, seconds, risen in samples.attrs.get("kvm", ())
        if (guest, vcpu) in last and seconds > 0
    }


@documents("exits")
def exits(samples: pd.DataFrame) -> pd.DataFrame:
    """How often each vCPU left guest mode, by reason: one row a vCPU and reason, the reason "all" for all of them.

    Reasons are KVM's words, and differ between processors. An exit may be counted under two of them, such as a signal that came
    by an interrupt; "other" is what the reasons leave of all. To read the counters takes one "signal" itself. A vCPU of which
    KVM counts nothing has no rows, and ``attrs["unavailable"]`` says why.

    Parameters
    ----------
    samples : DataFrame
        From ``lab.sample`` or a ``Sampler`` that has ended.

    """
    groups = [(key, rows) for key, rows in samples.groupby(VCPU, dropna=False)]
    rows = []
    for (guest, vcpu, _), counted in sorted(_counted(samples, groups).items()):
        reasons = [(guest, vcpu, name.removesuffix("_exits"), rate) for name, rate in counted.items() if "exit" in name and name != "exits"]
        rows += sorted(reasons, key=lambda row: (-row[3], row[2]))
        if "exits" in counted:
            rows.append((guest, vcpu, "other", max(0.0, counted["exits"] - sum(row[3] for row in reasons))))
            rows.append((guest, vcpu, "all", counted["exits"]))
    result = frame(rows, "exits")
    silent = {str(guest) for guest in samples["guest"].dropna()} - {row[0] for row in rows}
    if silent:
        result.attrs["unavailable"] = {"exits_per_s": f"{', '.join(sorted(silent))}: {_NO_STATISTICS}"}
    return result


_NO_STATISTICS = (
    "KVM counts nothing here: TCG has no exits, and KVM's statistics take Linux 5.14, QEMU 7.1, libvirt 8.9, "
    "a Lab that samples, and a guest that runs to the end"
)


def _reasons(of_samples: dict[str, str]) -> dict[str, str]:
    """Why each column may hold NA; what the samples themselves say of a source goes first."""
    exact = {name: of_samples.get(name, "a reading of it is missing, or it fell") for name in ("run_s", "run_delay_s")}
    few = f"it ran too short: under {_TICKS / TICKS_PER_S:g} s, which is {_TICKS} ticks"
    never = f"it takes {_SAMPLES} samples or more to tell how long it was blocked"
    reasons = exact | dict.fromkeys(("user_s", "kernel_s", "guest_s"), of_samples.get("run_s", few))
    reasons |= dict.fromkeys(("blocked_s", "blocked_source", "blocked_error_s"), never)
    reasons |= dict.fromkeys(("residual_s", "residual_pct"), of_samples.get("run_s", never))
    reasons |= dict.fromkeys(("halt_s", "exits_per_s"), _NO_STATISTICS)
    return reasons | {"accel": "these samples do not say it", "cpu": "the samples do not say where it ran"}
