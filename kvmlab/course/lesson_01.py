"""Exercises of 01_execution_modes: the ledger of a second says what c1 does."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from kvmlab import measure
from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs

MODES = {"user": "user_s", "kernel": "kernel_s", "guest": "guest_s"}


def shares(labs: Labs, guest: str) -> dict[str, float]:
    """Of the time that this guest ran in a second of now, the part in each mode; empty where it ran too little to say."""
    for seconds in (1, 3):
        book = measure.ledger(measure.sample(labs.guest(guest), seconds, hz=20))
        ran = {mode: book[column].sum(min_count=1) for mode, column in MODES.items()}
        total = sum(value for value in ran.values() if pd.notna(value))
        if total or book.run_delay_s.sum() < 0.5:  # or somebody else had the CPU: look longer
            break
    return {mode: value / total for mode, value in ran.items() if pd.notna(value)} if total else {}


def in_words(share: dict[str, float]) -> str:
    if not share:
        return "c1 ran too little in this second to say in which mode"
    return f"Of the time that c1 ran, {', '.join(f'{100 * value:.0f} % were in {mode} mode' for mode, value in share.items())}"


def emulated(labs: Labs) -> Iterator[Finding]:
    """What has to be said where there is no KVM under c1."""
    if labs.guest("c1").accel == "tcg":
        yield Finding(False, "c1 runs on TCG, which is all user mode. This exercise needs KVM, and cannot be done here.")


@exercise(
    "01.1",
    "c1 in user mode for more than half of the time that it runs",
    hints=(
        "User mode is QEMU's own: it needs a work after which QEMU has something to do.",
        "The picture of the seven works has one with more user mode than anything else: c1.work('device').",
    ),
)
def user(labs: Labs, answer: None) -> Iterator[Finding]:
    share = shares(labs, "c1")
    yield Finding(share.get("user", 0) > 0.5, f"{in_words(share)}.")


@exercise(
    "01.2",
    "c1 more in kernel mode than in any other",
    hints=(
        "Kernel mode is where KVM serves an exit: it needs a work with many of them, which QEMU has little to do with.",
        "Try c1.work('cpuid'), 'msr' or 'port-io', and look at each with measure.modes(c1, [...]).",
    ),
)
def kernel(labs: Labs, answer: None) -> Iterator[Finding]:
    yield from (missing := list(emulated(labs)))
    if not missing:
        share = shares(labs, "c1")
        yield Finding(share.get("kernel", 0) > max(share.get("user", 0), share.get("guest", 0)), f"{in_words(share)}.")


@exercise(
    "01.3",
    "The work 'device', with user mode for less than half of the time",
    hints=(
        "device has a parameter: how many KiB QEMU fills in each turn, 1024 by default.",
        "The fewer, the sooner QEMU is done with its part, and the way there and back costs what it did: c1.work('device', parameter=1).",
    ),
)
def small_device(labs: Labs, answer: None) -> Iterator[Finding]:
    yield from (missing := list(emulated(labs)))
    if not missing:
        work = labs.vcpus("c1").work[0]
        yield Finding(work == "device", f"c1 works at '{work}'.")
        share = shares(labs, "c1")
        yield Finding(share.get("user", 1) < 0.5, f"{in_words(share)}.")


@exercise(
    "01.4",
    "c1 waits for more than 60 % of the time",
    hints=(
        "Two that share a CPU wait for half of the time each. How many must share it?",
        "Start a guest c3 with work('spin'), and pin it to the CPU of c1 and c2: lab.plan({('c3', 0): ...}).apply().",
    ),
)
def waits(labs: Labs, answer: None) -> Iterator[Finding]:
    book = measure.ledger(measure.sample(labs.guest("c1"), 1, hz=20)).iloc[0]
    waited = book.run_delay_s / book.seconds
    yield Finding(
        waited > 0.6, f"c1 waited for a host CPU for {100 * waited:.0f} % of a second, and ran for {100 * book.run_s / book.seconds:.0f} %."
    )
