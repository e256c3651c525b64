"""Taking back what killed Labs left, from their journals: the last step first, all of it that nobody else has changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from kvmlab.errors import ConnectError, GuestError, KvmlabError
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
    """What was put back, what somebody else has changed since, and what failed: in words."""

    done: list[str]
    alone: list[str]
    failed: list[str]


def clean() -> list[str]:
    """What ``kvmlab doctor --clean`` does: take back what this user's killed processes left, and say so."""
    if not journal.left_behind():
        return []
    with journal.locked(), held_back():
        return run({})


def run(connections: Mapping[str, libvirt.virConnect]) -> list[str]:
    """Under the lock: replay all journals whose process is gone. `connections` are those that are open already, by their URI."""
    found = journal.left_behind()
    steps = sorted((step for left in found for step in left.steps), key=lambda step: step.at, reverse=True)
    with _opener(connections) as connection:
        results = [(step, *_taken_back(step, connection)) for step in steps]
    words = _said([outcome for _, outcome, _ in results])
    for left in found:
        mine = [result for result in results if result[0].path == left.path]
        if any(outcome.failed for _, outcome, _ in mine):
            journal.note_undone(left.path, [step.number for step, outcome, _ in mine if not outcome.failed])
        else:
            words += _finish(left.path, {*left.strange, *(step.line for step, _, strange in mine if strange)})
    return words


def _taken_back(step: journal.Step, connection: _Connection) -> tuple[Outcome, bool]:
    """And whether one of its rows is JSON, but no row that we write."""
    rows, failed, strange = [], [], False
    for row in reversed(step.rows):
        try:
            rows.append(_revived(row, connection))
        except (KeyError, ValueError, TypeError):
            strange = True
        except KvmlabError as error:  # no libvirt
            failed.append(str(error))
    outcome = put_back(rows)
    outcome.failed.extend(failed)
    return outcome, strange


def put_back(rows: Iterable[Row]) -> Outcome:
    """Row by row; one that fails, or that somebody else has changed since, keeps no other from it."""
    outcome = Outcome([], [], [])
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
    same_boot, domain = row["boot"] == journal.boot_id(), None
    if row.get("guest") is not None:
        process = Process(row["guest"], row["uuid"], row["pid"], row["start_ticks"])
        if row.get("persistent") or (same_boot and process.alive()):
            domain = _domain(connection(row["uri"]), row["uuid"])
    return _MADE_BY[row["what"]](row, domain, same_boot)


def _domain(connection: libvirt.virConnect, uuid: str) -> libvirt.virDomain | None:
    with suppress(GuestError), explained(f"Looking for the guest {uuid}"):
        return connection.lookupByUUIDString(uuid)


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
