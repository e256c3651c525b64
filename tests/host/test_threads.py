import ctypes
import gc
import os
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host
from kvmlab.columns import frame
from kvmlab.guest.microguest.page import wait_until
from kvmlab.host import cpulist, threads
from kvmlab.host.sysroot import SysRoot
from kvmlab.host.threads import parse_stat, read_stat


def sleeping_thread(first=lambda: None):
    """A thread that does `first` and sleeps until it is told to end: (its tid, how to end it)."""
    ready, end, found = threading.Event(), threading.Event(), {}

    def run():
        found["tid"] = threading.get_native_id()
        try:
            first()
        except Exception as error:
            found["error"] = error
        ready.set()
        end.wait()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()

    def stop():
        end.set()
        thread.join()

    if "error" in found:
        stop()
        raise found["error"]
    assert wait_until(lambda: read_stat(SysRoot(), os.getpid(), found["tid"]).state == "S", 5)
    return found["tid"], stop


def named_thread(name: bytes):
    return sleeping_thread(lambda: ctypes.CDLL(None).prctl(15, name, 0, 0, 0))  # PR_SET_NAME


@contextmanager
def thread_row(first, **options):
    """The row of a thread that did `first`, while it sleeps."""
    tid, stop = sleeping_thread(first)
    try:
        yield tid, Host().threads(**options).set_index("tid").loc[tid]
    finally:
        stop()


def said(*command) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


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
    assert (rows.loc[2, "comm"], rows.loc[2, "args"], rows.loc[2, "kind"], rows.loc[2, "ppid"]) == ("kthreadd", "[kthreadd]", "kthreadd", 0)
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
    stat = parse_stat(f"1 ({comm}) S ".encode("latin-1") + " ".join(map(str, numbers)).encode())
    assert (stat.state, stat.ppid, stat.cpu) == ("S", numbers[0], numbers[35])
    assert stat.user_s >= 0 and stat.user_s + stat.guest_s >= numbers[10] / os.sysconf("SC_CLK_TCK") - 1e-6


def test_a_thread_that_is_gone_is_none():
    tid, stop = named_thread(b"short-lived")
    stop()
    assert wait_until(lambda: read_stat(SysRoot(), os.getpid(), tid) is None, 2)  # Python joins it a moment before it ends


def ps_says(tid: int) -> tuple:
    """Class, real-time priority and nice value of one of our threads."""
    lines = said("ps", "-L", "-o", "lwp=,cls=,rtprio=,ni=", "-p", os.getpid()).splitlines()
    return next(tuple(words[1:]) for words in map(str.split, lines) if int(words[0]) == tid)


def value_of(text: str):
    return None if text == "-" else int(text)


@pytest.mark.parametrize("nice", [0, 1, 7, 19])
def test_the_nice_value_is_that_of_the_thread(nice):
    with thread_row(lambda: os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)) as (tid, row):
        assert ps_says(tid)[2] == str(row["nice"]) == str(nice)
        assert (row["policy"], row["priority"]) == ("other", 0)


@pytest.mark.parametrize(
    "policy, number, priority, ps", [("batch", 3, 0, "B"), ("idle", 5, 0, "IDL"), ("fifo", 1, 7, "FF"), ("rr", 2, 99, "RR")]
)
def test_policy_and_priority_are_those_of_chrt_and_ps(policy, number, priority, ps):
    def change():
        os.sched_setscheduler(0, number, os.sched_param(priority))

    try:
        with thread_row(change) as (tid, row):
            name, rtprio, nice = ps_says(tid)
            chrt = said("chrt", "-p", tid)
    except PermissionError:
        pytest.skip("only root may set real-time policies")
    assert (row["policy"], row["priority"]) == (policy, priority)
    assert f"SCHED_{policy.upper()}" in chrt and f"priority: {priority}\n" in chrt
    assert (name, value_of(rtprio) or 0, value_of(nice)) == (ps, row["priority"], row["nice"] if row.notna()["nice"] else None)


def test_deadline_threads_are_called_so():
    command = ["chrt", "-d", "--sched-runtime", "1000000", "--sched-period", "10000000", "0", "sleep", "60"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        try:
            assert wait_until(lambda: child.poll() is not None or sleeps(child.pid), 5)
            if child.returncode is not None:
                pytest.skip("deadline scheduling is not for us: not root, or on some of the CPUs only")
            row = Host().threads().set_index("tid").loc[child.pid]
        finally:
            child.kill()
    assert (row["policy"], row["priority"]) == ("deadline", 0) and row.isna()["nice"]


def sleeps(pid: int) -> bool:
    stat = read_stat(SysRoot(), pid, pid)
    return stat is not None and (stat.comm, stat.state) == ("sleep", "S")  # chrt or Python has become it, and it has started


@pytest.mark.parametrize("which", ["all", "one"])
def test_allowed_cpus_are_those_of_taskset(which):
    cpus = sorted(os.sched_getaffinity(0))
    wanted = cpus if which == "all" else cpus[-1:]
    with thread_row(lambda: os.sched_setaffinity(0, wanted), affinity=True) as (tid, row):
        theirs = said("taskset", "-pc", tid).split()[-1]  # it writes two neighbours as "0,1", the kernel as "0-1"
        assert cpulist.parse(theirs) == cpulist.parse(row["allowed_cpus"]) == tuple(wanted)


def test_allowed_cpus_are_read_only_when_asked_for():
    assert Host().threads()["allowed_cpus"].isna().all()
    assert Host().threads(affinity=True)["allowed_cpus"].notna().all()


def test_the_table_by_cpu_counts_every_thread_once():
    rows = threads.rows(SysRoot())
    table = frame(threads.per_cpu_rows(rows), "threads_per_cpu")
    expected = frame(rows, "threads").groupby(["cpu", "kind"]).size()
    assert table.set_index(["cpu", "kind"])["threads"].to_dict() == expected.to_dict()
    assert table["running"].sum() == sum(row[5] == "R" for row in rows) > 0
    assert (table["running"] <= table["threads"]).all()


def test_a_process_that_ends_while_it_is_read_is_left_out():
    for moment in ("stat", "status"):
        with subprocess.Popen(["sleep", "60"]) as child:

            class Root(SysRoot):
                def read_bytes(self, path, child=child, moment=moment):
                    if path.startswith(f"proc/{child.pid}/") and path.endswith(f"/{moment}"):
                        child.kill()
                        child.wait()
                    return super().read_bytes(path)

            found = list(threads.rows(Root()))
        assert child.returncode == -9 and child.pid not in {row[1] for row in found} and os.getpid() in {row[1] for row in found}


@pytest.mark.parametrize("wanted", [True, False])
def test_the_garbage_collector_is_left_as_it_was(wanted):
    before = gc.isenabled()
    try:
        (gc.enable if wanted else gc.disable)()
        threads.rows(SysRoot())
        assert gc.isenabled() == wanted
    finally:
        (gc.enable if before else gc.disable)()


# Recorded machines

STAT = b"7 (qemu x) S 1 7 7 0 -1 4194304 9 0 0 0 30 20 0 0 20 5 2 0 99 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 17 3 0 3 0 10 0 0 0 0 0 0 0 0 0\n"


class Files(SysRoot):
    """A recorded machine made of a few files."""

    live = False

    def __init__(self, files: dict[str, bytes]):
        self.files, self.refused = files, set()

    def read_bytes(self, path):
        return self.files.get(path)

    def list(self, path):
        return list({name.removeprefix(f"{path}/").split("/")[0] for name in self.files if name.startswith(f"{path}/")})


def recorded(**files: bytes):
    return frame(threads.rows(Files({f"proc/7/{name.replace('__', '/')}": data for name, data in files.items()}), True), "threads")


def test_a_recorded_process_has_numbers_for_names_and_no_command_line():
    for uid, ruser in ((0, "root"), (1000, "1000")):
        row = recorded(task__7__stat=STAT, status=b"Name:\tx\nUid:\t%d\t1\t2\t3\n" % uid).iloc[0]
        assert row["ruser"] == ruser and row.isna()["args"] and row.isna()["allowed_cpus"]
    assert recorded(task__7__stat=STAT, cmdline=b"")["args"].tolist() == ["[qemu x]"]
    assert recorded(task__7__stat=STAT, cmdline=b"a\0b\xff\0")["args"].tolist() == ["a b\\xff"]


def test_a_recorded_threads_values_are_those_of_its_files():
    row = recorded(task__8__stat=STAT, task__8__status=b"Uid:\t5\nCpus_allowed_list:\t0-2,8\n").iloc[0]
    assert (row["pid"], row["ppid"], row["tid"], row["cpu"], row["state"], row["comm"]) == (7, 1, 8, 3, "S", "qemu x")
    assert (row["user_s"], row["kernel_s"], row["guest_s"], row["nice"], row["policy"]) == (0.2, 0.2, 0.1, 5, "batch")
    assert row["allowed_cpus"] == "0-2,8" and row.isna()["ruser"]


def test_where_only_processes_were_recorded_each_has_one_row():
    assert recorded(stat=STAT, status=b"\nUid:\t0\n")[["pid", "tid", "ruser"]].iloc[0].tolist() == [7, 7, "root"]


@pytest.mark.parametrize("field, missing", [(3, None), (8, None), (13, None), (38, None), (39, None), (18, "nice"), (40, "policy")])
@pytest.mark.parametrize("text", [b"x", b"", b"-1000", b"9" * 30, b"9" * 5000, b"\xff", b"1.5"])
def test_garbage_in_a_recorded_stat_leaves_the_thread_out_or_the_value(field, missing, text):
    words = STAT.replace(b"(qemu x)", b"x").split(b" ")
    words[1], words[field] = b"(x)", text
    found = recorded(task__7__stat=b" ".join(words))
    assert found.empty if missing is None else found[missing].isna().all()


@pytest.mark.parametrize("data", [b"", b"7", b"7 (x", b")", b"7 (x) S 1 2", STAT[:60], b"\0" * 4096, STAT.replace(b")", b"")])
def test_a_recorded_stat_that_is_none_is_left_out(data):
    assert recorded(task__7__stat=data).empty and parse_stat(data) is None


@given(st.binary(), st.binary(), st.binary(), st.binary())
def test_any_recorded_bytes_make_a_frame(stat, status, cmdline, task_status):
    recorded(task__7__stat=stat, status=status, cmdline=cmdline, task__7__status=task_status)
    words = STAT.split(b" ")
    at = len(stat) % len(words)
    recorded(
        task__7__stat=b" ".join([*words[:at], stat, *words[at + 1 :]]),
        status=b"\nUid:" + status,
        task__7__status=b"Cpus_allowed_list:" + status,
    )


@given(st.dictionaries(st.text(alphabet="0123456789x/²٣", max_size=12), st.binary(max_size=3)))
def test_any_names_of_recorded_folders_make_a_frame(names):
    frame(
        threads.rows(Files({f"proc/7/task/{name}/stat": STAT for name in names} | {f"proc/{name}/stat": STAT for name in names})), "threads"
    )


def test_a_file_of_many_lines_is_read_to_its_end():
    """The kernel hands out such a file in pieces of whole lines, none of which fills a page."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert wait_until(lambda: sleeps(child.pid), 5)
            whole = Path(f"/proc/{child.pid}/smaps").read_bytes()
            assert len(whole) > 4096
            assert SysRoot().read_bytes(f"proc/{child.pid}/smaps") == whole
        finally:
            child.kill()
