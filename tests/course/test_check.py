"""check: what it sees, what it makes of odd answers, how hints come; and Labs, through which checkers see guests."""

import math
import re
import subprocess
import sys
import threading

import pandas as pd
import pytest

from kvmlab import TwoHosts
from kvmlab.course import check, record
from kvmlab.course.check import exercises
from kvmlab.course.exercise import EXERCISES, Exercise, Finding
from kvmlab.course.labs import Labs
from kvmlab.errors import CourseError, GuestError
from tests.conftest import REPOSITORY


@pytest.fixture
def register(monkeypatch):
    """An exercise 99.1 for one test, with the given checker."""
    exercises()

    def make(checker, wants=None, hints=("first", "second")):
        monkeypatch.setitem(EXERCISES, "99.1", Exercise("99.1", "A *test*", hints, wants, checker))

    return make


def fails(labs, answer):
    yield Finding(False, "no")


# ---- the exercises there are


def test_every_exercise_has_a_title_and_hints_and_its_number_is_its_lessons():
    assert len(exercises()) > 20
    for number, found in exercises().items():
        assert re.fullmatch(r"\d\d\.[1-9]", number) and found.number == number
        assert found.title and not found.title.endswith(".")
        assert found.hints and all(20 < len(hint) < 300 for hint in found.hints), number
        assert found.checker.__module__ == f"kvmlab.course.lesson_{number[:2]}"


def test_every_exercise_is_asked_in_its_notebook():
    for number in exercises():
        (notebook,) = (REPOSITORY / "notebooks").glob(f"{number[:2]}_*.ipynb")
        text = notebook.read_text()
        assert f"**Exercise {number}**" in text and f'check(\\"{number}\\"' in text, f"{number} is not in {notebook.name}"


def test_the_course_is_there_without_libvirt_and_without_pictures():
    code = "import sys; sys.modules.update(dict.fromkeys(['libvirt', 'matplotlib', 'ipywidgets']))\n"
    code += "from kvmlab.course import check, progress; print(check('00.1', 5)); print(len(progress()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 0, run.stderr
    assert "There is no open Lab." in run.stdout


@pytest.mark.parametrize("number", ["7.2", "00.99", "", "x" * 5000, None, 7.2, [], 10**5000], ids=range(8))
def test_an_exercise_that_there_is_not_names_the_nearest(number):
    with pytest.raises(CourseError, match=r"There is no exercise .*There (is|are) 0") as error:
        check(number)
    assert len(str(error.value)) < 700


def test_a_number_without_its_zero_finds_the_one_that_was_meant():
    with pytest.raises(CourseError, match=r"There (is|are) .*07\.2"):
        check("7.2")


# ---- what a verdict says


def test_a_verdict_is_true_only_when_all_that_was_seen_is_right(register):
    register(lambda labs, answer: iter([Finding(True, "one"), Finding(False, "two")]))
    assert not check("99.1")
    register(lambda labs, answer: iter([Finding(True, "one"), Finding(True, "two")]))
    assert check("99.1")
    register(lambda labs, answer: iter([]))
    assert not check("99.1")


def test_hints_come_one_more_with_every_failed_try_and_begin_anew_after_a_success(register):
    register(fails)
    assert [len(check("99.1").hints) for _ in range(4)] == [1, 2, 2, 2]
    register(lambda labs, answer: iter([Finding(True, "yes")]))
    assert check("99.1").hints == ()
    register(fails)
    text = str(check("99.1"))
    assert "Hint 1 of 2: first" in text and "second" not in text


def test_an_answer_that_is_still_none_is_no_try(register):
    register(fails, wants="a number")
    verdict = check("99.1", None)
    assert not verdict and str(verdict) == "99.1 A *test*: not tried yet. It wants a number."
    assert not record.path().exists()
    assert len(check("99.1", 1).hints) == 1


def test_what_markdown_would_take_for_its_own_is_shown_as_it_is(register):
    register(lambda labs, answer: iter([Finding(False, "a_b_c *x* <b> [1](2)")]))
    text = check("99.1")._repr_markdown_()
    assert r"a\_b\_c \*x\* \<b\> \[1\](2)" in text and r"A \*test\*" in text
    assert "\n\n✗ " in text and "  \n\n> *Hint 1 of 2*: first" in text  # blank lines, or they are one paragraph


# ---- odd answers, and what goes wrong meanwhile

ODD = [
    "x",
    "",
    "½",
    math.nan,
    math.inf,
    -1,
    0,
    10**5000,
    10**18,
    [],
    {},
    object(),
    pd.NA,
    pd.DataFrame({"a": [1]}),
    b"\0",
    "a\0b",
    True,
    ...,
    check,
]


@pytest.mark.parametrize("number", sorted(n for n, e in exercises().items() if e.wants and n[:2] in ("00", "01", "02", "03")))
def test_odd_answers_are_wrong_in_words(number):
    for odd in ODD:
        verdict = check(number, odd)
        assert not verdict, odd
        assert len(str(verdict)) < 1500 and "Traceback" not in str(verdict)


def test_an_answer_where_none_is_wanted_is_not_passed_over_in_silence(register):
    register(lambda labs, answer: iter([Finding(True, "yes")]))
    assert "takes no answer" in str(check("99.1", 5))


def test_what_goes_wrong_in_a_checker_is_said_beside_what_was_seen(register):
    def checker(labs, answer):
        yield Finding(True, "seen before")
        raise FileNotFoundError("/proc/5/stat")

    register(checker)
    assert re.search(r"✓ seen before\n  ✗ The look broke off \(FileNotFoundError: /proc/5/stat\)", str(check("99.1")))


def test_an_answer_that_cannot_be_shown_is_named_by_its_type(register):
    class Odd:
        def __repr__(self):
            raise RuntimeError

    def checker(labs, answer):
        yield Finding(int(answer) == 1, "")

    register(checker, wants="a number")
    assert "is not a number." in str(check("99.1", Odd()))
    register(lambda labs, answer: iter([Finding(f"{answer}" == "1", "")]), wants="a number")
    assert "<int> is not a number." in str(check("99.1", 10**5000))


# ---- the Labs of this process


def test_guests_are_found_in_whichever_lab_has_them(lab, tcg_lab):
    mine, theirs = lab.start("co-mine"), tcg_lab.start("co-soft", vcpus=2)
    labs = Labs()
    assert labs.guest("co-mine") is mine and labs.guest("co-soft") is theirs and labs.lab("co-soft") is tcg_lab
    assert labs.vcpus("co-soft", "co-mine").guest.tolist() == ["co-soft", "co-soft", "co-mine"]
    with pytest.raises(GuestError, match=r"No guest 'co-none' of yours runs\. These do: co-mine, co-soft"):
        labs.guest("co-none")
    theirs.destroy()
    with pytest.raises(GuestError, match=r"No guest 'co-soft' of yours runs\. These do: co-mine"):
        Labs().guest("co-soft")
    lab.close()
    assert lab not in Labs().open
    with pytest.raises(GuestError, match=r"No guest 'co-mine'"):
        Labs().guest("co-mine")


def test_a_guest_that_goes_while_it_is_looked_at_is_a_finding(lab, register):
    guest = lab.start("co-gone")
    going = threading.Event()

    def checker(labs, answer):
        yield Finding(labs.guest("co-gone").vcpus == 1, "it is there")
        lab.domain("co-gone").destroy()  # by libvirt: the Lab is not asked
        going.set()
        yield Finding(len(labs.vcpus("co-gone")) == 1, "still there")

    register(checker)
    verdict = check("99.1")
    assert not verdict and going.is_set() and not guest.process.alive()
    assert "✓ it is there\n  ✗ 'co-gone' is gone" in str(verdict)


def test_of_two_guests_with_one_name_the_lab_that_was_opened_last_has_the_one_that_is_meant(live):
    with TwoHosts() as pair:
        first, last = sorted(pair, key=Labs().open.index)  # they are opened side by side, and either may be ready first
        last.start("co-twin", vcpus=1)
        first.start("co-twin", vcpus=2)
        assert Labs().guest("co-twin").vcpus == 1
        last.close()
        assert Labs().guest("co-twin").vcpus == 2
