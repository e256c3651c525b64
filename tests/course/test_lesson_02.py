"""Exercises of 02: guests of a few bytes that do what they should not, and machines without KVM. The solutions do the rest."""

import os
import signal

import pytest

from kvmlab.course import check
from kvmlab.course.lesson_02 import run
from kvmlab.errors import CourseError
from kvmlab.host import kvmdev
from tests.conftest import need

HI = bytes.fromhex("b048 e6e9 f4")


@pytest.fixture
def kvm():
    if problem := kvmdev.probe().problem:
        need(f"no KVM: {problem}")


def test_exits_are_those_that_the_vm_of_the_lesson_has(kvm):
    seen = run(HI, "")
    assert [(one.reason, one.port, one.data) for one in seen] == [("IO", 0xE9, "48"), ("HLT", None, "")]
    assert [one.reason for one in kvmdev.exits(HI, ring=0)] == [one.reason for one in seen]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ebfe", "did not halt within"),  # jumps to itself
        ("0f0b", "SHUTDOWN"),  # ud2: nobody handles it
        ("e6e9 ebfc", "Its last exit is IO"),  # writes for ever
        ("90" * 5000, "room for 1 to 4096"),
    ],
)
def test_a_guest_that_never_halts_is_a_finding(kvm, code, words):
    verdict = check("02.1", bytes.fromhex(code))
    assert not verdict and words in str(verdict)


def test_the_keyboards_letter_reaches_a_guest_that_reads_two_bytes(kvm):
    assert run(bytes.fromhex("66e560 e6e9 f4"), "K")[1].data == "4b"


def test_without_kvm_the_exercises_say_that_they_need_it(monkeypatch):
    monkeypatch.setattr(kvmdev, "probe", lambda: kvmdev.Speed(problem="/dev/kvm: No such file or directory"))
    with pytest.raises(CourseError, match="KVM does not run guests here"):
        run(HI, "")
    for number in ("02.1", "02.2"):
        assert "/dev/kvm: No such file or directory). This exercise needs it" in str(check(number, HI))


def test_on_tcg_no_process_holds_a_vm_and_a_signal_stops_it_all_the_same(tcg_lab):
    c1 = tcg_lab.start("c1")
    assert "This exercise needs KVM" in str(check("02.3", c1.process.pid))
    assert not check("02.4")
    os.kill(c1.process.pid, signal.SIGSTOP)
    assert check("02.4")
    os.kill(c1.process.pid, signal.SIGCONT)
