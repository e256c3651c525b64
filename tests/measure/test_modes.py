"""Modes of workloads: medians of runs, and how well they are known."""

import pandas as pd
import pytest

from kvmlab import KvmlabError, measure
from kvmlab.measure.modes import COLUMNS, summary

KEY = ("c1", "kvm", "spin")


def runs(*shares: dict) -> pd.DataFrame:
    blank = dict.fromkeys(COLUMNS, 0.0)
    return pd.DataFrame(
        [dict(zip(("name", "accel", "workload"), KEY, strict=True)) | {"turns": 5.0, "running": 0.02} | blank | s for s in shares]
    )


def test_shares_are_medians_with_an_interval_that_holds_them():
    modes = summary(runs({"guest": 0.9, "waiting": 0.1}, {"guest": 0.7, "waiting": 0.3}, {"guest": 0.8, "waiting": 0.2}), [KEY])
    row = modes.set_index("mode").loc["guest"]
    assert (row["share"], row["repeats"], row["turns_per_s"]) == (0.8, 3, 5)
    assert 0.7 <= row["low"] <= 0.8 <= row["high"] <= 0.9 and row["low"] < row["high"]
    assert modes["mode"].tolist() == ["guest", "user", "kernel", "waiting", "blocked"]
    assert modes.attrs["unavailable"] == {}


def test_the_interval_narrows_with_the_number_of_runs():
    def width(count: int) -> float:
        row = summary(runs(*({"user": 0.5 + (n * 7 % count) / count / 2} for n in range(count))), [KEY]).set_index("mode").loc["user"]
        return row["high"] - row["low"]

    assert width(50) < 0.7 * width(5)


def test_a_guest_that_ran_too_little_has_its_whole_run_time_in_one_mode():
    idle = dict.fromkeys(("guest", "user", "kernel")) | {"blocked": 0.98}
    modes = summary(runs(idle, idle, idle), [KEY])
    assert modes.set_index("mode").loc["running", "share"] == 0.02
    assert modes.set_index("mode").loc[["guest", "user", "kernel"], "share"].isna().all()
    assert "running" in modes.attrs["unavailable"]["share"]
    mostly_known = summary(runs(idle, {"guest": 0.5}, {"guest": 0.6}), [KEY]).set_index("mode")
    assert mostly_known.loc["guest", "share"] == pytest.approx(0.55) and mostly_known.loc["guest", "repeats"] == 2
    assert "running" not in mostly_known.index


def test_one_run_has_no_interval():
    modes = summary(runs({"guest": 1.0}), [KEY])
    assert modes[["low", "high"]].isna().all(axis=None) and "two runs" in modes.attrs["unavailable"]["low"]


@pytest.mark.parametrize("wrong", [{"guests": []}, {"guests": [], "workloads": []}, {"guests": [], "repeats": 0}])
def test_nothing_to_measure_is_an_error(wrong):
    with pytest.raises(KvmlabError, match="one of each"):
        measure.modes(**wrong)
