"""The host's side of the lab guest: its work, counters and last words, straight from the RAM it shares with us.

The names and numbers are those of image.s, which describes them.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kvmlab.errors import GuestError

IMAGE = Path(__file__).with_name("image.bin")

CTRL, SLOTS, SLOT_SIZE, AREA_KIB = 0x1000, 0x100000, 0x1000, 28672
C_MAGIC, C_BOOTS, C_BITS = 0x00, 0x08, 0x0C
S_ALIVE, S_APIC, S_ACK, S_CALL, S_WORK, S_PARAM = 0x00, 0x04, 0x08, 0x10, 0x14, 0x18
S_ASK, S_COUNT, S_TOLD, S_LEAVES, LEAVES = 0x1C, 0x20, 0x28, 0x300, 64
S_PANIC, S_ERROR, S_RIP, S_CR2, S_IPIS = 0x40, 0x44, 0x48, 0x50, 0x58
S_BUDGET, S_TAIL, BUCKETS, PERIOD = 0x1D0, 0x900, 96, 10_000_000
S_GAP_MAX, S_GAP_SUM, S_GAPS, S_STEAL, S_STEALS, S_TURNS = 0x68, 0x70, 0x78, 0x80, 0xC0, 0x100
MAGIC = b"KVMLAB02"
WORK = {
    "idle": 0,
    "spin": 1,
    "kernel-spin": 2,
    "cpuid": 3,
    "msr": 4,
    "port-io": 5,
    "mmio": 6,
    "memory": 7,
    "lock": 8,
    "ipi": 9,
    "ping-pong": 10,
    "device": 11,
    "stop": 12,
    "duty": 13,
}
WORK_NAMES = {number: name for name, number in WORK.items()}
TURNS, QUESTION, ANSWER = struct.Struct("<16Q"), struct.Struct("<2I"), struct.Struct("<4I")
TAIL, BUDGET, PERIOD_S = struct.Struct(f"<{BUCKETS}I"), struct.Struct("<Q"), PERIOD / 1e9
ENTRY_SIZE = QUESTION.size + ANSWER.size


class Gaps(NamedTuple):
    """Times between two turns of "spin" that were longer than a turn can take, in ticks of the time stamp counter."""

    longest: int
    summed: int
    count: int


class Panic(NamedTuple):
    """The exception that stopped a vCPU."""

    vcpu: int
    vector: int
    error: int
    address: int
    fault_address: int

    def __str__(self) -> str:
        reached = f", reaching for {self.fault_address:#x}" if self.vector == 14 else ""
        return f"vCPU {self.vcpu} stopped on exception {self.vector} at {self.address:#x} (error code {self.error:#x}{reached})"


class ControlPage:
    """A running lab guest's shared RAM, from the memory file of its QEMU process. Each vCPU's slot is found by its APIC id."""

    def __init__(self, pid: int, apic_ids: Sequence[int]):
        self.apic_ids, self.vcpus = apic_ids, len(apic_ids)
        fd = os.open(_memory_file(pid), os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ram = mmap.mmap(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def _slot(self, vcpu: int) -> int:
        return SLOTS + self.apic_ids[vcpu] * SLOT_SIZE

    def _u32(self, vcpu: int, offset: int) -> int:
        return struct.unpack_from("<I", self._ram, self._slot(vcpu) + offset)[0]

    def _u64(self, vcpu: int, offset: int) -> int:
        return struct.unpack_from("<Q", self._ram, self._slot(vcpu) + offset)[0]

    def boots(self) -> int:
        """Starts of the image since power-on; each one after the first is a reset that it survived."""
        return struct.unpack_from("<I", self._ram, CTRL + C_BOOTS)[0]

    def silent(self) -> list[int]:
        """The vCPUs that do not take work (yet)."""
        up = self._ram[CTRL + C_MAGIC : CTRL + C_MAGIC + 8] == MAGIC
        return [v for v in range(self.vcpus) if not up or not self._u32(v, S_ALIVE)]

    def bits(self) -> int:
        """64, or 32 on a processor without long mode."""
        return struct.unpack_from("<I", self._ram, CTRL + C_BITS)[0]

    def apic_id(self, vcpu: int) -> int:
        """As the vCPU itself read it."""
        return self._u32(vcpu, S_APIC)

    def work(self, vcpu: int) -> str | None:
        """What the vCPU does now."""
        return WORK_NAMES.get(self._u32(vcpu, S_ACK))

    def set_work(self, vcpu: int, work: str, parameter: int = 0) -> None:
        """Ask for other work; the vCPU takes it up between two turns, if it is awake."""
        self._put(vcpu, S_PARAM, parameter)
        self._put(vcpu, S_WORK, WORK[work])
        self._call(vcpu)

    def set_budget(self, vcpu: int, ticks: int) -> None:
        """What "duty" may execute in each period, in ticks of the time stamp counter."""
        BUDGET.pack_into(self._ram, self._slot(vcpu) + S_BUDGET, ticks)

    def ask(self, vcpu: int, questions: Sequence[tuple[int, int]]) -> int:
        """Ask what CPUID says in up to LEAVES (leaf, subleaf); the number of the list, for `answers`."""
        number = self._u32(vcpu, S_ASK) + 1 & 0xFFFFFFFF
        for n, question in enumerate(questions):
            QUESTION.pack_into(self._ram, self._slot(vcpu) + S_LEAVES + n * ENTRY_SIZE, *question)
        self._put(vcpu, S_COUNT, len(questions))
        self._put(vcpu, S_ASK, number)
        self._call(vcpu)
        return number

    def answers(self, vcpu: int, number: int) -> list[tuple[int, int, int, int]] | None:
        """eax, ebx, ecx and edx of each question, once the list was answered."""
        if self._u32(vcpu, S_TOLD) != number:
            return None
        first = self._slot(vcpu) + S_LEAVES + QUESTION.size
        return [ANSWER.unpack_from(self._ram, first + n * ENTRY_SIZE) for n in range(self._u32(vcpu, S_COUNT))]

    def _put(self, vcpu: int, offset: int, value: int) -> None:
        struct.pack_into("<I", self._ram, self._slot(vcpu) + offset, value)

    def _call(self, vcpu: int) -> None:
        self._put(vcpu, S_CALL, self._u32(vcpu, S_CALL) + 1 & 0xFFFFFFFF)

    def gaps(self, vcpu: int) -> Gaps:
        """When it wanted to run and did not, as it sees it itself."""
        return Gaps(*(self._u64(vcpu, offset) for offset in (S_GAP_MAX, S_GAP_SUM, S_GAPS)))

    def forget_longest_gap(self, vcpu: int) -> None:
        """Look for the longest one from now on."""
        struct.pack_into("<Q", self._ram, self._slot(vcpu) + S_GAP_MAX, 0)

    def tail(self, vcpu: int) -> tuple[int, ...]:
        """How many times between two turns of "spin" and "duty" were in each bucket; see `bucket`."""
        return TAIL.unpack_from(self._ram, self._slot(vcpu) + S_TAIL)

    def steal_ns(self, vcpu: int) -> int | None:
        """What KVM tells it of the same; None where KVM does not, or another hypervisor runs it."""
        return self._u64(vcpu, S_STEAL) if self._u32(vcpu, S_STEALS) else None

    def interrupts(self, vcpu: int) -> int:
        """Interrupts that other vCPUs sent it."""
        return self._u64(vcpu, S_IPIS)

    def turns(self, vcpu: int) -> tuple[int, ...]:
        """Turns done so far, by number of work."""
        return TURNS.unpack_from(self._ram, self._slot(vcpu) + S_TURNS)

    def panics(self) -> list[Panic]:
        """What stopped vCPUs, if anything did."""
        return [
            Panic(v, vector - 1, self._u32(v, S_ERROR), self._u64(v, S_RIP), self._u64(v, S_CR2))
            for v in range(self.vcpus)
            if (vector := self._u32(v, S_PANIC))
        ]

    def close(self) -> None:
        self._ram.close()


def bucket(number: int) -> tuple[int, int | None]:
    """From how many ticks on a bucket holds, and up to how many: none for the last one.

    >>> bucket(0), bucket(1), bucket(4)
    ((0, 5120), (5120, 6144), (8192, 10240))
    """
    bounds = [(4 + n % 4) << 10 + n // 4 for n in (number, number + 1)]
    return bounds[0] if number else 0, bounds[1] if number < BUCKETS - 1 else None


def wait_until(done, patience_s: float, pause_s: float = 0.001) -> bool:
    """Whether `done()` came true in time. It is asked the less often the longer that takes.

    Where we share a busy CPU with the guest that we wait for, waking up a thousand times a second can keep it off that CPU.
    """
    begin = time.monotonic()
    while not done():
        waited = time.monotonic() - begin
        if waited > patience_s:
            return False
        time.sleep(max(pause_s, waited / 20))
    return True


def _memory_file(pid: int) -> str:
    """QEMU keeps the anonymous file of the guest's RAM open; libvirt calls it memory-backend-memfd."""
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if os.readlink(path).startswith("/memfd:memory-backend-memfd"):
                return path
    except FileNotFoundError as error:
        raise GuestError(f"QEMU process {pid} ended while its guest was being started.") from error
    except PermissionError as error:
        raise GuestError(f"QEMU process {pid} belongs to somebody else: its guest's memory cannot be read.") from error
    raise GuestError(f"QEMU process {pid} has no shared memory file: it runs no lab guest.")
