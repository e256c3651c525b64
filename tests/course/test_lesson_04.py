"""Exercises of 04 whose answer is calculated. The others measure: notebooks/solutions."""

import pytest

from kvmlab.course import check
from kvmlab.course.lesson_04 import _length, as_measured


@pytest.mark.parametrize("answer", [[14.3, 28.6, 57.1], (14, 29, 57), ["14", "29", "57"]])
def test_who_is_left_gets_the_part_of_who_went(answer):
    assert check("04.3", answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([6.7, 13.3, 26.7], "7 % for weight 512 is too little"),  # as if the fourth were there
        ([57, 29, 14], "57 % for weight 512 is too much"),
        ([33, 33, 33], "33 % for weight 2048 is too little"),
        ([14, 29], "has 2 numbers, and there are three guests"),
        ([1 / 7, 2 / 7, 4 / 7], "are parts of one"),
        (["a", "b", "c"], "three percentages, such as [10, 20, 30]"),
        ([float("nan")] * 3, "nan % for weight 512"),
    ],
)
def test_other_parts_are_wrong(answer, words):
    verdict = check("04.3", answer)
    assert not verdict and words in str(verdict)


@pytest.mark.parametrize(("number", "answer"), [("04.1", 3), ("04.2", 99.9), ("04.5", 33)])
def test_what_is_measured_needs_a_lab(number, answer):
    verdict = check(number, answer)
    assert not verdict and "No Lab is open" in str(verdict)


@pytest.mark.parametrize(("number", "answer"), [("04.1", 2.5), ("04.1", 0), ("04.1", 99), ("04.2", 100), ("04.2", -1), ("04.2", "high")])
def test_an_answer_that_cannot_be_one_is_refused_before_anything_is_measured(number, answer):
    verdict = check(number, answer)
    assert not verdict and "No Lab" not in str(verdict) and str(answer) in str(verdict)


@pytest.mark.parametrize(
    ("given", "words"), [(33, "You said 33 %"), (50, "too much"), (3, "too little"), (0, "too little"), (0.33, "part of one")]
)
def test_a_guess_of_what_was_measured(given, words):
    finding = as_measured(given, 33.4)
    assert words in finding.seen and finding.ok == (given == 33)


def test_a_pause_that_is_let_pass_says_so():
    assert _length(0.0098) == "9.8 ms, about 10, for two runs differ by as much" and _length(0.004) == "4.0 ms"
