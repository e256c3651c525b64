"""What a Lab does to guests and threads that can be taken back: plans, one step at a time, and what a killed Lab left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvmlab.errors import KvmlabError, PinError, PlanError
from kvmlab.guest import journal, replay
from kvmlab.guest.interrupt import held_back
from kvmlab.guest.pinning import Plan

if TYPE_CHECKING:
    from kvmlab.guest.connection import libvirt
    from kvmlab.guest.guest import Guest


class Row(Protocol):
    """A change of one thing, which has found out how it was before: a pin, or a guest's shares and quota."""

    uuid: str | None  # of the guest

    def __str__(self) -> str: ...
    def set(self) -> None: ...
    def read_back(self) -> None: ...
    def there(self) -> bool: ...
    def differs(self) -> str | None: ...
    def put_back(self) -> None: ...
    def as_json(self) -> dict: ...


@dataclass(frozen=True)
class Step:
    """What one call changed, and its number in the journal: None where all of it is this Lab's own."""

    rows: Sequence[Row]
    number: int | None


class Pinning:
    """The part of a Lab that changes things and takes changes back."""

    uri: str
    _mine: dict[str, Guest | None]
    _allow_changes: bool

    def _begin(self) -> None:
        self._undo: list[Step] = []
        self._said: set[str] = set()
        self._journal = journal.Journal()
        if journal.left_behind():
            with journal.locked(), held_back():
                self._replay()

    def plan(self, pins: Mapping[tuple[str, int | str] | str, str | int]) -> Plan:
        """Check a placement, without changing anything yet.

        Parameters
        ----------
        pins : mapping
            What to a CPU list, such as ``{("c1", 0): "1", ("c1", "emulator"): "0-1"}``. What: (guest, vCPU), (guest, "emulator"),
            which is all threads of QEMU's own, or (guest, "iothread 1"); and, for threads that belong to no guest of libvirt,
            "tid 4711", "pid 4711" (all threads of a process) or "kind kswapd" (all of a kind that the kernel lets move).

        Returns
        -------
        Plan
            ``.lint()`` says what is unwise about it, ``.commands()`` shows it in virsh's words, ``.apply()`` does it.

        Raises
        ------
        PlanError
            For an unknown guest, vCPU or thread, one that the kernel has bound, an empty or malformed CPU list, or CPUs that
            are not online.
        """
        return Plan(self, pins)

    def autoplan(self, strategy: str, guests: str | Iterable[str] | None = None, cpus: str | None = None) -> Plan:
        """A plan for all threads of guests, by a strategy; nothing is changed yet.

        Parameters
        ----------
        strategy : {"spread", "pack", "siblings", "one-to-one", "like-guest"}
            "spread": vCPUs evenly over cores and NUMA nodes. "pack": on the fewest cores of one node. "siblings": what the guest
            takes for SMT siblings on SMT siblings; where it knows of no SMT, two vCPUs a core. "one-to-one": a CPU for each
            vCPU, and one left to all else where there are enough. "like-guest": the guest's sockets, dies, cores and threads on
            the host's. All of them give a vCPU one CPU, two vCPUs the same CPU only where there are more of them than CPUs,
            and emulator and I/O threads the CPUs nearby that no vCPU has; each keeps to the node of the memory.
        guests : str or list of str, optional
            Which; by default all that this Lab may change. What vCPUs of others are pinned to counts as taken.
        cpus : str, optional
            The host CPUs for the vCPUs, such as "2-5"; by default all that are online and not isolated.

        Returns
        -------
        Plan
            ``.reasons`` says for each of its ``.pins`` why.

        Raises
        ------
        PlanError
            For another strategy, unknown guests or CPUs, and where "one-to-one" has fewer CPUs than vCPUs.

        Examples
        --------
        >>> lab.autoplan("siblings").reasons                                  # doctest: +SKIP
        """
        from kvmlab.guest import planners

        return planners.autoplan(self, strategy, guests, cpus)

    @property
    def undoable(self) -> int:
        """How many steps `undo` can take back."""
        return len(self._undo)

    def undo(self, force: bool = False) -> int:
        """Take the last step back: an applied plan, shares and quota. How many of its lines were put back: 0 when there was none.

        Parameters
        ----------
        force : bool
            Also where somebody else has changed it meanwhile.

        Raises
        ------
        PinError
            When somebody else has changed a line of the step meanwhile, which it names. Nothing was put back then, of no line.
        """
        if not self._undo:  # nor is anybody waited for
            return 0
        with journal.locked(), held_back():
            step = self._undo[-1]
            rows = [row for row in reversed(step.rows) if row.there()]
            if not force and (strange := [words for row in rows if (words := row.differs())]):
                raise PinError(f"{'; '.join(strange)}: somebody else has changed it. Nothing was put back; lab.undo(force=True) does.")
            put_back(rows)
            self._undo.pop()
            self._journal.end(step.number)
            self._replay()  # a killed Lab may have set what this step had found
        return len(rows)

    def change(self, find: Callable[[], Sequence[Row]]) -> None:
        """Set what `find` returns, for `undo` to take back: all of it or, when one raises, nothing."""
        with journal.locked(), held_back():
            self._replay()
            if not (rows := find()):
                return
            step = self._journal.begin([row.as_json() | {"uri": self.uri} for row in rows if not self._owns(row)])
            try:
                for row in rows:
                    row.set()
                for row in rows:
                    row.read_back()
            except BaseException:
                put_back([row for row in reversed(rows) if row.there()])
                self._journal.end(step)
                raise
            self._undo.append(Step(rows, step))

    def must_be_mine(self, name: str, domain: libvirt.virDomain) -> None:
        """Raise unless this Lab may change the guest."""
        if not self._allow_changes and domain.UUIDString() not in self._mine:
            raise PlanError(f"'{name}' was not started by this Lab, which only watches it. To change it, open Lab(allow_changes=True).")

    def _owns(self, row: Row) -> bool:
        return row.uuid in self._mine

    def _replay(self) -> None:
        """Take back what a killed Lab of this user left; a look into a folder where there is nothing."""
        for words in replay.run({self.uri: self.connection}):
            if words not in self._said:  # what is kept is tried again before each change
                print(words, file=sys.stderr)
                self._said.add(words)

    def _put_all_back(self) -> str:
        """At the end: put back what is not ours, for what is ours goes anyway; in words."""
        if not self._undo:
            return ""
        count, words = 0, []
        with journal.locked(), held_back():
            others = journal.others(self._journal.path)  # who may have found what this Lab set, and put that back
            while self._undo:
                step = self._undo.pop()
                outcome = replay.put_back(row for row in reversed(step.rows) if not self._owns(row))
                count += len(outcome.done)
                words += [f"left alone, for somebody else has changed it: {text}" for text in outcome.alone]
                words += [f"not put back, the next Lab tries again: {text}" for text in outcome.failed]
                if not (outcome.failed or (outcome.alone and others)):
                    self._journal.end(step.number)
            self._replay()
            self._journal.hand_over()
        return "; ".join(([f"{count} change{'s' * (count > 1)} of what is not its own put back"] if count else []) + words)


def put_back(rows: Iterable[Row]) -> None:
    """All of them, also where one raises; then the first error is raised."""
    errors = []
    for row in rows:
        try:
            row.put_back()
        except KvmlabError as error:
            errors.append(error)
    if errors:
        raise errors[0]
