"""Exercises of 05 about models and hosts that need no guest. The others: notebooks/solutions."""

import pytest

from kvmlab.course import check


@pytest.fixture(autouse=True)
def libvirts_lists(live):
    """Models are known from libvirt's files."""


def test_who_has_no_avx2_has_to_go_and_nobody_else():
    verdict = check("05.2", ["Nehalem", "Westmere", "SandyBridge"])
    assert verdict and "the baseline is Haswell" in str(verdict)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (["Nehalem"], "without avx2"),
        ("Nehalem", "without avx2"),
        (["Nehalem", "Westmere", "SandyBridge", "Haswell"], "Haswell could have stayed"),
        (["Nehalem", "Westmere", "SandyBridge", "Haswell", "Skylake-Server"], "No host would be left"),
        (["EPYC"], "none of the five Intel hosts"),
        (7, "names of hosts"),
    ],
)
def test_other_hosts_are_wrong(answer, words):
    verdict = check("05.2", answer)
    assert not verdict and words in str(verdict)


def test_the_richest_model_that_starts_everywhere_is_one_and_its_like_are_told_why_not():
    verdicts = {model: check("05.4", model) for model in ("qemu64", "kvm64", "Conroe", "Penryn", "Nehalem", "Haswell")}
    right = [model for model, verdict in verdicts.items() if verdict]
    assert len(right) == 1
    assert "does not start on" in str(verdicts["Haswell"]) and "which lacks" in str(verdicts["Haswell"])


@pytest.mark.parametrize("answer", ["Pentium9", 5, ["kvm64"]])
def test_what_is_no_model_of_the_lesson_is_refused(answer):
    verdict = check("05.4", answer)
    assert not verdict and "none of the sixteen models" in str(verdict)


@pytest.mark.parametrize(
    ("number", "words"), [("05.1", "None was asked to be a Westmere"), ("05.3", "No guest has four"), ("05.5", "No guest of yours runs")]
)
def test_without_a_guest_the_checker_says_what_is_missing(number, words):
    verdict = check(number)
    assert not verdict and words in str(verdict)
