"""check: is an exercise done? It says what it saw, what is missing, and, a try at a time, a hint."""

from __future__ import annotations

import difflib
import reprlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from kvmlab.course import record
from kvmlab.course.exercise import EXERCISES, Exercise, Finding
from kvmlab.course.labs import Labs
from kvmlab.errors import CourseError, KvmlabError


@dataclass(frozen=True)
class Verdict:
    """What ``check`` found. It is true when the exercise is done, and shows itself in words."""

    exercise: Exercise
    findings: tuple[Finding, ...]
    hints: tuple[str, ...] = ()  # those that were earned so far, a failed try each

    def __bool__(self) -> bool:
        return bool(self.findings) and all(finding.ok for finding in self.findings)

    def __repr__(self) -> str:
        return "\n".join([self._headline(), *(f"  {mark} {words}" for mark, words in self._seen()), *self._hints()])

    def _repr_markdown_(self) -> str:
        """The same for a notebook: paragraphs and a quotation, which light and dark themes both know how to draw."""
        seen = "".join(f"{mark} {_escaped(words)}  \n" for mark, words in self._seen())  # two spaces: a line of its own
        hints = "".join(f"> *{head}*: {_escaped(words)}\n>\n" for head, _, words in (hint.partition(": ") for hint in self._hints()))
        return "\n".join(part for part in (f"**{_escaped(self._headline())}**\n", seen, hints) if part)

    def _headline(self) -> str:
        state = "done" if self else "not yet" if self.findings else f"not tried yet. It wants {self.exercise.wants}"
        return f"{self.exercise.number} {self.exercise.title}: {state}."

    def _seen(self) -> list[tuple[str, str]]:
        return [("✓" if finding.ok else "✗", finding.seen) for finding in self.findings]

    def _hints(self) -> list[str]:
        return [f"Hint {n} of {len(self.exercise.hints)}: {hint}" for n, hint in enumerate(self.hints, start=1)]


def check(exercise: str, answer: object = None) -> Verdict:
    """Look whether an exercise of the course is done: at the kernel, libvirt and the frames, never at what was typed.

    Parameters
    ----------
    exercise : str
        Its number, such as "07.1".
    answer : optional
        What the exercise asks for, where it asks for something; None: not tried yet.

    Returns
    -------
    Verdict
        True when done. It says what was seen and what is missing; each try that fails shows one hint more.
        Without an answer where one is wanted it is "not tried yet", which is no try.

    Raises
    ------
    CourseError
        For an exercise that there is not.

    Examples
    --------
    >>> from kvmlab.course import check
    >>> check("00.1")
    00.1 The thread of c1's vCPU 1: not tried yet. It wants a thread's number (tid).
    """
    found = _find(exercise)
    if found.wants and answer is None:
        return Verdict(found, ())
    findings = tuple(_look(found, answer))
    tries = record.note(found.number, bool(Verdict(found, findings)))
    return Verdict(found, findings, found.hints[:tries])


def exercises() -> dict[str, Exercise]:
    """Every exercise of the course by its number, in order."""
    for path in sorted(Path(__file__).parent.glob("lesson_*.py")):
        import_module(f"kvmlab.course.{path.stem}")
    return dict(sorted(EXERCISES.items()))


def _find(number: str) -> Exercise:
    known = exercises()
    if isinstance(number, str) and number in known:
        return known[number]
    near = difflib.get_close_matches(_short(number).strip("'"), known, n=3) or list(known)
    raise CourseError(f"There is no exercise {_short(number)}. There {'is' if len(near) == 1 else 'are'} {', '.join(near)}.")


def _look(exercise: Exercise, answer: object) -> list[Finding]:
    """What the checker finds; what it stumbles over is a finding too: the reader did nothing that deserves a traceback."""
    if exercise.wants is None and answer is not None:
        return [Finding(False, f"It looks at the machine, and takes no answer: check({exercise.number!r}).")]
    findings: list[Finding] = []
    try:
        for finding in exercise.checker(Labs(), answer):
            findings.append(finding)  # one by one: what was seen before an error stays
    except KvmlabError as error:
        findings.append(Finding(False, str(error)))
    except Exception as error:
        odd = isinstance(error, TypeError | ValueError | AttributeError | LookupError | ArithmeticError)
        gone = f"The look broke off ({type(error).__name__}: {error}). If a guest has just ended, start it again."
        findings.append(Finding(False, f"{_short(answer)} is not {exercise.wants}." if exercise.wants and odd else gone))
    return findings or [Finding(False, "There was nothing to look at.")]


def _short(value: object) -> str:
    """What somebody wrote, in words: not all of a frame, nor the million digits of a number."""
    try:
        return " ".join(reprlib.repr(value).split())
    except Exception:
        return f"<{type(value).__name__}>"


def _escaped(words: str) -> str:
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|$" else c for c in words)
