"""The linter and the planners on real guests: the scene against the kernel and virsh, a few rules, and a plan that comes true."""

import os
import subprocess
import time
from dataclasses import replace

import pytest

from kvmlab import KvmlabError, Lab, cpulist
from kvmlab.guest import scene
from kvmlab.guest.lint import lint

CPUS = sorted(os.sched_getaffinity(0))
pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="one CPU: every place is the same")


@pytest.fixture(scope="module")
def lab(live):
    """Two guests: one that spins on two vCPUs, which it takes for one core, with an I/O thread, and one that is idle."""
    with Lab() as lab:
        lab.start("hb-a", topology="1x1x1x2", devices="all").work("spin")
        lab.start("hb-b", vcpus=1)
        yield lab


@pytest.fixture(autouse=True)
def as_before(lab):
    yield
    while lab.undo():
        pass


def virsh(*words):
    return subprocess.run(["virsh", "-c", "qemu:///system" if os.geteuid() == 0 else "qemu:///session", *words], **OUTPUT).stdout


OUTPUT = dict(capture_output=True, text=True, check=True)


def ours(lab):
    return {str(thread): thread for thread in scene.of(lab).placed if thread.guest in ("hb-a", "hb-b")}


def found(frame, rule, thread):
    """The rows of a rule that are about a thread; others' guests may be on this libvirt."""
    return [row for row in frame.query("rule == @rule").to_dict("records") if thread in row["vcpus"].split(", ")]


def test_a_scene_is_what_the_kernel_and_virsh_say(lab):
    lab.plan({("hb-a", 1): CPUS[0], ("hb-a", "iothread 1"): CPUS[1]}).apply()
    there, process = ours(lab), lab.process("hb-a")
    assert set(there) == {"hb-a vCPU 0", "hb-a vCPU 1", "hb-a I/O thread 1", "hb-a emulator", "hb-b vCPU 0", "hb-b emulator"}
    for vcpu, tid in process.vcpus.items():
        thread = there[f"hb-a vCPU {vcpu}"]
        assert thread.cpus == tuple(sorted(os.sched_getaffinity(tid))) and thread.policy == "other"
        assert thread.siblings == (1 - vcpu,) and thread.place == (0, 0, 0, vcpu)
    for vcpu, cpus in (line.split() for line in virsh("vcpupin", "hb-a").split("\n")[2:] if line.strip()):
        assert there[f"hb-a vCPU {int(vcpu)}"].cpus == cpulist.parse(cpus)
    assert [thread.pinned for thread in there.values()] == [False, True, True, False, False, False]
    line = virsh("iothreadinfo", "hb-a").split("\n")[2].split()
    assert (f"hb-a I/O thread {line[0]}", there["hb-a I/O thread 1"].cpus) == ("hb-a I/O thread 1", cpulist.parse(line[1]))


def test_busy_is_told_apart_from_idle(lab):
    there = ours(lab)
    assert there["hb-a vCPU 0"].busy > 0.5 > there["hb-b vCPU 0"].busy


def test_a_look_shortly_after_another_does_not_wait(lab, monkeypatch):
    scene.of(lab)
    time.sleep(0.12)
    monkeypatch.setattr(scene.time, "sleep", lambda seconds: pytest.fail("it waits for a second look"))
    scene.of(lab)


def test_stacked_busy_vcpus_are_told_before_and_after(lab):
    plan = lab.plan({("hb-a", 0): CPUS[1], ("hb-a", 1): CPUS[1]})
    before = found(plan.lint(), "busy-vcpus-stacked", "hb-a vCPU 0")
    assert [(row["severity"], row["cpus"]) for row in before] == [("warning", str(CPUS[1]))]
    assert not ours(lab)["hb-a vCPU 0"].pinned, "nothing was changed yet"
    plan.apply()
    assert found(lint(scene.of(lab)), "busy-vcpus-stacked", "hb-a vCPU 1")
    assert not found(lab.plan({("hb-a", 0): CPUS[0]}).lint(), "busy-vcpus-stacked", "hb-a vCPU 1")


def test_an_emulator_on_its_vcpus_cpu_is_told_and_one_that_nobody_pinned_is_not(lab):
    together = lab.plan({("hb-b", 0): CPUS[1], ("hb-b", "emulator"): CPUS[1]})
    assert found(together.lint(), "emulator-on-vcpu-cpu", "hb-b emulator")
    assert not found(lab.plan({("hb-b", 0): CPUS[1]}).lint(), "emulator-on-vcpu-cpu", "hb-b emulator")


@pytest.mark.skipif(os.geteuid() != 0, reason="session mode has no quota")
def test_a_quota_is_the_kernels_and_told_once_the_vcpu_is_pinned(lab):
    assert ours(lab)["hb-b vCPU 0"].quota is None
    lab.schedinfo("hb-b", vcpu_quota=25_000, vcpu_period=50_000)
    assert ours(lab)["hb-b vCPU 0"].quota == 0.5 and ours(lab)["hb-a vCPU 0"].quota is None
    assert not found(lint(scene.of(lab)), "quota-on-pinned-vcpu", "hb-b vCPU 0")
    apart = lab.plan({("hb-b", 0): CPUS[1], ("hb-a", 0): CPUS[0], ("hb-a", 1): CPUS[0]})
    after = scene.of(lab).with_pins(apart.pins)
    alone = lint(replace(after, placed=tuple(thread for thread in after.placed if thread.guest in ("hb-a", "hb-b"))))
    told = found(alone, "quota-on-pinned-vcpu", "hb-b vCPU 0")
    assert [row["severity"] for row in told] == ["note"] and "virsh schedinfo hb-b --live --set vcpu_quota=-1" in told[0]["why"]


def test_an_autoplan_comes_true_and_goes_back(lab):
    before = {name: thread.cpus for name, thread in ours(lab).items()}
    plan = lab.autoplan("spread", guests=["hb-a", "hb-b"])
    assert len(plan.reasons) == len(plan.pins) == 6
    plan.apply()
    process = lab.process("hb-a")
    for pin, reason in zip(plan.pins, plan.reasons, strict=True):
        if pin.guest == "hb-a" and isinstance(pin.who, int):
            assert os.sched_getaffinity(process.vcpus[pin.who]) == set(pin.cpus)
            assert reason.startswith(f"hb-a vCPU {pin.who} on CPU {pin.cpus[0]}: ")
    assert lab.undo() == 6
    assert {name: thread.cpus for name, thread in ours(lab).items()} == before


def test_one_to_one_refuses_with_the_arithmetic(lab):
    with pytest.raises(KvmlabError, match=f"3 vCPUs take 3 CPUs, and there are 1 .{CPUS[0]}.*too few"):
        lab.autoplan("one-to-one", ["hb-a", "hb-b"], cpus=str(CPUS[0]))
    with pytest.raises(KvmlabError, match="Did you mean 'siblings'"):
        lab.autoplan("sibling")


def test_a_planner_places_what_may_be_changed_and_names_what_it_cannot_read(lab):
    with Lab() as watching:
        assert watching.autoplan("spread").pins == ()
        assert {pin.guest for pin in watching.autoplan("spread", "hb-a").pins} == {"hb-a"}
    for wrong in (5, lab.processes()[0]):
        with pytest.raises(KvmlabError, match="write names of running guests"):
            lab.autoplan("spread", wrong)
    with pytest.raises(KvmlabError, match=r"no strategy \[\]"):
        lab.autoplan([])
