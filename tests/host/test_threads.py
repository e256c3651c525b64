import ctypes
import os
import subprocess
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host
from kvmlab.guest.microguest.page import wait_until
from kvmlab.host.sysroot import SysRoot
from kvmlab.host.threads import parse_stat, read_stat


def named_thread(name: bytes):
    """A thread called `name` that sleeps until it is told to end: (its tid, how to end it)."""
    ready, end, tid = threading.Event(), threading.Event(), []

    def run():
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)  # PR_SET_NAME
        tid.append(threading.get_native_id())
        ready.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()

    def stop():
        end.set()
        thread.join()

    return tid[0], stop


def test_threads_are_those_of_ps():
    def ours():
        return {(r.tid, r.pid, r.ppid, r.ruser) for r in Host().threads().itertuples()}

    before = ours()
    text = subprocess.run(["ps", "-eLo", "lwp=,pid=,ppid=,ruser:40="], capture_output=True, text=True, check=True).stdout
    after = ours()
    ps = {(int(a), int(b), int(c), user) for a, b, c, user in (line.split() for line in text.splitlines())}
    assert before & after <= ps  # what was there before and after, ps must have seen
    assert len(ps - (before | after)) <= 2  # itself, and what came and went meanwhile
    assert len(before & after) > 10


def test_kernel_threads_and_processes_look_as_in_ps():
    rows = Host().threads().set_index("tid")
    assert (rows.loc[2, "comm"], rows.loc[2, "args"], rows.loc[2, "kind"], rows.loc[2, "ppid"]) == ("kthreadd", "[kthreadd]", "kernel", 0)
    mine = rows.loc[os.getpid()]
    assert mine["kind"] == "ordinary" and "pytest" in mine["args"] and mine["state"] == "R"


@pytest.mark.parametrize("name", [b"a b", b"(x) R 1 2 (", b"new\nline", b"\xff\xfe", b")", b"15 bytes long.."])
def test_a_thread_may_have_any_name(name):
    tid, stop = named_thread(name)
    try:
        row = Host().threads().set_index("tid").loc[tid]
    finally:
        stop()
    assert row["comm"] == name.decode("utf-8", "backslashreplace")
    assert (row["pid"], row["state"]) == (os.getpid(), "S")


def test_times_agree_with_the_processs_own():
    sum(i * i for i in range(3_000_000))
    times, stat = os.times(), read_stat(SysRoot(), os.getpid(), os.getpid())
    assert 0 < stat.user_s <= times.user + 0.02 and 0 < stat.kernel_s <= times.system + 0.02


@given(st.text(st.characters(codec="latin-1"), max_size=15), st.lists(st.integers(0, 2**40), min_size=49, max_size=49))
def test_stat_is_parsed_whatever_the_name_and_the_numbers(comm, numbers):
    text = f"1 ({comm}) S ".encode("latin-1") + " ".join(map(str, numbers)).encode()
    stat = parse_stat(text)
    assert (stat.state, stat.ppid, stat.cpu) == ("S", numbers[0], numbers[35])
    assert stat.user_s >= 0 and stat.user_s + stat.guest_s >= numbers[10] / os.sysconf("SC_CLK_TCK") - 1e-6


def test_a_thread_that_is_gone_is_none():
    tid, stop = named_thread(b"short-lived")
    stop()
    assert wait_until(lambda: read_stat(SysRoot(), os.getpid(), tid) is None, 2)  # Python joins it a moment before it ends
