"""class Guest: one lab guest that a Lab started."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.columns import documents, frame
from kvmlab.errors import GuestError
from kvmlab.guest import cpuid, cpuid_flags, cpuid_topology
from kvmlab.guest.cpuid import Leaves
from kvmlab.guest.microguest import works
from kvmlab.guest.microguest.page import LEAVES, PERIOD_S, WORK_NAMES, ControlPage, bucket, wait_until
from kvmlab.guest.spec import GuestSpec
from kvmlab.guest.vcpus import Process
from kvmlab.host import tsc
from kvmlab.wording import count

if TYPE_CHECKING:
    import pandas as pd

ANSWER_S = 4.5  # a guest that is not up, or does not take up its work, by then never will


class Guest:
    """A running lab guest, made by ``lab.start``. `destroy` is the Lab's way to end it."""

    def __init__(self, spec: GuestSpec, process: Process, destroy: Callable[[], None], log: Path | None = None):
        self.attach(spec, process, destroy, log)
        self._must_hear()

    def attach(self, spec: GuestSpec, process: Process, destroy: Callable[[], None], log: Path | None = None) -> None:
        """Be the guest that runs in this process: at its start, and again after a move."""
        self.log = log
        self.name, self.uuid, self.accel, self.vcpus = spec.name, spec.uuid, spec.accel, spec.vcpus
        self.process, self.destroy = process, destroy
        self._bell = _connect(spec.name, spec.bell)
        process.page = self.page = ControlPage(process.pid, spec.apic_ids)
        self._wait(lambda: not self.page.silent(), lambda: f"vCPUs {self.page.silent()} did not come up")

    def __repr__(self) -> str:
        state = f"process {self.process.pid}" if self.process.alive() else "gone"
        return f"Guest '{self.name}': {count(self.vcpus, 'vCPU')} on {self.accel.upper()}, {state}"

    def _must_hear(self) -> None:
        """A processor without a local APIC comes up, halts, and is never woken."""
        question = self.page.ask(0, [(1, 0)])
        self._ring()
        deaf = "vCPU 0 is up and heard nothing (one without APIC, such as the CPU model 486, cannot be woken: choose another model)"
        self._wait(lambda: self.page.answers(0, question), lambda: deaf)

    def work(self, work: str, vcpus: int | Iterable[int] | None = None, parameter: int | None = None) -> None:
        """Set what vCPUs do, and return once they do it.

        Parameters
        ----------
        work : str
            "idle" (halted), "spin" (busy in ring 3, that is in guest mode), "kernel-spin" (busy in ring 0); "cpuid" and "msr"
            (exits that the kernel serves), "port-io" and "mmio" (exits that QEMU serves), "device" (one that costs QEMU real
            work: `parameter` KiB filled, 1024 by default); "memory" (walks through `parameter` KiB, 4096 by default), "lock"
            (takes a ticket lock that all vCPUs share and holds it for `parameter` rounds, 1000 by default), "ipi"
            (interrupts vCPU `parameter`, the next one by default, and waits for its answer), "ping-pong" (hands a cache line
            to and fro; vCPUs in pairs), "duty" (executes `parameter` percent of each 10 ms, 50 by default, and is halted for the
            rest); "stop" (halted for good).
        vcpus : int or several, optional
            Which vCPUs; all of them by default.
        parameter : int, optional

        Raises
        ------
        GuestError
            For an unknown work, parameter or vCPU, and for a guest that is gone, stopped on an exception or does not answer.
        """
        chosen = self._chosen(vcpus)
        parameters = works.parameters(work, chosen, self.page.apic_ids, parameter)
        self.check()
        self._must_be_able(work, chosen)
        for vcpu, value in zip(chosen, parameters, strict=True):
            if work == "duty":
                self.page.set_budget(vcpu, int(value / 100 * PERIOD_S * tsc.hz()))
            self.page.set_work(vcpu, work, value)
        self._ring()
        self._wait(
            lambda: all(self.page.work(v) == work for v in chosen),
            lambda: f"vCPUs {[v for v in chosen if self.page.work(v) != work]} did not take up '{work}'",
        )

    def _must_be_able(self, work: str, chosen: list[int]) -> None:
        if stopped := [v for v in chosen if self.page.work(v) == "stop"]:
            raise GuestError(f"'{self.name}': vCPU {stopped[0]} was stopped for good. Destroy the guest and start another.")
        if self.page.bits() == 32 and work not in works.OF_32_BIT:
            raise GuestError(f"'{self.name}' has a 32-bit processor, on which the lab guest knows {', '.join(works.OF_32_BIT)} only.")

    def _ring(self) -> None:
        """Wake the halted vCPUs; a line that is full of rings has woken them already."""
        with suppress(BlockingIOError):
            self._bell.send(b"!")

    def cpuid(self, leaf: int, subleaf: int = 0, vcpu: int = 0) -> tuple[int, int, int, int]:
        """What CPUID says to this vCPU: eax, ebx, ecx, edx. The vCPU interrupts its work for it.

        Raises
        ------
        GuestError
            For a number that is no leaf, an unknown vCPU, and a guest that does not answer.
        """
        for name, number in (("leaf", leaf), ("subleaf", subleaf)):
            if not isinstance(number, int) or not 0 <= number < 1 << 32:
                raise GuestError(f"CPUID {name} {number!r}: write a number from 0 to 0xffffffff.")
        return self._ask(vcpu, [(leaf, subleaf)])[0]

    def cpuid_all(self, vcpu: int = 0) -> Leaves:
        """What CPUID says to this vCPU in every leaf and subleaf that it has: (leaf, subleaf) -> eax, ebx, ecx, edx.

        Raises
        ------
        GuestError
            For an unknown vCPU, and a guest that does not answer.
        """
        return cpuid.walk(lambda questions: self._ask(vcpu, questions))

    def _ask(self, vcpu: int, questions: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
        self._chosen(vcpu)
        self.check()
        self._must_be_able("idle", [vcpu])
        answers = []
        for begin in range(0, len(questions), LEAVES):
            number = self.page.ask(vcpu, questions[begin : begin + LEAVES])
            self._ring()
            self._wait(lambda: self.page.answers(vcpu, number), lambda: f"vCPU {vcpu} did not answer what CPUID says")  # noqa: B023
            answers += self.page.answers(vcpu, number)
        return answers

    @documents("cpus", "the guest's CPUID")
    def topology(self) -> pd.DataFrame:
        """One row a vCPU, in the columns of ``Host.cpus()``: the topology and the caches as CPUID shows them inside of the guest.

        Source: leaves 1, 4, 0xB, 0x1F, 0x8000001D and 0x8000001E, asked of each vCPU. ``attrs["remarks"]`` says, a sentence each,
        what an operating system may see otherwise.

        Examples
        --------
        >>> g.topology()[["cpu", "socket", "core", "smt", "l3"]]                             # doctest: +SKIP

        """
        told = self._everybody()
        result = frame(cpuid_topology.rows(told), "cpus", cpuid_topology.unavailable())
        result.attrs |= {"host": f"guest {self.name}", "remarks": cpuid_topology.remarks(told)}
        return result

    @documents("flags", "the guest's CPUID")
    def flags(self) -> pd.DataFrame:
        """One row a CPU flag that CPUID shows inside of the guest, in the words of ``Host.flags()``; `cpus` are its vCPUs.

        Examples
        --------
        >>> set(Host().flags().flag) - set(g.flags().flag)                                   # doctest: +SKIP

        """
        return frame(cpuid_flags.rows(self._everybody()), "flags")

    def _everybody(self) -> dict[int, Leaves]:
        return {vcpu: self.cpuid_all(vcpu) for vcpu in range(self.vcpus)}

    @documents("steal")
    def steal(self) -> pd.DataFrame:
        """One row a vCPU: for how long it could have run and did not, as KVM told it."""
        self.check()
        stolen = [(v, self.page.steal_ns(v)) for v in range(self.vcpus)]
        why = "only KVM writes a steal record" if self.accel == "tcg" else "KVM here offers none (CPUID leaf 0x40000001)"
        missing = {"steal_s": why} if any(ns is None for _, ns in stolen) else {}
        return frame([(self.name, v, None if ns is None else ns / 1e9) for v, ns in stolen], "steal", missing)

    @documents("gaps")
    def gaps(self) -> pd.DataFrame:
        """One row a vCPU: the gaps between its turns of `spin`, by its own time stamp counter: the same wait, seen from inside."""
        self.check()
        hz = tsc.hz()
        rows = [(self.name, v, gaps.longest / hz, gaps.summed / hz, gaps.count) for v in range(self.vcpus) for gaps in [self.page.gaps(v)]]
        return frame(rows, "gaps")

    @documents("tails")
    def tails(self) -> pd.DataFrame:
        """One row a vCPU and bucket: how long the times between two turns of `spin` and `duty` were, four buckets an octave.

        The first bucket has all shorter ones too, and the last, whose `to_s` is NA, all longer ones. Halted time is left out.

        """
        self.check()
        hz = tsc.hz()
        rows = []
        for vcpu in range(self.vcpus):
            for number, often in enumerate(self.page.tail(vcpu)):
                begin, end = bucket(number)
                rows.append((self.name, vcpu, begin / hz, None if end is None else end / hz, often))
        return frame(rows, "tails", {"to_s": "the last bucket has all that were longer"})

    def _chosen(self, vcpus: int | Iterable[int] | None) -> list[int]:
        chosen = range(self.vcpus) if vcpus is None else [vcpus] if isinstance(vcpus, int) else list(vcpus)
        if strange := [v for v in chosen if v not in range(self.vcpus)]:
            raise GuestError(f"'{self.name}' has no vCPU {strange[0]!r}: it has 0 to {self.vcpus - 1}.")
        return list(chosen)

    @documents("counters")
    def counters(self) -> pd.DataFrame:
        """One row a vCPU and kind of work: the turns it has done since the guest was started.

        What a turn is stands at the work's number in image.s: of `spin` 10,000 rounds of two instructions, of `cpuid` one exit.

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
        logs = [Path(folder, f"{self.name}.log") for folder in ("/var/log/libvirt/qemu", f"{cache}/libvirt/qemu/log")]
        for log in [self.log] if self.log else logs:
            try:
                lines = log.read_text(errors="replace").splitlines()
            except OSError:
                continue
            said = [line for line in lines if not line.endswith("\\") and "=" not in line.partition(" ")[0]]
            return f" QEMU's log ends: {' | '.join(said[-2:])}."
        return ""

    def close(self) -> None:
        """Let go of its memory and its bell."""
        self.page.close()
        self._bell.close()


def _connect(name: str, bell: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(bell)
    except OSError as error:
        line.close()
        raise GuestError(f"'{name}' cannot be woken: its serial line at {bell} does not answer ({error.strerror or error}).") from error
    line.setblocking(False)
    return line
