import os
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.columns import FRAMES, frame
from kvmlab.host import cputime
from kvmlab.host.sysroot import SysRoot

RAW = ("user_s", "nice_s", "kernel_s", "idle_s", "irq_s", "softirq_s", "steal_s", "guest_s", "guest_nice_s")  # iowait may fall
PSUTIL = {"kernel_s": "system"}


class Text(SysRoot):
    """A recorded machine that has nothing but a /proc/stat."""

    live = False

    def __init__(self, data: bytes | None):
        self.data = data

    def read_bytes(self, path):
        return self.data if path == "proc/stat" else None


def times(data: bytes | None):
    return frame(cputime.rows(Text(data)), "cpu_times")


def test_times_are_those_of_psutil():
    """psutil leaves guest time inside user time."""
    before, ours, after = psutil.cpu_times(percpu=True), frame(cputime.rows(SysRoot()), "cpu_times"), psutil.cpu_times(percpu=True)
    assert len(before) == len(ours) > 0
    for low, row, high in zip(before, ours.itertuples(), after, strict=True):
        found = {name: getattr(row, name) for name in RAW}
        found["user_s"] += row.guest_s
        found["nice_s"] += row.guest_nice_s
        for name, value in found.items():
            theirs = PSUTIL.get(name, name.removesuffix("_s"))
            assert getattr(low, theirs) - 0.011 <= value <= getattr(high, theirs) + 0.011, name


def test_a_busy_cpus_user_time_grows_by_as_much_as_the_clock_says():
    cpu = min(os.sched_getaffinity(0))
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        before, own = frame(cputime.rows(SysRoot()), "cpu_times").set_index("cpu"), time.process_time()
        while time.process_time() - own < 0.3:
            pass
        after = frame(cputime.rows(SysRoot()), "cpu_times").set_index("cpu")
    finally:
        os.sched_setaffinity(0, whole)
    grown = after.loc[cpu] - before.loc[cpu]
    assert grown["user_s"] + grown["kernel_s"] + grown["nice_s"] >= 0.25
    assert grown["time_s"] >= 0.3


def test_guest_time_is_taken_out_of_user_time_and_never_more_than_there_is():
    row = times(b"cpu  1 1 1 1\ncpu3 500 70 30 4000 50 6 7 8 200 90\nintr 1\n").iloc[0]
    assert row["cpu"] == 3 and row["user_s"] == 3.0 and row["nice_s"] == 0.0
    assert (row["kernel_s"], row["idle_s"], row["iowait_s"], row["irq_s"], row["softirq_s"]) == (0.3, 40.0, 0.5, 0.06, 0.07)
    assert (row["steal_s"], row["guest_s"], row["guest_nice_s"]) == (0.08, 2.0, 0.9)


@pytest.mark.parametrize("fields", range(11))
def test_an_old_kernels_fewer_fields_are_missing_and_not_0(fields):
    row = times(b"cpu0 " + b" ".join([b"100"] * fields) + b"\n").iloc[0]
    names = [column.name for column in FRAMES["cpu_times"]][2:]
    assert row[names].notna().tolist() == [n < fields for n in range(10)]
    assert fields == 0 or row["user_s"] == (1.0 if fields < 9 else 0.0)


def test_a_recording_tells_no_time_and_a_machine_without_the_file_has_no_rows():
    assert times(b"cpu0 1 2 3 4 5 6 7 8 9 10\n")["time_s"].isna().all()
    assert len(times(None)) == 0


def test_garbage_is_missing_and_what_hangs_on_it_too():
    row = times(b"cpu0 5 x -3 1e9 " + b"9" * 40 + b" \xff 1 2 y 4").iloc[0]
    assert row["steal_s"] == 0.02 and row["guest_nice_s"] == 0.04
    assert row[["user_s", "nice_s", "kernel_s", "idle_s", "iowait_s", "irq_s", "guest_s"]].isna().all()


@given(st.binary() | st.lists(st.binary(max_size=12) | st.just(b"cpu1") | st.just(b"\n"), max_size=30).map(b" ".join))
def test_any_bytes_make_a_frame(data):
    found = times(data)
    assert (found["user_s"].dropna() >= 0).all()
    assert len(found) <= data.count(b"cpu")
