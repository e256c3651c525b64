"""Pins taken back for real: one step, what others changed since, definitions, the end of a Lab, a thousand plans, and two at once."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from kvmlab import Lab, cpulist
from kvmlab.errors import PinError
from kvmlab.guest import journal
from kvmlab.guest.pinned import Pinned
from kvmlab.guest.pinning import EMULATOR
from tests.live import foreign
from tests.live.pins import ALL, CPUS, FIRST, LAST, affinities, another_thread, may_use, of_process, tids, two, virsh

pytestmark = pytest.mark.usefixtures("state")


# ---- steps


def test_undo_goes_back_one_step_at_a_time(shared, c1, child):
    before = affinities(c1.process)
    shared.plan({("kl-c1", 0): FIRST}).apply()
    shared.plan({("kl-c1", 0): ALL, ("kl-c1", EMULATOR): FIRST, f"pid {child.pid}": FIRST}).apply()
    assert shared.undoable == 2 and of_process(child.pid) == [{FIRST}] * 3
    assert shared.undo() == 3 and may_use(c1.process.vcpus[0]) == {FIRST} and of_process(child.pid) == [set(CPUS)] * 3
    assert shared.undo() == 1 and affinities(c1.process).items() <= before.items()
    assert shared.undo() == 0 == shared.undoable


def test_undo_forgives_a_guest_that_is_gone(lab):
    guest = lab.start("kl-c2")
    lab.plan({("kl-c2", 0): FIRST}).apply()
    guest.destroy()
    assert lab.undo() == 0 == lab.undoable


@two
def test_what_virsh_pinned_meanwhile_is_asked_about_before_it_is_overwritten(shared, c1):
    shared.plan({("kl-c1", 0): FIRST, ("kl-c1", 1): FIRST}).apply()
    virsh(shared, "vcpupin", "kl-c1", "1", str(LAST))
    with pytest.raises(PinError, match=rf"vCPU 1 of 'kl-c1': libvirt has it on CPU {LAST} now, and was told {FIRST}.*undo\(force=True\)"):
        shared.undo()
    assert [may_use(tid) for _, tid in sorted(c1.process.vcpus.items())] == [{FIRST}, {LAST}] and shared.undoable == 1
    assert shared.undo(force=True) == 2
    assert [may_use(tid) for tid in c1.process.vcpus.values()] == [set(CPUS)] * 2


@two
def test_what_taskset_moved_meanwhile_is_noticed_though_libvirt_knows_nothing(shared, c1, child):
    shared.plan({("kl-c1", EMULATOR): FIRST, f"pid {child.pid}": FIRST}).apply()
    subprocess.run(["taskset", "-pc", ALL, str(child.pid)], check=True, capture_output=True)
    assert shared.undo() == 2  # as it was found: nobody's wish is overwritten
    shared.plan({f"pid {child.pid}": ALL}).apply()
    subprocess.run(["taskset", "-pc", str(LAST), str(child.pid)], check=True, capture_output=True)
    with pytest.raises(PinError, match=f"thread {child.pid} may use CPU {LAST} now, and was left on {ALL}"):
        shared.undo()
    assert shared.undo(force=True) == 1 and may_use(child.pid) == set(CPUS)


def test_threads_that_came_meanwhile_are_moved_back_too(shared, child):
    shared.plan({f"pid {child.pid}": FIRST}).apply()
    another_thread(child)
    assert of_process(child.pid) == [{FIRST}] * 4
    shared.undo()
    assert of_process(child.pid) == [set(CPUS)] * 4


def test_of_one_thread_undo_moves_no_other(shared, child):
    """Nobody can tell whether it was started by the pinned one: here it was not, and somebody put it there."""
    old = tids(child)
    shared.plan({f"tid {max(old)}": FIRST}).apply()
    another_thread(child)
    (new,) = tids(child) - old
    subprocess.run(["taskset", "-pc", str(FIRST), str(new)], check=True, capture_output=True)
    shared.undo()
    assert may_use(new) == {FIRST} and may_use(max(old)) == set(CPUS)


def test_a_plan_of_nothing_is_no_step(shared):
    shared.plan({}).apply()
    assert shared.undoable == 0


def test_ctrl_c_at_the_end_of_a_start_leaves_no_step(shared, monkeypatch):
    def strikes(row, real=Pinned.set):
        signal.raise_signal(signal.SIGINT)
        real(row)

    monkeypatch.setattr(Pinned, "set", strikes)
    with pytest.raises(KeyboardInterrupt):
        shared.start("hm-c3", pins=str(FIRST))
    assert shared.undoable == 0 and "hm-c3" not in set(shared.guests()["guest"])


def test_a_helper_that_qemu_started_meanwhile_is_moved_back_too(shared, tmp_path_factory):
    """A disk that is plugged in makes QEMU start a worker thread, on the CPU of the thread that starts it."""
    folder = tmp_path_factory.mktemp("disk")
    with foreign.guest(shared, "kl-foreign") as domain, Lab(shared.uri, allow_changes=True) as lab:
        process = lab.process("kl-foreign")
        before = affinities(process)
        lab.plan({("kl-foreign", EMULATOR): FIRST}).apply()
        foreign.plug_disk(domain, folder)
        new = affinities(process).keys() - before.keys()
        if not new:
            pytest.skip("this QEMU opens a disk without a helper")
        assert [may_use(tid) for tid in new] == [{FIRST}] * len(new)
        lab.undo()
        assert set(map(frozenset, affinities(process).values())) == {frozenset(CPUS)}


# ---- definitions, and the end of the Lab


@pytest.mark.parametrize("had", [False, True])
def test_a_persistent_definition_is_changed_and_put_back(shared, had):
    with foreign.guest(shared, "kl-foreign") as domain, Lab(shared.uri, allow_changes=True) as lab:
        if had:
            for command in (("vcpupin", "kl-foreign", "0"), ("emulatorpin", "kl-foreign"), ("iothreadpin", "kl-foreign", "1")):
                virsh(lab, *command, str(LAST), "--config")
        before = foreign.pins(domain)
        plan = lab.plan({("kl-foreign", who): FIRST for who in (0, EMULATOR, "iothread 1")})
        plan.apply(persistent=True)
        assert foreign.pins(domain) == [("emulatorpin", str(FIRST)), ("iothreadpin", str(FIRST)), ("vcpupin", str(FIRST))]
        assert lab.undo() == 3 and foreign.pins(domain) == before and bool(before) == had
        plan.apply(persistent=True)
        virsh(lab, "emulatorpin", "kl-foreign", ALL, "--config")
        if len(CPUS) > 1:
            with pytest.raises(PinError, match=f"emulator of 'kl-foreign': its definition says CPU {ALL} now, and was told {FIRST}"):
                lab.undo()
        domain.destroy()  # the definition is put back all the same
        assert lab.undo(force=True) == 3 and foreign.pins(domain) == before


@two
def test_the_end_of_a_lab_puts_back_what_is_not_its_own_and_nobody_else_has_changed(shared, c1, child):
    with foreign.guest(shared, "kl-foreign") as domain:
        lab = Lab(shared.uri, allow_changes=True)
        process = lab.process("kl-foreign")
        lab.plan({("kl-foreign", 0): FIRST, ("kl-foreign", 1): FIRST, f"tid {child.pid}": FIRST}).apply()
        domain.pinVcpu(1, tuple(cpu == LAST for cpu in range(LAST + 1)))
        words = lab.close()
        assert "0 guests gone; 2 changes of what is not its own put back; left alone" in words and "vCPU 1 of 'kl-foreign'" in words
        assert [may_use(tid) for _, tid in sorted(process.vcpus.items())] == [set(CPUS), {LAST}] and may_use(child.pid) == set(CPUS)
    assert not list(journal.folder().glob("*.jsonl"))


# ---- many, and at once


def random_plan(chance: random.Random, keys: list) -> dict:
    return {key: cpulist.format(chance.sample(CPUS, chance.randint(1, len(CPUS)))) for key in chance.sample(keys, chance.randint(1, 2))}


def test_a_thousand_random_plans_leave_exactly_what_was(shared, c1, child):
    chance, plans = random.Random(7), 0
    keys = [*(("kl-c1", who) for who in (0, 1, EMULATOR, "iothread 1")), f"pid {child.pid}"]
    before, of_child, started = affinities(c1.process), of_process(child.pid), time.monotonic()
    while plans < 1000:
        for _ in range(chance.randint(1, 8)):
            shared.plan(random_plan(chance, keys)).apply()
            plans += 1
        while shared.undoable:
            shared.undo()
        now = affinities(c1.process)
        assert now.items() <= before.items() and now.keys() >= set(c1.process.vcpus.values()) and of_process(child.pid) == of_child
    print(f"{plans} plans in {time.monotonic() - started:.1f} s")


AT_ONCE = """
import sys, time
from kvmlab import Lab
from kvmlab.errors import PinError
uri, cpu, until = sys.argv[1], sys.argv[2], time.monotonic() + 1
with Lab(uri, allow_changes=True) as lab:
    count = 0
    while time.monotonic() < until:
        lab.plan({("kl-foreign", 0): cpu, ("kl-foreign", 1): cpu}).apply()
        time.sleep(0.005)
        while lab.undoable and time.monotonic() < until + 5:
            try:
                lab.undo()
            except PinError:  # the other one came on top: he goes first
                time.sleep(0.001)
        count += 1
    print(count)
"""


@two
def test_two_processes_at_once_do_not_interleave(shared):
    """Each plan puts both vCPUs on the same CPU: whoever holds the lock never sees them apart."""
    with foreign.guest(shared, "kl-foreign"):
        process = shared.process("kl-foreign")
        tids, before, seen = list(process.vcpus.values()), affinities(process), set()
        command = [sys.executable, "-c", AT_ONCE, shared.uri]
        both = [subprocess.Popen([*command, str(cpu)], stdout=subprocess.PIPE, text=True) for cpu in (FIRST, LAST)]
        while any(process.poll() is None for process in both):
            with journal.locked():
                seen.add(tuple(frozenset(os.sched_getaffinity(tid)) for tid in tids))
            time.sleep(0.001)
        assert [int(process.communicate()[0]) > 0 for process in both] == [True, True]
        assert affinities(process) == before
    apart = {pair for pair in seen if len(set(pair)) > 1}
    assert not apart and any(len(pair[0]) == 1 for pair in seen)
