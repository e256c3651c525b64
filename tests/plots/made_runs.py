"""Over-commit runs made by hand, as the frames of measure: shares as asked for, with a little noise between the repeats."""

from collections.abc import Sequence

import pandas as pd

from kvmlab.columns import FRAMES, frame

NAMES = [column.name for column in FRAMES["overcommit"]]
FULL = 300e3  # turns a second of a guest alone


def run(guests: int, shares: Sequence[float] | None = None, work: str = "spin", repeats: int = 3, **known: object) -> list[dict]:
    """Rows of one number of guests; a list among `known` has a value a guest. The repeats are 1 % below, at and 1 % above."""
    rows = []
    for repeat in range(repeats):
        for number in range(guests):
            share = shares[number] if shares else 1 / guests
            off = 1 + 0.01 * (repeat - repeats // 2)
            waited = 1 - share if work == "spin" else 0.0
            turns = FULL if work == "spin" else 0.0
            row = {"guests": guests, "repeat": repeat, "guest": f"oc-{number + 1}", "vcpu": 0, "work": work, "cpus": "1", "seconds": 1.0}
            row |= {"share": share * off, "predicted": share, "waited": waited * off, "predicted_waited": waited, "felt": waited * 0.97}
            row |= {"switches_per_s": 60 / guests, "turns_per_s": share * off * turns, "predicted_turns_per_s": share * turns}
            rows.append(row | {name: value[number] if isinstance(value, list) else value for name, value in known.items()})
    return rows


def overcommitted(*runs: list[dict], **attrs: object) -> pd.DataFrame:
    found = frame([tuple(row.get(name) for name in NAMES) for rows in runs for row in rows], "overcommit")
    found.attrs |= {"accel": "kvm"} | attrs
    return found


def weighted() -> pd.DataFrame:
    return overcommitted(run(4, [1 / 15, 2 / 15, 4 / 15, 8 / 15], weight=[512, 1024, 2048, 4096]))


def locked(passes: dict[tuple[int, str], float | None], **attrs: object) -> pd.DataFrame:
    """(vCPUs, CPUs) to passes a second, in three repeats 10 % below, at and above."""
    rows = [(v, c, r, 1.0, n and n * (0.9 + 0.1 * r), 0.99, 0.5 * (v > 1)) for (v, c), n in passes.items() for r in range(3)]
    found = frame(rows, "lock_collapse")
    found.attrs |= {"accel": "tcg"} | attrs
    return found


def tail(counts: dict[int, int], guest: str = "c1", vcpu: int = 0) -> pd.DataFrame:
    """Buckets that double from 1 µs on: bucket to how many turns; the last of the 24 has all longer ones."""
    bounds = [0.0, *(1e-6 * 2**number for number in range(1, 24))]
    ends = [*bounds[1:], None]
    return frame([(guest, vcpu, bounds[n], ends[n], counts.get(n, 0)) for n in range(24)], "tails")
