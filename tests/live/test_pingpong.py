"""Ping-pong between real vCPUs: that they are where the kernel says, that the ball went round, and that nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from kvmlab import KvmlabError, measure

CPUS = sorted(os.sched_getaffinity(0))[:2]
PAIRS = [(a, b) for a in CPUS for b in CPUS if a <= b]


@pytest.fixture(scope="module")
def player(here):
    return here.start("hp-player", vcpus=3)


@pytest.fixture(scope="module")
def watched(here, player):
    """A measurement, and all pairs of affinities that the kernel had for the vCPU threads meanwhile."""
    tids, seen, over = [player.process.vcpus[vcpu] for vcpu in (0, 1)], set(), threading.Event()
    here.plan({("hp-player", 0): CPUS[-1]}).apply()

    def watch():
        while not over.wait(0.005):
            seen.add(tuple(frozenset(os.sched_getaffinity(tid)) for tid in tids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = player.page.turns(0)[10]
    runs = measure.pingpong(here, CPUS, seconds=0.05, repeats=5, guest=player)
    over.set()
    watcher.join()
    return runs, seen, player.page.turns(0)[10] - before


def guests_of_libvirt(lab) -> str:
    return subprocess.run(["virsh", "-c", lab.uri, "list", "--all", "--name"], capture_output=True, text=True, check=True).stdout


def test_each_pair_was_pinned_as_the_frame_says(watched):
    runs, seen, _ = watched
    assert {(frozenset({a}), frozenset({b})) for a, b in PAIRS} <= seen
    assert sorted(zip(runs["cpu_a"], runs["cpu_b"], runs["repeat"], strict=True)) == [(*pair, n) for pair in PAIRS for n in range(5)]


def test_the_guest_counted_at_least_the_round_trips_that_are_told(watched):
    runs, _, turns = watched
    assert (runs["round_trips"] > 0).all() and runs["round_trips"].sum() <= turns
    assert (runs["round_trip_ns"] * runs["round_trips"] / runs["seconds"] / 1e9).sub(1).abs().max() < 1e-9
    assert (runs["seconds"] >= 0.05).all() and runs.attrs["accel"] in ("kvm", "tcg") and not runs.attrs["stopped"]


def test_on_one_cpu_one_of_them_always_waits_and_the_ball_is_slower(watched):
    runs, _, _ = watched
    alone = runs["cpu_a"] == runs["cpu_b"]
    assert (runs[alone]["waited_s"] > 0).all()
    assert set(runs[alone]["relation"]) == {"same CPU"}
    if len(CPUS) > 1:
        assert runs[alone]["waited_s"].median() > runs[~alone]["waited_s"].min()  # of the least disturbed
        assert runs[alone]["round_trip_ns"].median() > runs[~alone]["round_trip_ns"].min()


def test_afterwards_a_guest_that_was_given_has_its_pins_back_and_is_idle(here, player, watched):
    assert os.sched_getaffinity(player.process.vcpus[0]) == {CPUS[-1]}
    assert os.sched_getaffinity(player.process.vcpus[1]) >= set(CPUS)
    said = subprocess.run(["virsh", "-c", here.uri, "vcpupin", "hp-player"], capture_output=True, text=True, check=True).stdout.split()
    assert said[said.index("0") + 1] == str(CPUS[-1])
    assert [player.page.work(vcpu) for vcpu in (0, 1)] == ["idle", "idle"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cpus": "9999"}, "CPU 9999 is not among the online CPUs 0"),
        ({"cpus": [0, "1"]}, "CPU '1' is not among the online CPUs"),
        ({"cpus": [-1]}, "CPU -1 is not among"),
        ({"cpus": ""}, "name one or more of the online CPUs 0"),
        ({"cpus": "3-1"}, "'3-1' runs backwards"),
        ({"seconds": 0}, "seconds=0, repeats=5: write 0.001 to 60 seconds"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"repeats": 0}, "repeats=0: .* 1 to 10000 repeats"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_guest_starts(here, wrong, words):
    with pytest.raises(KvmlabError, match=words):
        measure.pingpong(here, **wrong)
    assert "ping-pong" not in guests_of_libvirt(here)


def test_a_guest_with_one_vcpu_or_of_another_lab_cannot_play(here, player, tcg_lab):
    with pytest.raises(KvmlabError, match="'hp-one' has no vCPU 1"):
        measure.pingpong(here, CPUS, guest=here.start("hp-one"))
    with pytest.raises(KvmlabError, match="was not started by this Lab"):
        measure.pingpong(tcg_lab, CPUS, guest=player)


def test_emulated_vcpus_play_too_and_the_frame_says_so(tcg_lab):
    runs = measure.pingpong(tcg_lab, CPUS[-1:], seconds=0.02, repeats=2)
    assert runs.attrs["accel"] == "tcg" and (runs["round_trips"] > 0).all()
    assert f"ping-pong-{os.getpid()}" not in guests_of_libvirt(tcg_lab)


def test_ctrl_c_keeps_what_was_measured_and_leaves_nothing_behind(here, capfd, monkeypatch):
    module, calls = sys.modules["kvmlab.measure.pingpong"], []

    def interrupted(*run, real=module._run):
        calls.append(run)
        if len(calls) == 4:  # a while later, in the midst of it: guests take their time to start
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        return real(*run)

    monkeypatch.setattr(module, "_run", interrupted)
    while here.undo():
        pass
    runs = measure.pingpong(here, CPUS, seconds=0.02, repeats=10_000)
    assert runs.attrs["stopped"] and 3 <= len(runs) < 1000 and len(runs) in (len(calls), len(calls) - 1)
    assert "what was measured until now is kept" in capfd.readouterr().err
    assert here.undo() == 0 and f"ping-pong-{os.getpid()}" not in guests_of_libvirt(here)


def test_a_guest_that_ends_meanwhile_is_an_error(here):
    guest = here.start("hp-gone", vcpus=2)
    timer = threading.Timer(0.3, lambda: os.kill(guest.process.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(KvmlabError, match="'hp-gone'"):
        measure.pingpong(here, CPUS, seconds=0.02, repeats=10_000, guest=guest)
