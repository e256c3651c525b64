"""Samples made by hand, as the frames of lab.sample."""

import pandas as pd

from kvmlab.columns import FRAMES, frame


def reading(time_s: float | None, **known) -> tuple:
    """One row of vcpus(); what is not given is that of a thread that did nothing, and None is NA."""
    values = {
        "guest": "c1",
        "vcpu": 0,
        "tid": 7,
        "cpu": 0,
        "state": "S",
        "user_s": 0,
        "kernel_s": 0,
        "guest_s": 0,
        "run_s": 0,
        "run_delay_s": 0,
    }
    values |= {"time_s": time_s} | known
    return tuple(values.get(column.name) for column in FRAMES["vcpus"])


def life(seconds: int, hz: int = 10, states: str = "R", **rates: float) -> pd.DataFrame:
    """Samples of one vCPU whose counters rise steadily, `rates` a second; its states are repeated in turn."""
    ticks = range(seconds * hz + 1)
    rows = [reading(100 + n / hz, state=states[n % len(states)], **{name: rate * n / hz for name, rate in rates.items()}) for n in ticks]
    samples = frame(rows, "vcpus")
    samples.attrs["accels"] = {"c1": "kvm"}
    return samples
