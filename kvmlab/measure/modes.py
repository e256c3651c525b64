"""Modes: a guest does one kind of work after another, and its vCPUs' time is split by the mode they spent it in."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from statistics import median
from typing import TYPE_CHECKING

import pandas as pd

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.guest.guest import Guest
from kvmlab.guest.watch import own_guests
from kvmlab.measure.ledger import ledger
from kvmlab.measure.progress import Progress
from kvmlab.measure.rates import rates
from kvmlab.measure.sampler import sample

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

_HZ = 100  # as often as can be: how long a vCPU was blocked is an estimate from these samples
_SETTLE_S = 0.1
_DRAWS = 1000
COLUMNS = {"guest": "guest_s", "user": "user_s", "kernel": "kernel_s", "waiting": "run_delay_s", "blocked": "blocked_s"}
SPLIT = ("guest", "user", "kernel")  # of what it ran


@documents("modes")
def modes(
    guests: GuestLab | Guest | Iterable[GuestLab | Guest],
    workloads: Sequence[str] = ("idle", "spin"),
    seconds: float = 1,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """What share of the wall clock a guest's vCPUs spend in each mode, by workload: one row a guest, workload and mode.

    One guest works at a time, the others are idle. The runs come in random order, so that what drifts on this machine falls upon
    all of them alike. At the end, also after an error, all are idle.

    Parameters
    ----------
    guests : Lab, Guest, or several
        A Lab stands for all guests that it started. To see KVM beside TCG, pass guests of two Labs.
    workloads : sequence of str
        What ``guest.work`` takes.
    seconds : float
        Length of one run.
    repeats : int
        Runs of each guest and workload.
    seed : int
        Of the order and of the bootstrap: the same seed gives the same order.

    Raises
    ------
    KvmlabError
        For nothing to measure, and for a workload that a guest does not know: before anything is measured.

    """
    chosen = _guests(guests)
    if not chosen or not workloads or repeats < 1:
        raise KvmlabError(f"{len(chosen)} guests, {len(workloads)} workloads, {repeats} repeats: it takes one of each at least.")
    runs = [(guest, work) for guest in chosen for work in workloads] * repeats
    random.Random(seed).shuffle(runs)
    try:
        for guest, work in dict.fromkeys(runs):  # each once, before: an unknown one is an error now, and what is new is warm later
            guest.work(work)
            guest.work("idle")
        with Progress(len(runs) * seconds) as bar:
            found = [
                _run(guest, work, seconds, lambda n=n: bar.tell(n / len(runs), f"run {n + 1} of {len(runs)}"))
                for n, (guest, work) in enumerate(runs)
            ]
    finally:
        for guest in chosen:
            with suppress(KvmlabError):
                guest.work("idle")
    return summary(pd.DataFrame(found), [(guest.name, guest.accel, work) for guest in chosen for work in workloads], seed)


def _guests(given: GuestLab | Guest | Iterable[GuestLab | Guest]) -> list[Guest]:
    several = given if isinstance(given, Iterable) else [given]
    return [guest for one in several for guest in ([one] if isinstance(one, Guest) else own_guests(one))]


def _run(guest: Guest, work: str, seconds: float, begin) -> dict:
    """One run: the share of each mode in all of the guest's vCPUs' time, None where one of them does not know."""
    begin()
    guest.work(work)
    time.sleep(_SETTLE_S)
    samples = sample(guest, seconds, _HZ, progress=False)
    guest.work("idle")
    book = ledger(samples)
    if samples.attrs["stopped"]:
        raise KeyboardInterrupt
    guest.check()
    total = book["seconds"].sum()
    share = {mode: book[column].sum(skipna=False) / total for mode, column in COLUMNS.items()}
    turns = rates(samples)["turns_per_s"].sum(skipna=False)
    return {
        "name": guest.name,
        "accel": guest.accel,
        "workload": work,
        "turns": turns,
        "running": book["run_s"].sum(skipna=False) / total,
    } | share


def summary(runs: pd.DataFrame, order: Iterable[tuple[str, str, str]], seed: int = 0) -> pd.DataFrame:
    """Runs (name, accel, workload, turns, and a share a mode) into a frame of modes: medians, and how well they are known."""
    rows, draw = [], random.Random(seed)
    by_work = dict(list(runs.groupby(["name", "accel", "workload"])))
    for key in dict.fromkeys(order):
        those = by_work[key]
        known = those[list(SPLIT)].notna().all(axis=1)
        split = 2 * known.sum() > len(known)
        turns = _median(those["turns"])
        for mode in (*COLUMNS, *(() if split else ("running",))):
            shares = those[mode] if mode not in SPLIT else those[mode][known] if split else those[mode][:0]
            rows.append((*key, mode, _median(shares), *_interval(shares, draw), int(shares.notna().sum()), turns))
    result = frame(rows, "modes")
    reasons = {"share": "it ran too little to tell modes apart: see its row 'running'", "turns_per_s": "not all of its vCPUs had turns"}
    reasons |= dict.fromkeys(("low", "high"), "it takes two runs that gave a share")
    result.attrs["unavailable"] = {column: why for column, why in reasons.items() if result[column].isna().any()}
    return result


def _known(values: pd.Series) -> list[float]:
    return [float(value) for value in values if not pd.isna(value)]


def _median(values: pd.Series) -> float | None:
    return median(_known(values)) if _known(values) else None


def _interval(values: pd.Series, draw: random.Random) -> tuple[float | None, float | None]:
    """The median's 95 % interval by the percentile bootstrap (Efron, 1979); with so few runs it is little more than their range."""
    known = _known(values)
    if len(known) < 2:
        return None, None
    medians = sorted(median(draw.choices(known, k=len(known))) for _ in range(_DRAWS))
    return medians[int(0.025 * _DRAWS)], medians[int(0.975 * _DRAWS) - 1]
