"""What a plan names: keys, CPU lists, and threads found in /proc; the oracle is ps."""

import os
import subprocess
import sys
import threading

import pytest

from kvmlab.errors import PlanError
from kvmlab.guest import targets
from kvmlab.guest.targets import Pin, Thread, legal_cpus, named
from kvmlab.guest.vcpus import ROOT
from kvmlab.host.threads import read_stat


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (("c1", 0), "vCPU 0 of 'c1'"),
        (("c1", "emulator"), "emulator of 'c1'"),
        (("c1", "iothread 1"), "iothread 1 of 'c1'"),
        ("tid 4711", "tid 4711"),
        ("pid 4711", "pid 4711"),
        ("kind kswapd", "kind kswapd"),
    ],
)
def test_a_key_is_read_and_given_back(key, words):
    pin = named(key)
    assert pin.key == key and str(pin) == words


def test_a_number_from_a_frame_is_a_number():
    numpy = pytest.importorskip("numpy")
    assert type(named(("c1", numpy.int64(1))).who) is int
    assert named("tid 0042").who == "tid 42"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("c1", "'c1' names no thread: write"),
        ("tid", "names no thread"),
        ("tid -1", "names no thread"),
        ("tid ٣", "names no thread"),
        ("tid 1 2", "names no thread"),
        ("pid 9999999999", "names no thread"),
        (("c1",), "names no thread"),
        ((1, 2), "names no thread"),
        (None, "names no thread"),
        (("c1", True), "no vCPU True"),
        (("c1", 0.0), r"no vCPU 0\.0"),
        ("kind kwroker", "no such kind.*kworker"),
        ("kind ", "names no thread"),
        ("kind xyzzy", "There are: .*kswapd"),
    ],
)
def test_what_names_no_thread_says_what_would(key, words):
    with pytest.raises(PlanError, match=words):
        named(key)


@pytest.mark.parametrize(
    ("cpus", "words"),
    [
        ("", "empty CPU set.*online CPUs 0-1,3"),
        ("0,^0", "empty CPU set"),
        ("2", "CPU 2 is not among the online CPUs 0-1,3"),
        ("1-4", "CPUs 2,4 are not among"),
        ("3-1", "runs backwards"),
        (None, "'None' is neither"),
        (-1, "'-1' is neither"),
        ((0, 1), "is neither"),
    ],
)
def test_cpus_that_cannot_be(cpus, words):
    with pytest.raises(PlanError, match=f"vCPU 0 of 'c1': .*{words}"):
        legal_cpus(named(("c1", 0)), cpus, (0, 1, 3))


def test_two_lines_that_mean_the_same_thread_are_refused():
    thread = Thread(7, 8, 9)
    groups = {Pin(None, "tid 8", (0,)): targets.Group((thread,)), Pin(None, "pid 7", (1,)): targets.Group((Thread(7, 7, 9), thread))}
    with pytest.raises(PlanError, match="tid 8 and pid 7: both mean thread 8"):
        targets.refuse_overlaps(groups)


def test_the_threads_of_a_process_are_those_of_ps():
    event, pid = threading.Event(), os.getpid()
    threads = [threading.Thread(target=event.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        group = targets.of_nobody(named(f"pid {pid}"), {})
        said = subprocess.run(["ps", "-L", "-o", "lwp=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
        assert [thread.tid for thread in group.threads] == sorted(map(int, said.split())) and group.bound == 0
        other = threads[0].native_id
        assert targets.of_nobody(named(f"tid {other}"), {}).threads == (Thread(pid, other, read_stat(ROOT, pid, other).start_ticks),)
        with pytest.raises(PlanError, match=f"a thread of process {pid}. Write 'tid {other}', or 'pid {pid}'"):
            targets.of_nobody(named(f"pid {other}"), {})
        with pytest.raises(PlanError, match=r"belongs to the guest 'c1'. Pin that by its own names: \('c1', 0\)"):
            targets.of_nobody(named(f"tid {other}"), {pid: "c1"})
    finally:
        event.set()


def test_a_thread_that_ended_is_none():
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: still there, and nothing to be pinned
    with pytest.raises(PlanError, match="there is none that could be moved"):
        targets.of_nobody(named(f"tid {child.pid}"), {})
    child.wait()
    with pytest.raises(PlanError, match="no such thread runs"):
        targets.of_nobody(named(f"tid {child.pid}"), {})


def test_what_the_kernel_has_bound_is_counted_and_refused():
    found = [(pid, read_stat(ROOT, pid, pid)) for pid in ROOT.numbered("proc")]
    bound = [pid for pid, stat in found if stat and stat.comm.startswith("migration/")]
    if not bound:
        pytest.skip("no kernel threads to be seen here")
    if os.geteuid() == 0:  # the kernel's own word for it
        with pytest.raises(OSError, match="Invalid argument"):
            os.sched_setaffinity(bound[0], os.sched_getaffinity(bound[0]))
    with pytest.raises(PlanError, match=f"kind migration: the kernel has bound all {len(bound)} of them"):
        targets.of_nobody(named("kind migration"), {})
    with pytest.raises(PlanError, match="the kernel has bound all 1 of them"):
        targets.of_nobody(named(f"tid {bound[0]}"), {})


def test_a_kind_leaves_guests_of_libvirt_out():
    pid = os.getpid()
    assert pid in {thread.pid for thread in targets.of_nobody(named("kind ordinary"), {}).threads}
    assert pid not in {thread.pid for thread in targets.of_nobody(named("kind ordinary"), {pid: "c1"}).threads}
