"""The clock of the sampler, and the threads it watches: here those of this very process."""

import os
import threading
import time
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host, KvmlabError, measure
from kvmlab.columns import frame
from kvmlab.guest import vcpus
from kvmlab.guest.vcpus import Process
from kvmlab.guest.watch import Watch
from kvmlab.measure import progress, sampler
from kvmlab.measure.progress import Progress


class Clock:
    """A clock that only moves when somebody waits or works."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(sampler, "time", made)
    return made


@given(hz=st.floats(0.5, 100), seconds=st.floats(0.1, 20), work=st.floats(0, 3))
def test_ticks_do_not_drift_and_those_not_seen_are_counted(hz, seconds, work):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "time", clock)
        seen, told, last = [], [], round(seconds * hz)
        for missed in sampler.beats(hz, seconds, clock):
            told.append(missed)
            seen.append(clock.now - 1000)
            clock.now += work / hz
        missed = told[-1]
    assert len(seen) + missed == last + 1
    if work < 0.5:  # two ticks may be half a period apart
        assert missed == 0
        assert all(abs(at - n / hz) <= 0.25 / hz + 1e-6 for n, at in enumerate(seen))
        assert seen[0] == 0 and seen[-1] == pytest.approx(last / hz)
    assert missed == 0 or work > 1


def test_ticks_keep_step_with_no_timer_of_the_guest(clock):
    phases = [(clock.now - 1000) % 0.01 for _ in sampler.beats(10, 60, clock)]  # of a timer of 100 Hz
    counts = [sum(part / 500 <= phase < (part + 1) / 500 for phase in phases) for part in range(5)]
    assert min(counts) > 60  # of 601 ticks, 120 in each fifth of its period


def test_a_clock_can_be_stopped():
    stop = threading.Event()
    ticks = sampler.beats(10, float("inf"), stop)
    next(ticks)
    stop.set()
    assert list(ticks) == []


def test_ticks_of_a_busy_machine_are_counted_as_missed(clock):
    def slow() -> object:
        clock.now += 0.35
        return frame([], "cpu_times")

    clock_of_follow = types.SimpleNamespace(Event=lambda: clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "threading", clock_of_follow)
        result = measure.follow(slow, seconds=10, hz=10)
    assert 60 <= result.attrs["missed"] <= 80
    with pytest.raises(KvmlabError, match="samples a second"):
        measure.follow(Host().cpu_times, hz=1000)


@pytest.fixture
def sleeper():
    """A thread of this process that sleeps until it is told to end."""
    end, started = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (started.set(), end.wait()))
    thread.start()
    started.wait()
    while vcpus.read_row(process_of(thread), 0, thread.native_id)[6] != "S":  # on a busy machine that takes a while
        time.sleep(0.001)
    yield thread, end
    end.set()
    thread.join()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def process_of(*threads: threading.Thread) -> Process:
    return Process("me", "uuid", os.getpid(), 0, vcpus={n: thread.native_id for n, thread in enumerate(threads)}, accel="kvm")


@pytest.mark.parametrize("room", [0, 100])
def test_watched_threads_are_read_and_forgotten_when_they_end(sleeper, room):
    thread, end = sleeper
    before = open_files()
    watch = Watch(lambda: [process_of(thread)])
    watch._room = room  # with none, files are opened each time
    assert watch.look() and not watch.look()
    assert open_files() == before + (3 if room else 0)
    (row,) = watch.rows()
    opened = vcpus.read_row(process_of(thread), 0, thread.native_id)
    assert row[1:] == opened[1:] and row[6] == "S" and watch.accels == {"me": "kvm"}
    end.set()
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        time.sleep(0.001)
    assert watch.rows() == [] and open_files() == before


def test_a_thread_that_is_not_given_any_more_is_let_go_though_it_lives(sleeper):
    before, given = open_files(), [process_of(sleeper[0])]
    watch = Watch(lambda: given)
    assert watch.look() and watch.rows()
    given.clear()
    assert not watch.look() and watch.rows() == [] and open_files() == before


def test_a_watch_leaves_half_of_the_files_we_may_open_to_others():
    import resource

    assert Watch(list)._room * 3 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] / 2


def test_a_closed_control_page_is_no_error(sleeper):
    def closed(*_args):
        raise ValueError("mmap closed or invalid")

    process = process_of(sleeper[0])
    process.page = types.SimpleNamespace(work=closed, turns=closed)
    assert vcpus.rows(process)[0][-2:] == (None, None)


def test_progress_is_shown_where_somebody_looks_and_gone_afterwards(monkeypatch):
    shown = []
    monkeypatch.setattr(progress, "_writer", lambda: shown.append)
    with Progress(1) as bar:
        bar.tell(0.5, "half")
    assert shown == []
    with Progress(3) as bar:
        bar.tell(0.5, "half")
        bar.tell(0.6, "too soon")
    assert shown == ["[###############...............] half", ""]


def test_progress_says_nothing_into_a_file(capsys):
    with Progress(60) as bar:
        bar.tell(0.5, "half")
    assert capsys.readouterr() == ("", "")
