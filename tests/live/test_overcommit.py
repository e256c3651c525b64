"""Over-commit on real guests: what the model says is what they get, in ratios; shares and quotas; and nothing is left behind.

Whoever else is busy on these CPUs takes his part, so that what is asserted holds beside others too: how the guests divide what they
get among them, and that what they ran, waited and felt adds up. What they get of a whole CPU is asserted where it was theirs.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kvmlab import KvmlabError, Lab, measure
from kvmlab.host import cpulist
from tests.live.interfered import interfered

CPUS = sorted(os.sched_getaffinity(0))
CPU = str(CPUS[-1])
QUIET = 0.03
MEASURE = "kvmlab.measure.overcommit"


@pytest.fixture(scope="module")
def guest(here):
    return here.start("ob-given")


def virsh(lab, *words: str) -> str:
    return subprocess.run(["virsh", "-c", lab.uri, *words], capture_output=True, text=True, check=True).stdout


def left_behind(lab) -> bool:
    return "overcommit-" in virsh(lab, "list", "--all", "--name") or lab.undo() > 0


def privileged(lab) -> bool:
    return lab.uri.endswith("/system")


@pytest.fixture(scope="module")
def spinning(here):
    """One, two and four guests on one CPU; and what the kernel and libvirt said of them meanwhile, asked around each run."""
    said, module = [], sys.modules[MEASURE]

    def ran(guests) -> list[int]:
        stats = virsh(here, "domstats", "--vcpu", *(guest.name for guest in guests))
        return [int(ns) for ns in re.findall(r"vcpu\.0\.time=(\d+)", stats)]

    def beside(guests, *rest, real=module.run):
        places = [os.sched_getaffinity(guest.process.vcpus[0]) for guest in guests]
        emulators = [os.sched_getaffinity(tid) for guest in guests for tid in guest.process.look().emulator]
        begin, before = time.monotonic(), ran(guests)
        found = real(guests, *rest)
        after, end = ran(guests), time.monotonic()
        parts = [(later - earlier) / 1e9 / (end - begin) for earlier, later in zip(before, after, strict=True)]
        said.append((places, emulators, parts, [got.share for got in found.got]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run", beside)
        runs = measure.overcommit(here, (1, 2, 4), CPU, seconds=0.7, repeats=3)
    return runs, said


def medians(runs):
    return runs.groupby(["guests", "guest"]).median(numeric_only=True).astype(float)


def test_each_number_of_guests_has_a_row_a_repeat_and_guest_and_what_the_model_says(spinning):
    runs, _ = spinning
    names = [(count, f"overcommit-{n}") for count in (1, 2, 4) for n in range(1, count + 1)]
    found = runs.groupby(["guests", "guest"])["repeat"].agg(sorted)
    assert found.index.tolist() == names and set(map(tuple, found)) == {(0, 1, 2)}
    assert (runs["predicted"] * runs["guests"] == 1).all() and (runs["predicted"] + runs["predicted_waited"] == 1).all()
    assert runs.attrs["ended"] == {} and not runs.attrs["stopped"] and 0 < runs.attrs["sampler"] < 0.5
    assert set(runs.attrs["unavailable"]) == {"weight", "quota"}


def test_guests_that_are_alike_get_alike_and_wait_for_the_rest_of_the_time(spinning):
    runs, _ = spinning
    for count, rows in medians(runs).groupby("guests"):
        assert measure.jain(rows["share"]) > 0.98 and measure.jain(rows["turns_per_s"]) > 0.98, count
    unfinished = 2 * runs["longest_s"] / runs["seconds"]  # a wait is counted when it is over: one at each end of the run
    assert ((runs["share"] + runs["waited"] - 1).abs() < 0.03 + unfinished).all()
    assert runs["share"].max() < 1.02


def test_together_with_all_others_they_take_the_whole_cpu(spinning):
    runs, _ = spinning
    whole = runs.groupby(["guests", "repeat"]).agg({"share": "sum", "others": "first"}).sum(axis=1)
    assert abs(whole.median() - 1) < 0.05


def test_what_they_get_is_what_the_model_predicts_where_the_cpu_is_theirs(spinning):
    runs, _ = spinning
    theirs = medians(runs[runs["others"] < QUIET])
    assert ((theirs["share"] / theirs["predicted"] - 1).abs() < 0.1).all()
    assert ((theirs["turns_per_s"] / theirs["predicted_turns_per_s"] - 1).abs() < 0.2).all()


def test_a_guest_feels_its_wait_and_its_turns_lie_apart_accordingly(spinning):
    waiting = spinning[0].query("guests > 1")
    unfinished = waiting["longest_s"] / waiting["seconds"]
    assert ((waiting["felt"] - waiting["waited"]).abs() < 0.1 * waiting["waited"] + unfinished).all()
    assert (waiting["longest_s"] > 0.001).all() and (waiting["longest_s"] > 10 * waiting["p50_s"]).all()
    assert (waiting["p50_s"] <= waiting["p99_s"]).all() and (waiting["switches_per_s"] > 2).all()


def test_the_kernel_had_them_where_the_frame_says_and_libvirt_counted_the_same(spinning):
    runs, said = spinning
    online = set(cpulist.parse(Path("/sys/devices/system/cpu/online").read_text()))
    others = online - {int(CPU)} or online
    assert set(runs["cpus"]) == {CPU} and len(said) == 9
    for places, emulators, parts, shares in said:
        assert all(place == {int(CPU)} for place in places) and all(place <= others for place in emulators)
        assert max(abs(a - b) for a, b in zip(parts, shares, strict=True)) < 0.1  # virsh takes its time before and after


def test_nothing_of_it_is_left(here, spinning):
    assert not left_behind(here)


# ---- unequal parts


@pytest.fixture(scope="module")
def unequal(here):
    if not privileged(here):
        pytest.skip("shares and quotas take qemu:///system")
    return measure.overcommit(here, 4, CPU, seconds=1, repeats=2, weights=(512, 1024, 2048), quota=(None, None, None, 0.1))


def test_guests_get_parts_by_their_shares_and_no_more_than_their_quota(unequal):
    rows = medians(unequal).loc[4]
    assert rows["weight"].tolist() == [512, 1024, 2048, 1024] and rows["quota"].isna().tolist() == [True] * 3 + [False]
    assert rows["quota"].iloc[3] == 0.1 and rows["predicted"].round(4).tolist() == [0.1286, 0.2571, 0.5143, 0.1]
    assert rows["share"].iloc[3] < 0.11
    units = rows["share"].iloc[:3] / [512, 1024, 2048]
    assert units.max() / units.min() < 1.25


def test_somebody_who_may_not_tune_cpus_is_told_who_can_before_anything_is_measured(here):
    if privileged(here):
        pytest.skip("this is for qemu:///session")
    with pytest.raises(KvmlabError, match=r"not available in session mode; root can, .*qemu:///system"):
        measure.overcommit(here, 1, CPU, weights=(512,))
    assert here.schedinfo(here.start("ob-session").name).isna().loc[0].tolist() == [False, True, True, True]
    assert not left_behind(here)


def test_shares_are_what_virsh_and_the_kernel_say_and_are_taken_back(here, guest):
    if not privileged(here):
        pytest.skip("shares and quotas take qemu:///system")

    def said() -> dict[str, str]:
        lines = (line.split(":") for line in virsh(here, "schedinfo", guest.name).splitlines() if ":" in line)
        return {name.strip(): value.strip() for name, value in lines}

    before = said()
    row = here.schedinfo(guest.name, cpu_shares=300, vcpu_quota=20_000, vcpu_period=50_000).iloc[0]
    assert (row["cpu_shares"], row["quota"], row["period_s"]) == (300, 0.4, 0.05)
    assert (said()["cpu_shares"], said()["vcpu_quota"], said()["vcpu_period"]) == ("300", "20000", "50000")
    here.schedinfo(guest.name, vcpu_quota=-1)
    assert here.schedinfo(guest.name)["quota"].isna().all()
    assert here.undo() == 1 and said()["vcpu_quota"] == "20000"
    assert here.undo() == 1 and said() == before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cpu_shares": 10**9}, r"cpu_shares=1000000000 of 'ob-given'.* must be in range \[\d+, \d+\]"),
        ({"vcpu_quota": 999}, r"out of range \[1000, \d+\]"),
        ({"vcpu_period": 10}, r"out of range \[1000, 1000000\]"),
        ({"cpu_shares": 0}, "a whole number above 0"),
        ({"vcpu_quota": 0.1}, "vcpu_quota is a whole number"),
        ({"cpu_shares": True}, "a whole number"),
    ],
)
def test_shares_that_cannot_be_are_refused_and_nothing_changes(here, guest, wrong, words):
    if not privileged(here):
        words = "session mode|whole number"
    before = here.schedinfo(guest.name)
    with pytest.raises(KvmlabError, match=words):
        here.schedinfo(guest.name, **wrong)
    assert here.schedinfo(guest.name).equals(before) and here.undo() == 0


def test_the_shares_of_guests_that_are_only_watched_are_read_and_not_changed(here, guest):
    with Lab(here.uri) as other:
        assert other.schedinfo(guest.name).equals(here.schedinfo(guest.name))
        with pytest.raises(KvmlabError, match="only watches it"):
            other.schedinfo(guest.name, cpu_shares=500)
        with pytest.raises(KvmlabError, match="no running guest 'nobody'"):
            other.schedinfo("nobody")
    if privileged(here):
        with Lab(here.uri, allow_changes=True) as other:
            other.schedinfo(guest.name, cpu_shares=500)
            assert here.schedinfo(guest.name)["cpu_shares"].tolist() == [500]
        assert here.schedinfo(guest.name)["cpu_shares"].tolist() != [500]  # the end of the other Lab put it back


# ---- other works


def test_idle_guests_cost_nothing_and_the_model_knows(here):
    runs = measure.overcommit(here, 3, CPU, "idle", seconds=0.5, repeats=1)
    assert len(runs) == 3 and runs["share"].max() < 0.01 and (runs["predicted"] == 0).all()
    assert (runs["predicted_turns_per_s"] == 0).all()
    assert runs["felt"].isna().all() and "does not look at its clock" in runs.attrs["unavailable"]["felt"]


def test_emulated_guests_of_two_vcpus_on_all_cpus_share_them_too(tcg_lab):
    runs = measure.overcommit(tcg_lab, 2, cpulist.format(CPUS[:2]), seconds=0.5, repeats=1, vcpus=2)
    assert runs.attrs["accel"] == "tcg" and runs["vcpu"].tolist() == [0, 1, 0, 1]
    assert (runs["predicted"] == len(CPUS[:2]) / 4).all() and runs["felt"].notna().all()
    assert runs["share"].sum() + runs["others"].iloc[0] == pytest.approx(len(CPUS[:2]), rel=0.1)


def test_a_lock_collapses_where_vcpus_share_a_cpu(here):
    places = (cpulist.format(CPUS[:2]), CPU) if len(CPUS) > 1 else (CPU,)
    runs = measure.lock_collapse(here, (1, 2), places, seconds=0.4, repeats=2)
    assert len(runs) == 2 * len(places) * 2 and runs.attrs["accel"] == here.accel
    passes = runs.groupby(["cpus", "vcpus"])["passes_per_s"].max()
    assert passes[CPU, 1] > 20 * passes[CPU, 2]
    undisturbed = runs[(runs["cpus"] == places[0]) & (runs["vcpus"] == 2) & (runs["share"] > 1.95)]  # each had a CPU all the while
    assert (undisturbed["passes_per_s"] > 5 * passes[CPU, 2]).all()
    shared = runs.query("cpus == @CPU and vcpus == 2")
    assert (shared["share"] <= 1.02).all() and (shared["waited"] > 0.4).all()  # one of the two always waits
    assert "lock-collapse" not in virsh(here, "list", "--all", "--name") and here.undo() == 0


# ---- what can go wrong


def test_more_guests_than_fit_into_memory_are_refused_after_the_first(here):
    with pytest.raises(KvmlabError, match=r"1000000 guests need [\d.]+ GiB of memory, \d+ MiB each .* ask for up to \d+\."):
        measure.overcommit(here, (1, 1_000_000), CPU)
    assert not left_behind(here)


@pytest.mark.parametrize(
    "wrong", [{"work": "sing"}, {"work": "duty", "parameter": 100}, {"vcpus": 0}, {"work": "spin", "parameter": 3}, {"work": "stop"}]
)
def test_a_work_that_cannot_be_is_refused_before_anything_is_measured(here, wrong, monkeypatch):
    monkeypatch.setattr(sys.modules[MEASURE], "run", None)
    with pytest.raises(KvmlabError):
        measure.overcommit(here, 2, CPU, **wrong)
    assert not left_behind(here)


def test_a_guest_that_ends_in_a_run_has_no_more_rows_and_the_others_go_on(here, monkeypatch):
    interfered(monkeypatch, MEASURE, 3, lambda guests: os.kill(guests[0].process.pid, signal.SIGKILL))
    runs = measure.overcommit(here, (1, 2), CPU, seconds=0.3, repeats=3)
    assert list(runs.attrs["ended"]) == ["overcommit-1"] and "while " in runs.attrs["ended"]["overcommit-1"]
    first = runs[runs["guest"] == "overcommit-1"].index.max()
    assert set(runs.loc[first + 2 :, "guest"]) == {"overcommit-2"} and len(runs) >= 6
    assert not runs.duplicated(["guests", "repeat", "guest"]).any()
    assert (runs.groupby(["guests", "repeat"]).size() == runs.groupby(["guests", "repeat"])["guests"].first()).all()
    assert not left_behind(here)


def test_ctrl_c_keeps_what_was_measured_and_leaves_nothing_behind(here, capfd, monkeypatch):
    interfered(monkeypatch, MEASURE, 3, lambda guests: os.kill(os.getpid(), signal.SIGINT))
    runs = measure.overcommit(here, 2, CPU, seconds=0.3, repeats=1000)
    assert runs.attrs["stopped"] and len(runs) == 2 and runs["predicted_turns_per_s"].notna().all()
    assert re.findall("Stopped.*", capfd.readouterr().err) == ["Stopped: what was measured until now is kept."]
    assert not left_behind(here)


def test_ctrl_c_while_guests_start_leaves_nothing_behind(here):
    threading.Timer(0.8, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    runs = measure.overcommit(here, 40, CPU)
    assert runs.attrs["stopped"] and runs.empty
    assert not left_behind(here)


def test_a_name_that_is_taken_is_an_error_and_its_guest_stays(here):
    mine = here.start("overcommit-2")
    with pytest.raises(KvmlabError, match="'overcommit-2' is taken"):
        measure.overcommit(here, 2, CPU)
    mine.check()
    mine.destroy()
    assert not left_behind(here)
