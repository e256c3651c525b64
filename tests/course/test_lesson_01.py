"""Exercises of 01 where there is no KVM: what can be done is, and what cannot says so. The solutions do the rest."""

from kvmlab.course import check
from kvmlab.course.lesson_01 import in_words


def test_on_tcg_everything_that_runs_is_user_mode_and_kernel_mode_needs_kvm(tcg_lab):
    c1 = tcg_lab.start("c1")
    assert "ran too little" in str(check("01.1"))
    c1.work("spin")
    assert check("01.1")
    for number in ("01.2", "01.3"):
        assert "This exercise needs KVM" in str(check(number))


def test_shares_are_said_in_percent():
    assert in_words({"user": 0.125, "kernel": 0.875}) == "Of the time that c1 ran, 12 % were in user mode, 88 % were in kernel mode"
    assert "too little" in in_words({})
