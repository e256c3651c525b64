"""Pins for real: asked of libvirt, read back from the kernel, taken back again."""

import os
import subprocess

import pytest

from kvmlab import KvmlabError, cpulist
from kvmlab.guest import pinning
from kvmlab.guest.pinning import EMULATOR

ALL = cpulist.format(os.sched_getaffinity(0))
TWO = len(os.sched_getaffinity(0)) > 1


@pytest.fixture
def c1(lab):
    return lab.start("kl-c1", vcpus=2)


def affinities(guest) -> dict[int, set[int]]:
    process = guest.process.look()
    return {tid: os.sched_getaffinity(tid) for tid in (*process.vcpus.values(), *process.emulator)}


def test_a_plan_comes_true_in_the_kernel_and_in_libvirt(lab, c1):
    lab.plan({("kl-c1", 0): "0", ("kl-c1", EMULATOR): 0}).apply()
    process = c1.process.look()
    assert os.sched_getaffinity(process.vcpus[0]) == {0}
    assert [os.sched_getaffinity(tid) for tid in process.emulator] == [{0}] * len(process.emulator)
    assert len(process.emulator) > 1  # also the threads that libvirt itself would have left where they were
    pins = subprocess.run(["virsh", "vcpupin", "kl-c1"], capture_output=True, text=True, check=True).stdout
    assert next(line.split() for line in pins.splitlines()[2:] if line.strip()) == ["0", "0"]


def test_undo_goes_back_one_step_at_a_time(lab, c1):
    before = affinities(c1)
    lab.plan({("kl-c1", 0): "0"}).apply()
    lab.plan({("kl-c1", 0): ALL, ("kl-c1", EMULATOR): "0"}).apply()
    assert lab.undo() == 2 and lab.vcpus()["allowed_cpus"].tolist() == ["0", ALL]
    assert lab.undo() == 1 and affinities(c1) == before
    assert lab.undo() == 0


def test_the_commands_do_the_same_as_apply(lab, c1):
    plan = lab.plan({("kl-c1", 1): "0", ("kl-c1", EMULATOR): "0"})
    before = affinities(c1)
    assert plan.commands()[:2] == ["virsh vcpupin kl-c1 1 0", "virsh emulatorpin kl-c1 0"]
    plan.apply()
    applied = affinities(c1)
    lab.undo()
    assert affinities(c1) == before
    for command in plan.commands():
        subprocess.run(command.split(), check=True, capture_output=True)
    assert affinities(c1) == applied


@pytest.mark.parametrize(
    "pins, words",
    [
        ({("kl-c2", 0): "0"}, "no running guest 'kl-c2'.*kl-c1"),
        ({("kl-c1", 2): "0"}, "has no vCPU 2: it has 0, 1, and 'emulator'"),
        ({("kl-c1", "emu"): "0"}, "has no vCPU 'emu'"),
        ({"kl-c1": "0"}, "names no thread"),
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
def test_what_cannot_be_is_named_before_anything_changes(lab, c1, pins, words):
    before = affinities(c1)
    with pytest.raises(KvmlabError, match=words):
        lab.plan(pins)
    assert affinities(c1) == before


def test_all_or_nothing_when_the_kernel_does_otherwise(lab, c1, monkeypatch):
    """A cpuset narrower than the plan cannot be made here without changing the machine: the kernel's answer is a fake."""
    before = affinities(c1)
    last = c1.process.look().vcpus[1]
    real = os.sched_getaffinity
    moved = []

    def narrowed(tid):
        return {4095} if tid == last and moved else real(tid)

    monkeypatch.setattr(pinning.os, "sched_getaffinity", narrowed)
    monkeypatch.setattr(pinning, "_read_back", lambda step, check=pinning._read_back: (moved.append(1), check(step)))
    with pytest.raises(KvmlabError, match=r"vCPU 1 of 'kl-c1': asked for CPU 0, but the kernel lets thread \d+ use 4095"):
        lab.plan({("kl-c1", 0): "0", ("kl-c1", 1): "0"}).apply()
    monkeypatch.undo()
    assert affinities(c1) == before and lab.undo() == 0


def test_a_guest_that_went_between_plan_and_apply_is_an_error(lab, c1):
    plan = lab.plan({("kl-c1", 0): "0"})
    c1.destroy()
    with pytest.raises(KvmlabError, match="no running guest 'kl-c1'"):
        plan.apply()


def test_undo_forgives_a_guest_that_is_gone(lab, c1):
    lab.plan({("kl-c1", 0): "0"}).apply()
    c1.destroy()
    assert lab.undo() == 0


@pytest.mark.skipif(not TWO, reason="one CPU: there is nowhere to go")
def test_a_pinned_vcpu_runs_where_it_may_and_nowhere_else(lab, c1):
    from kvmlab import measure

    c1.work("spin")
    first, last = sorted(os.sched_getaffinity(0))[:2]
    lab.plan({("kl-c1", 0): last, ("kl-c1", 1): first}).apply()
    where = measure.residency(lab.sample(seconds=0.5, hz=20))
    assert where[["vcpu", "cpu"]].to_numpy().tolist() == [[0, last], [1, first]]
