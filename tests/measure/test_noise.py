"""The noise floor: a busy neighbour shows where he is, and nothing of the measurement stays."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from kvmlab import KvmlabError, measure
from kvmlab.measure.noise import _row

BUSY = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint('busy', flush=True)\nwhile True: pass"


@pytest.fixture
def neighbour():
    """A process that is busy on the last CPU."""
    cpu = max(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", BUSY, str(cpu)], stdout=subprocess.PIPE) as busy:
        busy.stdout.readline()
        yield cpu
        busy.kill()


def test_there_is_a_row_for_each_cpu_that_this_process_may_use():
    found = measure.noise(0.1)
    assert found.cpu.tolist() == sorted(os.sched_getaffinity(0)) and found.attrs["kind"] == "noise"
    assert found.others.between(0, 1).all() and found.guests.le(found.others).all() and found.waited.between(0, 1.1).all()
    assert (found.turns_per_s > 1e4).all() and (found.longest_s > 0).all() and (found.interval >= 0).all()
    assert found.seconds.between(0.1, 5).all()


def test_a_busy_neighbour_is_seen_on_his_cpu(neighbour):
    found = measure.noise(0.5).set_index("cpu").loc[neighbour]
    assert found.others > 0.2 and found.waited > 0.2
    assert found.longest_s > 1e-3  # he had the CPU for one slice at least


def test_it_leaves_the_affinity_and_no_process():
    before, children = os.sched_getaffinity(0), set(psutil.Process().children())
    measure.noise(0.1)
    assert os.sched_getaffinity(0) == before and set(psutil.Process().children()) == children


@pytest.mark.parametrize("seconds", [0, 61, float("nan"), "long"])
def test_other_times_are_refused(seconds):
    with pytest.raises(KvmlabError, match=r"write 0\.1 to 60 seconds"):
        measure.noise(seconds)


def test_where_threads_cannot_be_pinned_it_says_so(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    with pytest.raises(KvmlabError, match="takes Linux"):
        measure.noise(0.1)


def test_what_is_not_known_is_missing_and_says_why(monkeypatch):
    """A kernel without schedstat, and a CPU that went offline: neither can be provoked here."""
    silent = {"turns": [90, 110], "seconds": 1.0, "longest": 0.01, "before": [None, [0] * 10], "after": [None, [50] * 10]}
    cpu, seconds, others, guests, waited, longest, turns, interval = _row(3, json.dumps(silent).encode())
    assert (cpu, seconds, others, guests, waited, longest) == (3, 1.0, None, None, None, 0.01)
    assert turns == 200 and interval == pytest.approx(0.2)
    assert _row(3, b"") == (3, *[None] * 7)
    monkeypatch.setattr(measure.noise.__globals__["_LOOP"].__class__, "__str__", lambda _: "/nonexistent.py")
    gone = measure.noise(0.1)
    assert gone.others.isna().all() and "offline" in gone.attrs["unavailable"]["others"]
