"""class Guest: one lab guest that a Lab started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.columns import documents, frame
from kvmlab.errors import GuestError
from kvmlab.guest.microguest.page import WORK, WORK_NAMES, ControlPage, wait_until
from kvmlab.guest.spec import GuestSpec
from kvmlab.guest.vcpus import Process

if TYPE_CHECKING:
    import pandas as pd

ANSWER_S = 4.5  # a guest that is not up, or does not take up its work, by then never will


class Guest:
    """A running lab guest, made by ``lab.start``. `destroy` is the Lab's way to end it."""

    def __init__(self, spec: GuestSpec, process: Process, destroy: Callable[[], None]):
        self.name, self.uuid, self.accel, self.vcpus = spec.name, spec.uuid, spec.accel, spec.vcpus
        self.process, self.destroy = process, destroy
        process.page = self.page = ControlPage(process.pid, spec.vcpus)
        self._wait(lambda: not self.page.silent(), lambda: f"vCPUs {self.page.silent()} did not come up")

    def __repr__(self) -> str:
        state = f"process {self.process.pid}" if self.process.alive() else "gone"
        return f"Guest '{self.name}': {self.vcpus} vCPUs on {self.accel.upper()}, {state}"

    def work(self, work: str, vcpus: int | Iterable[int] | None = None) -> None:
        """Set what vCPUs do, and return once they do it.

        Parameters
        ----------
        work : str
            "idle" (halted) or "spin" (busy in ring 3, that is in guest mode).
        vcpus : int or several, optional
            Which vCPUs; all of them by default.

        Raises
        ------
        GuestError
            For an unknown work or vCPU, and for a guest that is gone, stopped on an exception or does not answer.
        """
        if work not in WORK:
            raise GuestError(f"Work {work!r}: the lab guest knows {', '.join(WORK)}.")
        chosen = self._chosen(vcpus)
        self.check()
        for vcpu in chosen:
            self.page.set_work(vcpu, work)
        self._wait(
            lambda: all(self.page.work(v) == work for v in chosen),
            lambda: f"vCPUs {[v for v in chosen if self.page.work(v) != work]} did not take up '{work}'",
        )

    def _chosen(self, vcpus: int | Iterable[int] | None) -> list[int]:
        chosen = range(self.vcpus) if vcpus is None else [vcpus] if isinstance(vcpus, int) else list(vcpus)
        if strange := [v for v in chosen if v not in range(self.vcpus)]:
            raise GuestError(f"'{self.name}' has no vCPU {strange[0]!r}: it has 0 to {self.vcpus - 1}.")
        return list(chosen)

    @documents("counters")
    def counters(self) -> pd.DataFrame:
        """One row a vCPU and kind of work: the turns it has done since the guest was started.

        A turn of `spin` is 10,000 rounds of a loop of two instructions, a turn of `idle` is one wake-up.

        """
        self.check()
        turns = {vcpu: self.page.turns(vcpu) for vcpu in range(self.vcpus)}
        return frame([(self.name, v, name, turns[v][n]) for v in turns for n, name in WORK_NAMES.items()], "counters")

    def check(self) -> None:
        """Raise a GuestError if the guest is gone or a vCPU stopped on an exception."""
        if not self.process.alive():
            raise GuestError(f"'{self.name}' is gone: it was destroyed or its QEMU ended.{self._log_tail()} Start it again with lab.start.")
        if panics := self.page.panics():
            raise GuestError(f"'{self.name}': {'; '.join(map(str, panics))}.{self._log_tail()} Destroy it and start another.")

    def _wait(self, done: Callable[[], bool], otherwise: Callable[[], str]) -> None:
        settled = wait_until(lambda: done() or self.page.panics() or not self.process.alive(), ANSWER_S)
        self.check()
        if not settled:
            raise GuestError(f"'{self.name}' does not answer: {otherwise()} within {ANSWER_S} s.{self._log_tail()}")

    def _log_tail(self) -> str:
        """What QEMU said last, from libvirt's log of the guest."""
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        for folder in (Path("/var/log/libvirt/qemu"), Path(cache, "libvirt/qemu/log")):
            try:
                lines = (folder / f"{self.name}.log").read_text(errors="replace").splitlines()
            except OSError:
                continue
            said = [line for line in lines if not line.endswith("\\") and "=" not in line.partition(" ")[0]]
            return f" QEMU's log ends: {' | '.join(said[-2:])}."
        return ""
