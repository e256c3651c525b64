"""Taking back what killed Labs left, from their journals: the last step first, all of it that nobody else has changed since."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from kvmlab.errors import ConnectError, KvmlabError
from kvmlab.guest import journal, pinned, schedinfo
from kvmlab.guest.connection import connect, explained, libvirt
from kvmlab.guest.interrupt import held_back
from kvmlab.guest.vcpus import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvmlab.guest.lab_pins import Row

_MADE_BY = {pinned.WHAT: pinned.from_json, schedinfo.WHAT: schedinfo.from_json}
_Connection = Callable[[str], libvirt.virConnect]


class Outcome(NamedTuple):
    """What was put back, what somebody else has changed since, what failed, and what has to wait: in words."""

    done: list[str]
    alone: list[str]
    failed: list[str]
    waits: list[str]


class _Result(NamedTuple):
    """Of a step: its rows that are kept, and whether one of them is JSON, but no row that we write."""

    step: journal.Step
    outcome: Outcome
    kept: tuple[dict, ...]
    strange: bool


def clean() -> list[str]:
    """What ``kvmlab doctor --clean`` does: take back what this user's killed processes left, and say so."""
    if not journal.left_behind():
        return []
    with journal.locked(), held_back():
        return run({})


def run(connections: Mapping[str, libvirt.virConnect]) -> list[str]:
    """Under the lock: replay all journals whose process is gone. `connections` are those that are open already, by their URI."""
    found, others = journal.left_behind(), journal.others()
    with _opener(connections) as connection:
        results = [_taken_back(step, connection, others) for step in _last_first([step for left in found for step in left.steps])]
    words = _said([result.outcome for result in results])
    for left in found:
        mine = [result for result in results if result.step.path == left.path]
        if any(result.kept for result in mine):
            _note(left.path, [result for result in mine if not result.strange])
        else:
            words += _finish(left.path, {*left.strange, *(result.step.line for result in mine if result.strange)})
    return words


def _last_first(steps: list[journal.Step]) -> list[journal.Step]:
    """By the machine's uptime, and boot by boot: this one is the last. The wall clock may have been set back."""
    boots = {step.boot: step.at for step in sorted(steps, key=lambda step: step.at, reverse=True)} | {journal.boot_id(): math.inf}
    return sorted(steps, key=lambda step: (boots[step.boot], step.uptime_s, step.path, step.line), reverse=True)


def _taken_back(step: journal.Step, connection: _Connection, others: bool) -> _Result:
    """Kept is what failed and, while others run who may have found what this step set, what was changed since: they may put that back."""
    outcome, kept, strange = Outcome([], [], [], []), [], False
    for row in reversed(step.rows):
        try:
            of_row = put_back([_revived(row, connection)])
        except (KeyError, ValueError, TypeError):
            strange = True
            continue
        except KvmlabError as error:  # no libvirt
            of_row = Outcome([], [], [str(error)], [])
        if others:
            of_row = of_row._replace(alone=[], waits=of_row.alone)
        if of_row.failed or of_row.waits:
            kept.insert(0, row)
        for words, more in zip(outcome, of_row, strict=True):
            words += more
    return _Result(step, outcome, tuple(kept), strange)


def _note(path: Path, results: list[_Result]) -> None:
    undone = [result.step.number for result in results if not result.kept]
    fewer = [replace(result.step, rows=result.kept) for result in results if 0 < len(result.kept) < len(result.step.rows)]
    journal.note(path, undone, fewer)


def put_back(rows: Iterable[Row]) -> Outcome:
    """Row by row; one that fails, or that somebody else has changed since, keeps no other from it."""
    outcome = Outcome([], [], [], [])
    for row in rows:
        try:
            if not row.there():
                continue
            if words := row.differs():
                outcome.alone.append(words)
            else:
                row.put_back()
                outcome.done.append(str(row))
        except KvmlabError as error:
            outcome.failed.append(f"{row}: {error}")
    return outcome


def _said(outcomes: list[Outcome]) -> list[str]:
    heads = (
        "Put back what a killed process had changed: ",
        "Left alone, for somebody else has changed it since: ",
        "Not put back, and kept for the next time: ",
        "Not put back yet, for another process of yours may have changed it since: ",
    )
    merged = [dict.fromkeys(words for outcome in outcomes for words in outcome[n]) for n in range(len(heads))]
    return [f"{head}{'; '.join(words)}." for head, words in zip(heads, merged, strict=True) if words]


def _finish(path: Path, strange: set[int]) -> list[str]:
    if not strange:
        path.unlink(missing_ok=True)
        return []
    lines = f"line{'s' * (len(strange) > 1)} {', '.join(map(str, sorted(strange)))}"
    return [f"{path}: {lines} cannot be read, and what is told there was not put back. The file is kept as {journal.put_aside(path)}."]


def _revived(row: dict, connection: _Connection) -> Row:
    """A row from the journal; with libvirt's domain, where there can be something to be told."""
    if not isinstance(row.get("guest"), str | None) or (row.get("guest") is not None and not isinstance(row["uri"], str)):
        raise TypeError("no row of ours")
    made, same_boot = _MADE_BY[row["what"]], row["boot"] == journal.boot_id()
    revived = made(row, None, same_boot)
    if row.get("guest") is not None:
        process = Process(row["guest"], row["uuid"], row["pid"], row["start_ticks"])
        if row.get("persistent") or (same_boot and process.alive()):
            return made(row, _domain(connection(row["uri"]), row["uuid"]), same_boot)
    return revived


def _domain(connection: libvirt.virConnect, uuid: str) -> libvirt.virDomain | None:
    with explained(f"Looking for the guest {uuid}"):
        try:
            return connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise


@contextmanager
def _opener(connections: Mapping[str, libvirt.virConnect]) -> Iterator[_Connection]:
    """Opens what is not open yet, once, and closes that."""
    known, unreachable = dict(connections), {}
    with ExitStack() as opened:

        def connection(uri: str) -> libvirt.virConnect:
            if uri in unreachable:
                raise unreachable[uri]
            if uri not in known:
                try:
                    known[uri], log = connect(uri)
                except ConnectError as error:
                    unreachable[uri] = error
                    raise
                for opening in (known[uri], log) if log else (known[uri],):
                    opened.callback(opening.close)
            return known[uri]

        yield connection
