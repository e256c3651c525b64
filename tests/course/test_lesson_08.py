"""Exercises of lesson 08 that need no guest, and the mess where there is none. The others: notebooks/solutions."""

import os
from types import SimpleNamespace

import pytest

from kvmlab import KvmlabError, columns
from kvmlab.course import check, mess


def comparison(*rows):
    """Rows of a comparison: what, column, A, B, and whether it differs."""
    full = [("04_placed", what, column, a, None, None, b, None, None, differs, "") for what, column, a, b, differs in rows]
    return SimpleNamespace(frame=columns.frame(full, "compared_reports"))


MOVED = ("guest c1, vcpu 0", "allowed_cpus", "1", "0", True)
RAN = ("guest c1, vcpu 0", "run_pct", "33", "70", False)


def test_the_proof_shows_a_place_that_was_changed_and_what_it_was_worth():
    verdict = check("08.5", comparison(MOVED, RAN))
    assert verdict and "from CPU 1 to 0" in str(verdict) and "from 33 to 70 %, within the noise that there was" in str(verdict)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([RAN], "No place of c1 differs"),
        ([MOVED], "was not measured in both"),
        ([("guest c11, vcpu 0", *MOVED[1:]), ("guest c11, vcpu 0", *RAN[1:])], "No place of c1 differs"),
        ([(*MOVED[:3], "1", False), RAN], "No place of c1 differs"),
    ],
)
def test_a_proof_of_something_else_is_none(rows, words):
    verdict = check("08.5", comparison(*rows))
    assert not verdict and words in str(verdict)


@pytest.mark.parametrize("wrong", [7, "compared", SimpleNamespace(frame=3)])
def test_what_is_no_comparison_is_refused(wrong):
    verdict = check("08.5", wrong)
    assert not verdict and "is what report.compare returns" in str(verdict)


@pytest.mark.parametrize(("number", "answer"), [("08.2", os.getpid()), ("08.3", None)])
def test_where_no_mess_was_made_the_checker_says_so(number, answer):
    verdict = check(number, answer)
    assert not verdict and "run mess = noisy_host(lab)" in str(verdict)


def test_on_one_cpu_nothing_can_be_placed_badly(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    with pytest.raises(KvmlabError, match="There is CPU 3 only"):
        mess.noisy_host(None)
