"""Pins for real: asked of libvirt, read back from the kernel, all or nothing."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kvmlab import KvmlabError, cpulist, measure
from kvmlab.errors import PinError, PlanError
from kvmlab.guest import journal, pinned, pinning
from kvmlab.guest.pinned import Pinned, affinity
from kvmlab.guest.pinning import EMULATOR
from kvmlab.guest.targets import Thread, named
from tests.live.pins import ALL, CPUS, FIRST, LAST, ROOT, affinities, another_thread, may_use, of_process, tids, two, virsh

pytestmark = pytest.mark.usefixtures("state")


# ---- plan and apply


def test_a_plan_comes_true_in_the_kernel_and_in_libvirt(shared, c1):
    shared.plan({("kl-c1", 0): FIRST, ("kl-c1", EMULATOR): FIRST, ("kl-c1", "iothread 1"): LAST}).apply()
    process = c1.process.look()
    assert os.sched_getaffinity(process.vcpus[0]) == {FIRST} and os.sched_getaffinity(process.vcpus[1]) == set(CPUS)
    assert {frozenset(os.sched_getaffinity(tid)) for tid in process.emulator} == {frozenset({FIRST})}
    assert len(process.emulator) > 1  # also the threads that libvirt itself would have left where they were
    assert [os.sched_getaffinity(tid) for tid in process.iothreads] == [{LAST}]
    for said, who, cpu in (("vcpupin", "0", FIRST), ("emulatorpin", "*:", FIRST), ("iothreadinfo", "1", LAST)):
        lines = virsh(shared, said, "kl-c1").splitlines()[2:]
        assert next(line.split() for line in lines if line.strip()) == [who, str(cpu)]


def test_the_kernel_says_so_through_taskset_too(shared, c1, child):
    tid = max(int(name) for name in os.listdir(f"/proc/{child.pid}/task"))
    shared.plan({f"tid {tid}": FIRST}).apply()
    said = subprocess.run(["taskset", "-apc", str(child.pid)], capture_output=True, text=True, check=True).stdout
    lists = {int(line.split("'")[0].removeprefix("pid ")): line.split(": ")[1] for line in said.splitlines()}
    assert {number: cpulist.parse(cpus) for number, cpus in lists.items() if number == tid} == {tid: (FIRST,)}
    assert [cpulist.parse(cpus) for number, cpus in lists.items() if number != tid] == [tuple(CPUS)] * 2


def test_only_those_that_are_meant_are_moved_even_if_they_all_started_in_this_very_moment(shared, c1, child, monkeypatch):
    monkeypatch.setattr(pinned.time, "clock_gettime", lambda clock: 0)
    shared.plan({("kl-c1", "iothread 1"): FIRST, f"tid {child.pid}": FIRST}).apply()
    assert {frozenset(cpus) for tid, cpus in affinities(c1.process).items() if tid not in c1.process.iothreads} == {frozenset(CPUS)}
    assert may_use(child.pid) == {FIRST} and sorted(map(len, of_process(child.pid))) == [1, len(CPUS), len(CPUS)]


def test_the_commands_do_the_same_as_apply(shared, c1, child):
    tid = max(int(name) for name in os.listdir(f"/proc/{child.pid}/task"))
    pins = {("kl-c1", 1): FIRST, ("kl-c1", EMULATOR): FIRST, ("kl-c1", "iothread 1"): FIRST, f"pid {child.pid}": FIRST}
    plan = shared.plan(pins)
    assert [line for line in plan.commands() if line.startswith("virsh")] == [
        f"virsh vcpupin kl-c1 1 {FIRST}",
        f"virsh emulatorpin kl-c1 {FIRST}",
        f"virsh iothreadpin kl-c1 1 {FIRST}",
    ]
    assert plan.commands()[-1] == f"taskset -apc {FIRST} {child.pid}"
    assert shared.plan({f"tid {tid}": ALL}).commands() == [f"taskset -pc {ALL} {tid}"]
    before = affinities(c1.process), of_process(child.pid)
    commands = plan.commands()
    plan.apply()
    applied = affinities(c1.process), of_process(child.pid)
    shared.undo()
    assert affinities(c1.process).items() <= before[0].items() and of_process(child.pid) == before[1]
    try:
        for command in commands:
            subprocess.run(command.split(), check="virsh" in command, capture_output=True)  # a worker of QEMU may have ended
        assert affinities(c1.process).items() <= applied[0].items() and of_process(child.pid) == applied[1]
    finally:
        shared.plan({("kl-c1", who): ALL for who in (1, EMULATOR, "iothread 1")}).apply()
        shared._undo.clear()


@pytest.mark.skipif(not ROOT, reason="the kernel's threads are root's to move")
def test_all_threads_of_a_kind_are_moved_and_come_back(shared):
    plan = shared.plan({"kind kcompactd": FIRST})
    tids = [int(line.split()[-1]) for line in plan.commands()]
    before = [may_use(tid) for tid in tids]
    plan.apply()
    assert [may_use(tid) for tid in tids] == [{FIRST}] * len(tids) and "thread" in repr(plan)
    shared.undo()
    assert [may_use(tid) for tid in tids] == before


@pytest.mark.parametrize(
    "pins, words",
    [
        ({("kl-c2", 0): "0"}, "no running guest 'kl-c2'.*kl-c1"),
        ({("kl-c1", 2): "0"}, "has no vCPU 2: it has 0, 1, 'iothread 1', and 'emulator'"),
        ({("kl-c1", "emu"): "0"}, "has no vCPU 'emu'"),
        ({("kl-c1", "iothread 7"): "0"}, "has no I/O thread 'iothread 7'.* 'iothread 1'"),
        ({"kl-c1": "0"}, "names no thread"),
        (None, "None is no plan"),
        ({"tid 4194304": "0"}, "tid 4194304: no such thread"),
        ({"kind migration": "0"}, "kind migration: the kernel has bound all|none that could be moved"),
        ({("kl-c1", 0): ""}, "an empty CPU set.*online CPUs 0"),
        ({("kl-c1", 0): "0,^0"}, "an empty CPU set"),
        ({("kl-c1", 0): "9999"}, "vCPU 0 of 'kl-c1': CPU 9999 is not among the online CPUs 0"),
        ({("kl-c1", 0): "0,9998-9999"}, "CPUs 9998-9999 are not among"),
        ({("kl-c1", 0): "3-1"}, "'3-1' runs backwards"),
        ({("kl-c1", 0): "a"}, "'a' is neither a CPU nor a range"),
        ({("kl-c1", 0): "1,,2"}, "'' is neither"),
        ({("kl-c1", 0): 10**9}, "'1000000000' is beyond"),
        ({("kl-c1", 0): -1}, "'-1' is neither"),
        ({("kl-c1", 0): None}, "'None' is neither"),
        ({("kl-c1", 0): "0", ("kl-c1", 1): "x"}, "vCPU 1 of 'kl-c1'"),
    ],
)
def test_what_cannot_be_is_named_before_anything_changes(shared, c1, pins, words):
    before = affinities(c1.process)
    with pytest.raises(KvmlabError, match=words):
        shared.plan(pins)
    assert affinities(c1.process).items() <= before.items()


def test_the_threads_of_a_guest_are_named_as_its_own(shared, c1):
    for key in (f"pid {c1.process.pid}", f"tid {c1.process.vcpus[1]}"):
        with pytest.raises(PlanError, match=r"belongs to the guest 'kl-c1'. Pin that by its own names: \('kl-c1', 0\)"):
            shared.plan({key: FIRST})


def test_a_guest_without_a_definition_has_none_to_change(shared, c1, child):
    with pytest.raises(PlanError, match=r"'kl-c1' is transient.*without persistent=True"):
        shared.plan({("kl-c1", 0): FIRST}).apply(persistent=True)
    with pytest.raises(PlanError, match="only guests have a persistent definition"):
        shared.plan({f"tid {child.pid}": FIRST}).apply(persistent=True)
    assert may_use(c1.process.vcpus[0]) == set(CPUS) and not shared.undoable


# ---- all or nothing


def test_all_or_nothing_when_the_kernel_does_otherwise(shared, c1, monkeypatch):
    """libvirt makes the cpusets of its guests itself, so for one of them the kernel's answer is a fake."""
    before, real = affinities(c1.process), Pinned.read_back

    def reads_back(row):
        with monkeypatch.context() as patch:
            if row.pin.who == 1:
                patch.setattr(pinned, "affinity", lambda thread: frozenset({4095}))
            real(row)

    monkeypatch.setattr(Pinned, "read_back", reads_back)
    with pytest.raises(PinError, match=rf"vCPU 1 of 'kl-c1': asked for CPU {FIRST}, but the kernel lets thread \d+ use 4095.*put back"):
        shared.plan({("kl-c1", 0): FIRST, ("kl-c1", 1): FIRST}).apply()
    assert affinities(c1.process).items() <= before.items() and shared.undo() == 0


@pytest.fixture
def narrow():
    """A cpuset of one CPU, as an administrator would make it."""
    place = Path("/sys/fs/cgroup/cpuset/kl-narrow")
    try:
        if not place.parent.is_dir():  # cgroup v2
            place = Path("/sys/fs/cgroup/kl-narrow")
            if "cpuset" not in Path("/sys/fs/cgroup/cgroup.subtree_control").read_text():
                pytest.skip("no cpusets in the root cgroup here")
        place.mkdir()
    except OSError as error:
        pytest.skip(f"no cpuset can be made here: {error}")
    try:
        (place / "cpuset.mems").write_text("0")
        (place / "cpuset.cpus").write_text(str(FIRST))
        yield place
    finally:
        place.rmdir()


@two
@pytest.mark.parametrize(("cpus", "words"), [(LAST, "the kernel refuses CPU"), (ALL, f"asked for CPU {ALL}, but the kernel lets thread")])
def test_a_cpuset_narrower_than_the_plan_is_noticed_and_named(shared, c1, narrow, cpus, words):
    """The kernel refuses what is all outside of it, and silently narrows the rest."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        (narrow / "cgroup.procs").write_text(str(child.pid))
        with pytest.raises(PinError, match=rf"tid {child.pid}: {words}.*cpuset /kl-narrow"):
            shared.plan({("kl-c1", 0): FIRST, f"tid {child.pid}": cpus}).apply()
        assert may_use(child.pid) == {FIRST} and may_use(c1.process.vcpus[0]) == set(CPUS) and not shared.undoable
        assert not list(journal.folder().glob("*.jsonl"))
    finally:
        child.kill()
        child.wait()


def test_a_guest_that_went_between_plan_and_apply_is_an_error(lab):
    guest = lab.start("kl-c2")
    plan = lab.plan({("kl-c2", 0): FIRST})
    guest.destroy()
    with pytest.raises(KvmlabError, match="no running guest 'kl-c2'"):
        plan.apply()


def test_a_thread_that_went_between_plan_and_apply_is_an_error(shared, c1, child):
    plan = shared.plan({("kl-c1", 0): FIRST, f"pid {child.pid}": FIRST})
    child.kill()
    child.wait()
    with pytest.raises(PlanError, match=f"pid {child.pid}: no such thread runs"):
        plan.apply()
    assert may_use(c1.process.vcpus[0]) == set(CPUS) and not shared.undoable


def test_another_thread_that_has_the_number_by_now_is_left_alone(shared, child):
    """The number is not really taken anew: the plan's thread is made an older one."""
    plan = shared.plan({f"tid {child.pid}": FIRST})
    (group,) = plan._groups.values()
    (thread,) = group.threads
    older = Thread(thread.pid, thread.tid, thread.start_ticks - 1)
    plan._groups[plan.pins[0]] = group._replace(threads=(older,))
    with pytest.raises(PlanError, match="another has its number now"):
        plan.apply()
    assert affinity(older) is None and may_use(child.pid) == set(CPUS)


@two
def test_a_cpu_that_went_offline_between_plan_and_apply_is_an_error(shared, c1, monkeypatch):
    """A fake: this machine keeps its CPUs."""
    plan = shared.plan({("kl-c1", 0): FIRST, ("kl-c1", 1): LAST})
    monkeypatch.setattr(pinning, "online_cpus", lambda root: (FIRST,))
    with pytest.raises(PlanError, match=f"vCPU 1 of 'kl-c1': CPU {LAST} is not among the online CPUs {FIRST}"):
        plan.apply()
    assert may_use(c1.process.vcpus[0]) == set(CPUS) and not shared.undoable


def test_a_thread_of_another_user_is_said_to_be_theirs(shared):
    if not ROOT:
        with pytest.raises(PinError, match=r"tid 1: thread 1 belongs to \w+ \(uid 0\); pin it as that user or as root"):
            shared.plan({"tid 1": FIRST}).apply()
        assert not shared.undoable
        return
    tid = os.getpid()
    row = Pinned(named(f"tid {tid}"), {Thread(tid, tid, pinned.read_stat(pinned.ROOT, tid, tid).start_ticks): frozenset(CPUS)}, 0)
    stranger = subprocess.Popen(["setpriv", "--reuid", "65534", "--clear-groups", "sleep", "60"])
    try:
        shared.plan({f"tid {stranger.pid}": FIRST}).apply()  # root may
        assert shared.undo() == 1
    finally:
        stranger.kill()
        stranger.wait()
    os.seteuid(65534)
    try:
        theirs = Thread(1, 1, pinned.read_stat(pinned.ROOT, 1, 1).start_ticks)
        with pytest.raises(PinError, match=r"thread 1 belongs to root \(uid 0\); pin it as that user or as root"):
            row._move(theirs, frozenset({4095}))
    finally:
        os.seteuid(0)


def test_ctrl_c_in_the_middle_waits_until_all_of_it_is_done(shared, c1, monkeypatch):
    def strikes(row, real=Pinned.set):
        signal.raise_signal(signal.SIGINT)
        real(row)

    monkeypatch.setattr(Pinned, "set", strikes)
    with pytest.raises(KeyboardInterrupt):
        shared.plan({("kl-c1", 0): FIRST, ("kl-c1", 1): FIRST}).apply()
    assert [may_use(tid) for tid in c1.process.vcpus.values()] == [{FIRST}] * 2 and shared.undoable == 1
    monkeypatch.undo()

    def strikes_back(row, real=Pinned.put_back):
        signal.raise_signal(signal.SIGINT)
        real(row)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pinned, "put_back", strikes_back)
        shared.undo()
    assert [may_use(tid) for tid in c1.process.vcpus.values()] == [set(CPUS)] * 2 and shared.undoable == 0


@two
def test_all_threads_are_also_those_that_start_while_they_are_looked_for(shared, child, monkeypatch):
    def looks(thread, real=affinity):
        monkeypatch.setattr(pinning, "affinity", real)
        another_thread(child)
        time.sleep(0.03)  # some ticks
        return real(thread)

    monkeypatch.setattr(pinning, "affinity", looks)
    shared.plan({f"pid {child.pid}": FIRST}).apply()
    assert of_process(child.pid) == [{FIRST}] * 4
    shared.undo()
    assert of_process(child.pid) == [set(CPUS)] * 4


@two
@pytest.mark.parametrize("times", [1, 100])
def test_threads_that_start_others_while_they_are_moved_are_looked_for_again(shared, child, monkeypatch, times):
    """As if each was started by one that had not been moved yet: those of a storm that never ends are noticed."""
    real, left = Pinned._newcomers, [times]

    def newcomers(row):
        found, before = real(row), tids(child)
        if left[0] > 0:
            left[0] -= 1
            another_thread(child)
            os.sched_setaffinity(*(tids(child) - before), CPUS)
        return found

    plan = shared.plan({f"pid {child.pid}": FIRST})
    monkeypatch.setattr(Pinned, "_newcomers", newcomers)
    if times == 1:
        plan.apply()
        assert of_process(child.pid) == [{FIRST}] * 4
        shared.undo()
        return
    with pytest.raises(PinError, match=rf"pid {child.pid}: asked for CPU {FIRST}, but the kernel lets thread \d+ use {ALL}"):
        plan.apply()
    assert set(map(frozenset, of_process(child.pid))) == {frozenset(CPUS)}


@two
def test_a_pinned_vcpu_runs_where_it_may_and_nowhere_else(shared, c1):
    c1.work("spin")
    shared.plan({("kl-c1", 0): LAST, ("kl-c1", 1): FIRST}).apply()
    where = measure.residency(shared.sample(seconds=0.5, hz=20).query("guest == 'kl-c1'"))
    c1.work("idle")
    assert where[["vcpu", "cpu"]].to_numpy().tolist() == [[0, LAST], [1, FIRST]]
