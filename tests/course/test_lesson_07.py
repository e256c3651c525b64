"""Exercise 07.6 on the recorded host, and 07.5 where there is one CPU (played). The others: notebooks/solutions."""

import os

import pytest

from kvmlab.course import check, look

HOST = look.recorded(look.PARK)


def cores():
    cpus = HOST.cpus().query("online")
    return [sorted(map(int, found)) for found in cpus.groupby(["socket", "die", "core"]).cpu.agg(list)]


PAIR = next(core for core in cores() if len(core) == 2)
OTHER = next(core for core in cores() if len(core) == 2 and core != PAIR)


def plan(first, second, emulator):
    return {("c1", 0): str(first), ("c1", 1): str(second), ("c1", "emulator"): str(emulator)}


def test_siblings_of_the_recorded_host_are_right_in_either_order():
    assert check("07.6", plan(*PAIR, OTHER[0])) and check("07.6", plan(*reversed(PAIR), f"{OTHER[0]},{OTHER[1]}"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (plan(PAIR[0], OTHER[0], OTHER[1]), "are not the two SMT threads of one core"),
        (plan(PAIR[0], PAIR[0], OTHER[0]), "are not the two SMT threads of one core"),
        (plan(*PAIR, PAIR[0]), "c1's emulator may use"),
        (plan(f"{PAIR[0]},{PAIR[1]}", PAIR[1], OTHER[0]), "give it one of them"),
        (plan(99, PAIR[1], OTHER[0]), "is not among the online CPUs"),
        ({("c1", 0): str(PAIR[0])}, "The plan has no line for c1 vCPU 1, c1 emulator"),
        ({}, "is no plan"),
        ("there", "is no plan"),
    ],
)
def test_other_plans_are_wrong(answer, words):
    verdict = check("07.6", answer)
    assert not verdict and words in str(verdict)


def test_on_one_cpu_a_plan_for_the_recorded_host_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    a, b = PAIR
    assert "has one CPU only" in str(check("07.5", 4711))
    assert check("07.5", {"pid 4711": str(a), ("c1", 0): str(b)})
    assert not check("07.5", {"pid 4711": f"{a},{b}", ("c1", 0): str(b)})
    assert "no line for a process" in str(check("07.5", {("c1", 0): str(b)}))


@pytest.mark.parametrize("number", ["07.1", "07.2", "07.7"])
def test_without_guests_the_checker_says_so(number):
    assert "No guest 'c1' of yours runs" in str(check(number))
