"""The ledger: what it says of time adds up, and it never makes up what it does not know."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab import measure
from kvmlab.columns import frame
from tests.measure.made import life, reading


def only(samples: pd.DataFrame) -> pd.Series:
    book = measure.ledger(samples)
    assert len(book) == 1
    return book.iloc[0]


def test_modes_are_scaled_to_what_the_thread_really_ran():
    row = only(life(3, states="R", run_s=0.9, run_delay_s=0.1, user_s=0.1, kernel_s=0.3, guest_s=0.4))
    assert row["run_s"] == pytest.approx(2.7)
    assert (row["user_s"], row["kernel_s"], row["guest_s"]) == pytest.approx((2.7 / 8, 2.7 * 3 / 8, 2.7 / 2))
    assert row["accel"] == "kvm" and row["cpu"] == 0


def test_user_time_that_fell_behind_guest_time_is_none():
    samples = life(3, run_s=1, guest_s=1)
    samples["user_s"] = 0.02 - samples["guest_s"] / 150  # guest time is a part of it, and is counted apart
    row = only(samples)
    assert (row["user_s"], row["guest_s"]) == pytest.approx((0, 3))


@pytest.mark.parametrize("states, share", [("R", 0), ("S", 1), ("D", 1), ("SR", 0.5), ("SSSR", 0.75), ("T", 1)])
def test_blocked_is_told_from_states_and_not_from_the_rest_of_the_sum(states, share):
    row = only(life(4, states=states, run_s=0.25, run_delay_s=0.05))
    assert row["blocked_s"] == pytest.approx(4 * share, abs=0.06)
    assert row["residual_s"] == pytest.approx(4 - 1.2 - row["blocked_s"])  # whatever it is: it is not hidden
    assert row["blocked_source"] == "state in 41 samples"
    assert 0 < row["blocked_error_s"] < 0.7


def test_missed_ticks_do_not_shift_how_long_it_was_blocked():
    samples = life(4, states="S")
    samples.loc[:20, "state"] = "R"
    thinned = samples.drop(index=range(1, 11))
    assert only(thinned)["blocked_s"] == pytest.approx(only(samples)["blocked_s"])


def test_too_few_ticks_and_too_few_samples_are_na_with_a_reason():
    book = measure.ledger(life(3, hz=2, run_s=0.03, kernel_s=0.03, states="S"))
    assert book[["user_s", "kernel_s", "guest_s", "blocked_s", "blocked_source", "residual_s", "exits_per_s"]].isna().all(axis=None)
    assert book["run_s"][0] == pytest.approx(0.09)
    reasons = book.attrs["unavailable"]
    assert "10 ticks" in reasons["kernel_s"] and "10 samples" in reasons["residual_s"] and "TCG has no exits" in reasons["exits_per_s"]
    assert set(reasons) == set(book.columns[book.isna().any()])


def test_a_kernel_without_schedstat_has_no_residual_and_the_ledger_says_why():
    samples = life(3, run_s=1, user_s=1)
    samples[["run_s", "run_delay_s"]] = pd.NA
    samples.attrs["unavailable"] = {"run_s": "no CONFIG_SCHED_INFO", "run_delay_s": "no CONFIG_SCHED_INFO"}
    book = measure.ledger(samples)
    assert book[["run_s", "user_s", "run_delay_s", "residual_s", "residual_pct"]].isna().all(axis=None)
    assert book.attrs["unavailable"]["residual_s"] == book.attrs["unavailable"]["run_s"] == "no CONFIG_SCHED_INFO"
    assert book["blocked_s"][0] == 0


def test_a_guest_of_the_same_name_is_another_and_kvms_counters_are_the_last_ones():
    first, second = life(2, run_s=1), life(2, run_s=0.5)
    second["time_s"] += 10
    second["tid"] = 8
    samples = pd.concat([second, first], ignore_index=True)
    samples.attrs["kvm"] = [["c1", 0, 2.0, {"exits": 600, "halt_wait_ns": 10**9, "irq_exits": 500, "io_exits": 0}]]
    book = measure.ledger(samples).set_index("tid")
    assert book["exits_per_s"].isna().tolist() == [True, False]
    assert (book.loc[8, "exits_per_s"], book.loc[8, "halt_s"]) == pytest.approx((300, 1))
    rates = measure.exits(samples).set_index("reason")["exits_per_s"]
    assert rates.to_dict() == {"irq": 250, "io": 0, "other": 50, "all": 300}


def test_guests_of_which_kvm_counts_nothing_have_no_exits_and_that_is_said():
    samples = life(1)
    samples.attrs["kvm"] = [["c2", 0, 2.0, {"exits": 600}]]
    found = measure.exits(samples)
    assert found.empty and found.attrs["unavailable"]["exits_per_s"].startswith("c1: ")


def test_one_reading_or_none_is_an_empty_ledger():
    assert measure.ledger(frame([], "vcpus")).empty and measure.exits(frame([], "vcpus")).empty
    assert measure.ledger(frame([reading(5)], "vcpus")).empty
    assert measure.ledger(frame([reading(5), reading(5)], "vcpus")).empty


def test_two_frames_of_vcpus_tell_all_but_how_long_it_was_blocked():
    ends = life(3, run_s=0.5, kernel_s=0.5).iloc[[0, -1]]
    row = only(ends)
    assert (row["run_s"], row["kernel_s"]) == pytest.approx((1.5, 1.5)) and pd.isna(row["blocked_s"])


MAYBE = st.none() | st.floats(0, 1e6)
ROWS = st.lists(
    st.fixed_dictionaries(
        {name: MAYBE for name in ("user_s", "kernel_s", "guest_s", "run_s", "run_delay_s")}
        | {"state": st.sampled_from(["R", "S", "D", "T", None]), "tid": st.integers(1, 2), "cpu": st.none() | st.integers(0, 3)}
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, gaps=st.lists(st.floats(0, 10), min_size=40, max_size=40))
def test_whatever_was_sampled_the_ledger_adds_up(rows, gaps):
    times = pd.Series(gaps).cumsum()
    book = measure.ledger(frame([reading(time, **row) for time, row in zip(times, rows, strict=False)], "vcpus"))
    for row in book.itertuples():
        assert row.seconds > 0
        if pd.notna(row.user_s):
            assert row.user_s + row.kernel_s + row.guest_s == pytest.approx(row.run_s)
            assert min(row.user_s, row.kernel_s, row.guest_s) >= 0
        if pd.notna(row.blocked_s):
            assert -1e-9 <= row.blocked_s <= row.seconds * 1.000001
        if pd.notna(row.residual_s):
            assert row.run_s + row.run_delay_s + row.blocked_s + row.residual_s == pytest.approx(row.seconds)
    assert set(book.attrs["unavailable"]) == set(book.columns[book.isna().any()])
