"""Plans in turns on real guests: each run was where the kernel says, nothing is left behind, and what goes wrong is told."""

import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest

from kvmlab import KvmlabError, Lab, measure, plots
from kvmlab.errors import PlanError
from kvmlab.host import cpulist
from tests.live.interfered import interfered

CPUS = sorted(os.sched_getaffinity(0))
A, B = str(CPUS[0]), str(CPUS[-1])
MEASURE = "kvmlab.measure.placement"
STACKED = {("hp-1", 0): A, ("hp-1", 1): A}


@pytest.fixture(scope="module")
def guest(here):
    guest = here.start("hp-1", vcpus=2)
    guest.work("spin")
    return guest


def affinities(lab) -> dict[int, set[int]]:
    found = [process for process in lab.processes() if process.guest.startswith("hp-")]
    return {tid: os.sched_getaffinity(tid) for process in found for tid in (*process.vcpus.values(), *process.emulator)}


def migrations(guest) -> list[int]:
    texts = [Path(f"/proc/{guest.process.pid}/task/{guest.process.vcpus[vcpu]}/sched").read_text() for vcpu in (0, 1)]
    return [int(re.search(r"nr_migrations\s*:\s*(\d+)", text)[1]) for text in texts]


@pytest.fixture(scope="module")
def measured(here, guest):
    """A vCPU is pinned, then three plans; and where the kernel had everything in each run, and how often it moved the vCPUs."""
    said, module = [], sys.modules[MEASURE]
    here.plan({("hp-1", 1): B}).apply()
    before = affinities(here)

    def beside(guests, cpus, seconds, real=module.run):
        begin = migrations(guest)
        found = real(guests, cpus, seconds)
        process = guest.process.look()
        places = [os.sched_getaffinity(process.vcpus[vcpu]) for vcpu in (0, 1)]
        said.append((places, os.sched_getaffinity(process.pid), cpus, [b - a for a, b in zip(begin, migrations(guest), strict=True)]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run", beside)
        plan = here.plan(STACKED | {("hp-1", "emulator"): B})
        runs = measure.placement(here, {"as it is": {}, "stacked": STACKED, "beside": plan}, seconds=0.4, repeats=2)
    return runs, said, before, affinities(here)


def test_each_run_was_where_its_plan_says_and_afterwards_all_is_as_before(here, guest, measured):
    runs, said, before, after = measured
    names = runs.drop_duplicates(["plan", "repeat"])["plan"].tolist()
    assert sorted(names[:3]) == sorted(names[3:]) == ["as it is", "beside", "stacked"] and len(runs) == 12
    everywhere = before[guest.process.vcpus[0]]
    wanted = {"as it is": [everywhere, {int(B)}], "stacked": [{int(A)}] * 2, "beside": [{int(A)}] * 2}
    for name, (places, emulator, cpus, _) in zip(names, said, strict=True):
        assert places == wanted[name] and set(cpus) == set().union(*places)
        assert emulator == ({int(B)} if name == "beside" else before[guest.process.pid])
        rows = runs[runs["plan"] == name]
        assert set(rows["cpus"]) == {cpulist.format(place) for place in places}
    assert before == after and here.undoable == 1
    assert set(here.vcpus().query("guest == 'hp-1'")["work"]) == {"spin"}


def test_vcpus_on_one_cpu_have_it_in_turns_and_wait_for_the_rest(measured):
    runs, said, _, _ = measured
    stacked = runs[runs["plan"] != "as it is"]
    assert (stacked.groupby(["plan", "repeat"])["share"].sum() < 1.05).all() and (stacked["waited"] > 0.3).all()
    assert (stacked["longest_s"] > 0.001).all() and (stacked["longest_s"] >= stacked["p99_s"]).all()
    moved = [moves for *_, each in said for moves in each]
    assert ((runs["migrations_per_s"] * runs["seconds"]).round().to_numpy(int) <= moved).all()  # the test looks earlier and later
    assert (runs["turns_per_s"] > 0).all() and set(runs["work"]) == {"spin"} and runs["others"].notna().all()
    assert runs.attrs["plans"] == ["as it is", "stacked", "beside"] and runs.attrs["ended"] == {} and not runs.attrs["stopped"]
    assert 0 < runs.attrs["sampler"] < 0.5 and runs.attrs["unavailable"] == {}


def test_the_picture_and_the_words_take_it(measured):
    runs = measured[0]
    assert len(plots.plans(runs)) == 4 and [line.split(":")[0] for line in plots.plans_in_words(runs).splitlines() if line[0] != " "] == [
        "as it is",
        "stacked",
        "beside",
    ]


# ---- what can go wrong


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({("hp-1", 0): "9999"}, r"Plan 'wrong': .*9999.* online CPUs"),
        ({("hp-1", 2): A}, r"Plan 'wrong': .*no vCPU 2"),
        ({("nobody", 0): A}, r"Plan 'wrong': .*no running guest 'nobody'"),
        ({("hp-other", 0): A}, r"Plan 'wrong': 'hp-other' was not started by this Lab"),
        ([("hp-1", 0)], r"Plan 'wrong' is \[\('hp-1', 0\)\]"),
    ],
)
def test_a_plan_that_cannot_be_is_named_before_anything_is_measured(here, guest, wrong, words, monkeypatch):
    monkeypatch.setattr(sys.modules[MEASURE], "run", None)
    before, steps = affinities(here), here.undoable
    with Lab(here.uri) as other:
        if "hp-other" in str(wrong):
            other.start("hp-other")
        with pytest.raises(KvmlabError, match=words):
            measure.placement(here, {"stacked": STACKED, "wrong": wrong})
    assert affinities(here) == before and here.undoable == steps


def test_an_error_of_a_plan_is_of_the_kind_that_the_plan_itself_would_raise(here, guest):
    with pytest.raises(PlanError):
        measure.placement(here, {"wrong": {("hp-1", 0): ""}})


def test_a_guest_that_ends_in_a_run_has_no_more_rows_and_the_others_go_on(here, guest, monkeypatch):
    doomed = here.start("hp-2")
    doomed.work("spin")
    before, steps = affinities(here), here.undoable
    interfered(monkeypatch, MEASURE, 3, lambda guests: os.kill(doomed.process.pid, signal.SIGKILL))
    plans = {"float": {}, "stacked": STACKED | {("hp-2", 0): A}}
    runs = measure.placement(here, plans, seconds=0.3, repeats=3)
    assert list(runs.attrs["ended"]) == ["hp-2"] and re.fullmatch(r"under '(float|stacked)', repeat 1", runs.attrs["ended"]["hp-2"])
    assert runs["guest"].tolist() == ["hp-1", "hp-1", "hp-2"] * 2 + ["hp-1"] * 8
    assert set(runs[runs["plan"] == "stacked"]["cpus"]) == {A}
    left = affinities(here)
    assert left == {tid: cpus for tid, cpus in before.items() if tid in left} and here.undoable == steps
    doomed.destroy()


@pytest.mark.parametrize("late", [False, True])
def test_ctrl_c_keeps_the_whole_runs_and_puts_the_pins_back(here, guest, capfd, monkeypatch, late):
    before, steps = affinities(here), here.undoable
    if late:  # in a run, and else while the plan settles
        interfered(monkeypatch, MEASURE, 3, lambda guests: os.kill(os.getpid(), signal.SIGINT))
    else:
        interfered(monkeypatch, MEASURE, 2, lambda guests: threading.Timer(0.28, os.kill, (os.getpid(), signal.SIGINT)).start())
    runs = measure.placement(here, {"stacked": STACKED, "apart": {("hp-1", 0): A, ("hp-1", 1): B}}, seconds=0.3, repeats=1000)
    assert runs.attrs["stopped"] and len(runs) == 4 and "what was measured until now is kept" in capfd.readouterr().err
    assert affinities(here) == before and here.undoable == steps
