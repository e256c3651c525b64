"""Placements made by hand, as the frames of measure.placement: with a little noise between the repeats."""

from collections.abc import Mapping

import pandas as pd

from kvmlab.columns import FRAMES, frame

NAMES = [column.name for column in FRAMES["placement"]]
FULL = 300e3  # turns a second of a vCPU alone


def under(plan: str, shares: Mapping[str, float], repeats: int = 3, **known: object) -> list[dict]:
    """Rows of one plan: "c1 0" to what it ran. The repeats are 1 % below, at and 1 % above; a list in `known` has a value a vCPU."""
    rows = []
    for repeat in range(repeats):
        off = 1 + 0.01 * (repeat - repeats // 2)
        for number, (name, share) in enumerate(shares.items()):
            guest, vcpu = name.split()
            row = {"plan": plan, "repeat": repeat, "guest": guest, "vcpu": int(vcpu), "work": "spin", "cpus": "0-1", "seconds": 1.0}
            row |= {"share": share, "waited": (1 - share) * off, "migrations_per_s": 0.0, "turns_per_s": share * off * FULL}
            row |= {"p99_s": 2e-5, "longest_s": 0.008 * off, "others": 0.0}
            rows.append(row | {key: value[number] if isinstance(value, list) else value for key, value in known.items()})
    return rows


def placed(*plans: list[dict], **attrs: object) -> pd.DataFrame:
    """Measured in another order than they were given."""
    found = frame([tuple(row[name] for name in NAMES) for rows in reversed(plans) for row in rows], "placement")
    found.attrs |= {"accel": "kvm", "plans": [rows[0]["plan"] for rows in plans]} | attrs
    return found


FOUR = ("c1 0", "c1 1", "c2 0", "c2 1")


def four(**attrs: object) -> pd.DataFrame:
    """Two guests of two vCPUs: floating, stacked, and one of them alone on its CPU."""
    dedicated = dict.fromkeys(FOUR, 1 / 3) | {"c1 0": 1.0}
    alone = under("dedicated", dedicated, longest_s=[0.0005, 0.012, 0.012, 0.012])
    return placed(
        under("float", dict.fromkeys(FOUR, 0.5), migrations_per_s=2.5), under("stacked", dict.fromkeys(FOUR, 0.25)), alone, **attrs
    )
