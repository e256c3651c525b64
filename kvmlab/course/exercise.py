"""What an exercise is: a number, a sentence, hints in steps, and a function that looks whether it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvmlab.course.labs import Labs


class Finding(NamedTuple):
    """One thing that was looked at: whether it is as it should be, and what was seen, as a sentence."""

    ok: bool
    seen: str


Checker = Callable[[Labs, Any], Iterator[Finding]]


@dataclass(frozen=True)
class Exercise:
    number: str
    title: str
    hints: tuple[str, ...]
    wants: str | None  # what the answer is, such as "a number of guests"; None where the machine's state is the answer
    checker: Checker


EXERCISES: dict[str, Exercise] = {}


def exercise(number: str, title: str, hints: tuple[str, ...], wants: str | None = None) -> Callable[[Checker], Checker]:
    """Make the decorated function the checker of this exercise."""

    def register(checker: Checker) -> Checker:
        EXERCISES[number] = Exercise(number, title, hints, wants, checker)
        return checker

    return register
