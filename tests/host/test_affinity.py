"""Affinity of any thread: against taskset, ps and the kernel's own files. What would change this machine's threads is tested in the
Linux guest (tests/guest/test_isolated.py): there `movable` is compared with what sched_setaffinity answers for every thread.
"""

import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from kvmlab import Host, KvmlabError, cpulist, measure
from kvmlab.host import affinity
from kvmlab.host.sysroot import SysRoot
from tests.conftest import REPOSITORY

HOST = Host()


@pytest.fixture(scope="module")
def loop():
    """A busy process on one CPU."""
    with subprocess.Popen(["sh", "-c", "ulimit -t 60; while :; do :; done"]) as process:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield process.pid
        process.kill()


def said(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_pinned_process_is_where_taskset_and_ps_say(loop):
    measure.follow(lambda: HOST.affinity(loop), seconds=0.2)
    (row,) = HOST.affinity(loop).itertuples()
    assert cpulist.parse(row.allowed_cpus) == cpulist.parse(said("taskset", "-pc", str(loop))[0].split(": ")[1])
    assert str(row.cpu) == row.allowed_cpus == said("ps", "-o", "psr=", "-p", str(loop))[0].strip()
    assert (row.pid, row.tid, row.comm, row.kind, row.movable) == (loop, loop, "sh", "ordinary", True)


def test_a_process_has_a_row_for_each_thread_and_a_thread_one(loop):
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    mine, tid = HOST.affinity(os.getpid()), threads[0].native_id
    one = HOST.affinity(np.int64(tid))
    end.set()
    assert {thread.native_id for thread in threads} | {os.getpid()} <= set(mine.tid) and set(mine.pid) == {os.getpid()}
    assert one[["pid", "tid"]].values.tolist() == [[os.getpid(), tid]]
    assert HOST.affinity(loop, os.getpid()).pid.nunique() == 2


def test_migrations_run_and_wait_are_the_kernels_numbers(loop):
    if not Path("/proc/self/sched").exists():
        pytest.skip("this kernel counts no migrations")
    text = Path(f"/proc/{loop}/sched").read_text()
    counted = next(int(line.split(":")[1]) for line in text.splitlines() if "nr_migrations" in line)
    looked = HOST.affinity(loop)
    assert looked.migrations[0] == counted and "counted by the kernel" in looked.attrs["migrations"]
    assert looked.run_s[0] <= int(Path(f"/proc/{loop}/schedstat").read_text().split()[0]) / 1e9


def test_kernel_threads_that_are_bound_cannot_be_moved():
    threads = HOST.threads()
    bound = threads[threads.kind.isin(["migration", "ksoftirqd"])]
    if not len(bound):
        pytest.skip("no kernel threads are seen here, as in a container")
    found = HOST.affinity(*bound.tid)
    assert not found.movable.any() and (found.allowed_cpus == found.cpu.astype("string")).all()


def test_its_cpuset_is_told_and_nobody_has_more(loop):
    found = HOST.affinity(*HOST.threads().tid).dropna(subset=["cpuset_cpus", "allowed_cpus"])
    online = set(cpulist.parse(Path("/sys/devices/system/cpu/online").read_text()))
    if not len(found):
        pytest.skip("no cpuset controller here")
    ordinary = found[found.kind == "ordinary"]
    assert all(set(cpulist.parse(row.allowed_cpus)) & online <= set(cpulist.parse(row.cpuset_cpus)) for row in ordinary.itertuples())


@pytest.mark.parametrize("wrong", ["sh", None, 0, -1, True, 1.5])
def test_what_is_no_number_of_a_process_is_said(wrong):
    with pytest.raises(KvmlabError, match="is no process or thread"):
        HOST.affinity(wrong)
    with pytest.raises(KvmlabError, match="Whose affinity"):
        HOST.affinity()


def test_a_process_that_ended_is_named_and_among_several_left_out():
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(KvmlabError, match=f"no process or thread {gone.pid}; it may have ended"):
        HOST.affinity(gone.pid)
    assert set(HOST.affinity(gone.pid, os.getpid()).pid) == {os.getpid()}


# ---- recorded


def test_a_recorded_machine_tells_what_was_recorded_and_why_not_the_rest():
    big = Host.open(REPOSITORY / "tests/hosts/x86_64-4n4s16c2t.tar.xz")
    threads = big.threads(affinity=True).set_index("tid")
    found = big.affinity(*threads.index).set_index("tid")
    assert found[["cpu", "allowed_cpus", "kind"]].equals(threads.loc[found.index, ["cpu", "allowed_cpus", "kind"]])
    assert not found[found.kind == "kworker"].movable.any() and found[found.kind == "kswapd"].movable.all()
    assert found.migrations.isna().all() and "not in this recording" in found.attrs["unavailable"]["migrations"]
    with pytest.raises(KvmlabError, match="There are 837 processes, such as 1 and 882"):
        big.affinity(4711)


def made(folder, files: dict[str, str]) -> SysRoot:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return SysRoot(folder)


STAT = "7 (CPU 0/KVM) S 1 7 7 0 -1 4194560 " + " ".join(["0"] * 29) + " 3 0 0 0 0 0 0 0 0 0 0 0 0 0"


@pytest.mark.parametrize(
    ("files", "cpuset"),
    [
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset", "sys/fs/cgroup/vms/cpuset.cpus.effective": "2-3"}, "2-3"),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu", "sys/fs/cgroup/cpuset.cpus.effective": "0-7"}, "0-7"),
        ({"proc/7/cgroup": "4:cpuset:/vms\n0::/", "sys/fs/cgroup/cpuset/vms/cpuset.cpus": "5,1"}, "1,5"),
        ({"proc/7/cgroup": "0::/../other", "sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/cpuset.cpus.effective": "0"}, None),
        ({"proc/7/cgroup": ""}, None),
    ],
    ids=["its own", "of the nearest cgroup above", "version 1", "seen from a container", "none"],
)
def test_the_cpuset_is_that_of_its_cgroup_or_of_the_nearest_one_above(tmp_path, files, cpuset):
    """Files by hand: this machine has only one of these hierarchies."""
    basic = {"proc/7/task/7/stat": STAT, "proc/7/status": "Tgid:\t7", "proc/7/cgroup": "0::/vms/c1"}
    (row,) = affinity.rows(made(tmp_path, basic | files), (7,))

    assert row[7] == cpuset and row[4] == "vcpu" and row[5] == 3


class _Uncounted(SysRoot):
    """This machine, as if its kernel had been built without what counts migrations: it cannot be provoked."""

    def read_bytes(self, path: str) -> bytes | None:
        return None if path.endswith("/sched") else super().read_bytes(path)


def test_where_the_kernel_does_not_count_it_is_said_and_looks_are_counted(loop):
    host = Host()
    host.root = _Uncounted("/")
    looks = measure.follow(lambda: host.affinity(loop), seconds=0.3)
    assert looks.migrations.isna().all() and "CONFIG_SCHED_DEBUG" in looks.attrs["unavailable"]["migrations"]
    assert "measure.thread_moves" in looks.attrs["migrations"]
    (row,) = measure.thread_moves(looks).itertuples()
    assert (row.counted_by, row.moves, row.tid) == ("looks", 0, loop)
