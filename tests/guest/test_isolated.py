"""What acts on a kernel, in one that is real and not ours: the Linux guest, with isolcpus and without, and with a Python inside."""

import json

import pandas as pd
import pytest

from kvmlab import Host, KvmlabError, plots
from kvmlab.guest import linux
from kvmlab.guest.isolated import boot_isolated
from kvmlab.guest.linux import Shape
from tests.guest.python_inside import run, with_python

# ---- isolcpus


@pytest.fixture(scope="module")
def booted(image) -> dict:
    return {cpus: boot_isolated(cpus, image=image) for cpus in ("", "1,2")}


def test_the_kernel_isolates_what_it_was_told(booted):
    isolation = booted["1,2"].host.isolation()
    assert isolation[isolation.isolcpus].cpu.tolist() == [1, 2]
    assert not booted[""].host.isolation().isolcpus.any()
    assert booted["1,2"].isolcpus == "1-2" and "isolcpus=1-2" in repr(booted["1,2"].host)


def test_threads_that_are_bound_to_no_cpu_leave_the_isolated_ones(booted):
    threads = booted["1,2"].host.threads(affinity=True)
    there = threads[threads.cpu.isin([1, 2])]
    assert len(there) and set(there.kind) <= {"migration", "ksoftirqd", "cpuhp", "kworker", "rcu", "kernel"}
    assert "ordinary" in set(threads.kind) and set(threads[threads.kind == "ordinary"].allowed_cpus) == {"0,3"}
    per_cpu = booted["1,2"].host.threads_per_cpu()
    assert per_cpu.threads.sum() == len(threads)


def test_busy_loops_stay_off_isolated_cpus_and_share_the_others(booted):
    loops = booted["1,2"].loops
    four = loops[loops.started_on == "0,3"]
    assert len(four) == 4 and set(four.cpu) <= {0, 3}
    assert four.share.sum() < 2.5  # two CPUs' worth, of which the two looks are not taken at quite the same time
    free = booted[""].loops
    assert set(free[free.started_on == "0-3"].allowed_cpus) == {"0-3"}


def test_children_of_one_process_stack_where_nothing_is_balanced(booted):
    """The kernel puts a child where its parent is, and moves it on only within a scheduling domain: isolated CPUs are in none."""
    pinned = {cpus: one.loops[one.loops.started_on == "1-2"] for cpus, one in booted.items()}
    assert len(pinned[""]) == len(pinned["1,2"]) == 2
    assert pinned["1,2"].cpu.nunique() == 1 and pinned["1,2"].moves.sum() == 0
    assert pinned["1,2"].share.between(0.3, 0.7).all()
    assert pinned[""].share.sum() > pinned["1,2"].share.sum()


def test_the_guest_is_told_in_words_as_this_machine_would_be(booted):
    host = booted["1,2"].host
    words = plots.isolation_in_words(host.isolation(), host.threads())
    assert "CPUs 1-2 are left out of load balancing (isolcpus)" in words and "2 migration" in words
    assert "ordinary" not in words.splitlines()[-1]
    ax = plots.loops(pd.concat([one.loops for one in booted.values()]))
    assert ax is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"isolcpus": "4"}, "no CPU 4"),
        ({"isolcpus": "0-3"}, "leaves no CPU"),
        ({"on": ""}, "names no CPU"),
        ({"isolcpus": "1;reboot"}, "neither a CPU nor a range"),
    ],
)
def test_what_cannot_be_isolated_is_said_before_anything_boots(words, said):
    with pytest.raises(KvmlabError, match=said):
        boot_isolated(**words)


def test_without_an_image_the_error_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KvmlabError, match="kvmlab build-linux-guest"):
        boot_isolated()


# ---- partitions, and what can be moved: this package's own code inside the guest

_CODE = """
import json, os, signal, subprocess, time
from pathlib import Path
from kvmlab.errors import KvmlabError
from kvmlab.host import affinity, isolation
from kvmlab.host.partition import Partition
from kvmlab.host.sysroot import SysRoot

top, found = Path("/sys/fs/cgroup"), {}
root = SysRoot("/")
def state():
    return [(top / "cgroup.subtree_control").read_text(), sorted(p.name for p in top.iterdir() if p.is_dir()), os.sched_getaffinity(0)]
def error(*words):
    try:
        with Partition(*words):
            return "none"
    except KvmlabError as error:
        return str(error)

found["movable"] = []
for pid in root.numbered("proc"):
    (row,) = affinity.rows(root, (pid,))
    try:
        os.sched_setaffinity(pid, os.sched_getaffinity(pid))
        moved = True
    except OSError as refused:
        moved = False
    found["movable"].append([row[3], row[4], row[8], moved])

before = state()
sleeper = subprocess.Popen(["sleep", "1000"])
with Partition("1-2") as partition:
    found["answer"] = partition.answer
    found["others"] = sorted(os.sched_getaffinity(0))
    partition.add(sleeper.pid)
    found["inside"] = sorted(os.sched_getaffinity(sleeper.pid))
    (row,) = affinity.rows(root, (sleeper.pid,))
    found["cpuset"] = row[7]
    found["shown"] = [[row[0], row[6]] for row in isolation.rows(root)]
    found["again"] = error("2-3")
    found["gone"] = error_of_add = None
    try:
        partition.add(99999)
    except KvmlabError as gone:
        found["gone"] = str(gone)
    shell = subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & wait"])
    partition.add(shell.pid)
    os.kill(shell.pid, signal.SIGKILL)
    shell.wait()
found["sleeper"] = [Path(f"/proc/{sleeper.pid}/cgroup").read_text(), sorted(os.sched_getaffinity(sleeper.pid))]
found["as it was"] = state() == before
with Partition("3", "root") as other:
    found["root"] = other.answer
if not os.fork():
    Partition("3").__enter__()
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
found["left"] = len(list(top.glob("kvmlab-*")))
with Partition("3"):
    found["left then"] = len(list(top.glob("kvmlab-*")))
found["errors"] = [error("9"), error("0-3"), error(""), error("1", "odd")]
os.setuid(65534)
found["user"] = error("1")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def inside(image, tmp_path_factory) -> dict:
    modules = "kvmlab.host.partition, kvmlab.host.affinity, kvmlab.host.isolation, json, signal, subprocess, pathlib"
    with_code = with_python(image, tmp_path_factory.mktemp("python"), modules)
    return json.loads(linux.boot(with_code, Shape(cores=4), run(_CODE), 200))


def test_movable_is_what_sched_setaffinity_answers(inside):
    assert all(movable == moved for _, _, movable, moved in inside["movable"])
    kinds = {(kind, movable) for _, kind, movable, _ in inside["movable"]}
    assert {("migration", False), ("ksoftirqd", False), ("kworker", False), ("kswapd", True), ("ordinary", True)} <= kinds


def test_a_partition_keeps_others_out_and_its_own_in(inside):
    assert inside["answer"] == "isolated" and inside["root"] == "root"
    assert inside["others"] == [0, 3] and inside["inside"] == [1, 2] and inside["cpuset"] == "1-2"
    assert [cpu for cpu, group in inside["shown"] if group and group.endswith("(isolated)")] == [1, 2]


def test_a_partition_leaves_everything_as_it_was(inside):
    assert inside["as it was"] and inside["sleeper"] == ["0::/\n", [0, 1, 2, 3]]


def test_a_partition_of_a_python_that_was_killed_goes_with_the_next_one(inside):
    assert (inside["left"], inside["left then"]) == (1, 1)


def test_what_cannot_be_partitioned_is_said(inside):
    offline, everything, nothing, odd = inside["errors"]
    assert "no online CPU 9" in offline and "all of the online CPUs 0-3" in everything and "none of the online" in nothing
    assert "write 'isolated' or 'root'" in odd and "no process 99999" in inside["gone"]
    assert "The kernel makes no partition of CPU 2-3" in inside["again"] or "Is there a partition already" in inside["again"]
    assert "Only root may" in inside["user"]


def test_the_guest_at_rest_is_a_recorded_machine_like_any_other(booted):
    assert isinstance(booted[""].host, Host) and len(booted[""].host.cpus()) == 4
    assert booted[""].host.affinity(1).allowed_cpus.tolist() == ["0-3"]
