"""Exercises of 06 about patterns, processes and the model. The isolated guest: notebooks/solutions."""

import os
import subprocess

import pytest

from kvmlab.course import check, lesson_06


@pytest.fixture
def busy():
    process = subprocess.Popen(["sh", "-c", "ulimit -t 30; while :; do :; done"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("pattern", ["^ *1$", "^  1$", "^[[:space:]]*1$"])
def test_a_pattern_that_takes_the_whole_line_is_right(pattern):
    assert check("06.1", pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("1", "It also keeps"),
        (" 1", "It also keeps"),
        ("^1$", "It keeps 0 of"),
        ("", "It also keeps"),
        ("[", "grep says"),
        (1, "a pattern for grep"),
    ],
)
def test_other_patterns_are_wrong(pattern, words):
    verdict = check("06.1", pattern)
    assert not verdict and words in str(verdict)


def test_a_busy_process_counts_once_it_is_bound(busy):
    if len(os.sched_getaffinity(0)) > 1:
        assert not check("06.2", busy)
    os.sched_setaffinity(busy, {max(os.sched_getaffinity(0))})
    verdict = check("06.2", busy)
    assert verdict and "only" in str(verdict)


@pytest.mark.parametrize(("pid", "words"), [(os.getpid(), "this Python itself"), (2**22 + 1, "no process"), ("x", "number of a process")])
def test_another_process_does_not_count(pid, words):
    verdict = check("06.2", pid)
    assert not verdict and words in str(verdict)


def test_one_alone_while_others_share_by_the_model():
    assert check("06.3", [(3, 2), (4, 3)])


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        ([(3, 2)], "1 different way"),
        ([(3, 2), (3, 2)], "1 different way"),
        ([(3, 2), (2, 1)], "2 processes, 1 of them pinned"),
        ([(7, 6), (3, 2)], "the slider has"),
        ([(2, 3), (3, 2)], "the slider has"),
        (5, "two pairs"),
    ],
)
def test_other_ways_are_wrong(ways, words):
    verdict = check("06.3", ways)
    assert not verdict and words in str(verdict)


def test_the_rule_is_what_the_kernel_was_seen_to_do(monkeypatch):
    """Where no Linux guest can be booted (played: none can), the rule stands in; the solutions boot one."""

    def cannot():
        raise lesson_06.KvmlabError("no guest")

    monkeypatch.setattr(lesson_06, "_boot", cannot)
    lesson_06._isolated_loops.cache_clear()
    try:
        assert check("06.4", (4, 25)) and not check("06.4", (4, 50)) and not check("06.4", (6, 25))
        assert "no Linux guest could be booted" in str(check("06.4", (4, 25)))
    finally:
        lesson_06._isolated_loops.cache_clear()


def test_a_thread_that_ended_is_no_answer():
    assert "There is no thread" in str(check("06.5", 2**22 + 1))
