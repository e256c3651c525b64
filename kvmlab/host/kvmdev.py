"""A minimal KVM client over /dev/kvm: a VM, what KVM says of itself, and the probe that measures how fast it runs guest code here.

That /dev/kvm exists says little: under nested virtualization KVM may run a guest's user code at full speed and emulate
its kernel code, thousands of times slower. Source: Documentation/virt/kvm/api.rst (VM and probe: x86).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from kvmlab.host.unix import fcntl

# A request without data carries a bit of its own on some architectures: _IOC_NONE in their asm/ioctl.h.
_NONE = 0x20000000 if platform.machine().startswith(("ppc", "mips", "sparc")) else 0
KVM_GET_API_VERSION, KVM_CHECK_EXTENSION = _NONE | 0xAE00, _NONE | 0xAE03
CAPABILITIES = {  # KVM_CAP_... in include/uapi/linux/kvm.h
    "IRQCHIP": 0,
    "USER_MEMORY": 3,
    "NR_VCPUS": 9,
    "HYPERV": 44,
    "TSC_CONTROL": 60,
    "MAX_VCPUS": 66,
    "MAX_VCPU_ID": 128,
    "X2APIC_API": 129,
    "BINARY_STATS_FD": 203,
}
KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE, KVM_CREATE_VCPU, KVM_RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION, KVM_GET_SREGS, KVM_SET_SREGS = 0x4020AE46, 0x8138AE83, 0x4138AE84
KVM_GET_REGS, KVM_SET_REGS, KVM_GET_STATS_FD = 0x8090AE81, 0x4090AE82, 0xAECE
EXITS = {  # KVM_EXIT_... in include/uapi/linux/kvm.h: those of x86
    **{0: "UNKNOWN", 1: "EXCEPTION", 2: "IO", 3: "HYPERCALL", 4: "DEBUG", 5: "HLT", 6: "MMIO", 7: "IRQ_WINDOW_OPEN", 8: "SHUTDOWN"},
    **{9: "FAIL_ENTRY", 10: "INTR", 11: "SET_TPR", 12: "TPR_ACCESS", 16: "NMI", 17: "INTERNAL_ERROR", 24: "SYSTEM_EVENT"},
    **{26: "IOAPIC_EOI", 27: "HYPERV", 29: "X86_RDMSR", 30: "X86_WRMSR", 31: "DIRTY_RING_FULL", 32: "AP_RESET_HOLD"},
    **{33: "X86_BUS_LOCK", 34: "XEN", 37: "NOTIFY"},
}
REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")  # struct kvm_regs

_CODE, _ROUNDS, _TABLES, _SIZE = 0x1000, 0x500, 0x2000, 0x10000
# again: mov ecx, [0x500]; round: dec ecx; jnz round; out 0x10, al; jmp again
_LOOP = bytes.fromhex("8b0c2500050000 ffc9 75fc e610 ebf1")
_NATIVE_LOOP = bytes.fromhex("89f9 ffc9 75fc c3")  # mov ecx, edi; round: dec ecx; jnz round; ret
_SEGMENT = struct.Struct("<QIH8BH")  # struct kvm_segment


class Exit(NamedTuple):
    """Why a vCPU left guest mode and came to us, KVM_EXIT_...: with IO a port, with MMIO an address.

    `data` is what the guest writes there; None where it reads, and waits for `size` bytes.
    """

    reason: str
    port: int | None = None
    address: int | None = None
    size: int | None = None
    data: bytes | None = None

    @property
    def direction(self) -> str | None:
        return None if self.size is None else "in" if self.data is None else "out"

    def __repr__(self) -> str:
        if self.size is None:
            return f"KVM_EXIT_{self.reason}"
        place = f"address {self.address:#x}" if self.port is None else f"port {self.port:#x}"
        count = f"{self.size} byte{'' if self.size == 1 else 's'}"
        return f"KVM_EXIT_{self.reason}: " + (f"reads {count} from {place}" if self.data is None else f"writes {self.data} to {place}")


class VM:
    """A virtual machine with one vCPU in 64-bit mode that runs `code` in ring 0 (guest kernel code) or ring 3 (guest user code).

    Its `memory` is 64 KiB from address 0; what the guest touches above is a device, that is an exit to us.
    """

    def __init__(self, code: bytes, ring: int):
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self._fds = [kvm]
        try:
            self._fds.append(vm := fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
            self.memory = mmap.mmap(-1, _SIZE)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
            fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, _SIZE, address))
            self._fds.append(vcpu := fcntl.ioctl(vm, KVM_CREATE_VCPU, 0))
            self._run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))  # struct kvm_run: why it came out
            self._vcpu, self._asked = vcpu, slice(0)
            self._long_mode(ring)
            self._load(code)
        except BaseException:
            self.close()
            raise

    def _long_mode(self, ring: int) -> None:
        for entry, target in ((0, 0x1007), (0x1000, 0x2007), (0x2000, 0x87)):  # one 2 MiB page for everybody
            target = target if target == 0x87 else _TABLES + target
            struct.pack_into("<Q", self.memory, _TABLES + entry, target)
        sregs = bytearray(312)
        fcntl.ioctl(self._vcpu, KVM_GET_SREGS, sregs, True)
        code = _SEGMENT.pack(0, 0xFFFFFFFF, 0x8 | ring, 11, 1, ring, 0, 1, 1, 1, 0, 0)
        data = _SEGMENT.pack(0, 0xFFFFFFFF, 0x10 | ring, 3, 1, ring, 1, 1, 0, 1, 0, 0)
        sregs[: 6 * 24] = code + data * 5  # cs ds es fs gs ss
        struct.pack_into("<QQQQ", sregs, 224, 0x80000011, 0, _TABLES, 0x20)  # cr0 cr2 cr3 cr4: paging, PAE
        struct.pack_into("<Q", sregs, 264, 0x500)  # efer: long mode
        fcntl.ioctl(self._vcpu, KVM_SET_SREGS, bytes(sregs))

    def _load(self, code: bytes) -> None:
        self.memory[_CODE : _CODE + len(code)] = code
        flags = 0x3002  # no interrupts; ring 3 may use ports
        fcntl.ioctl(self._vcpu, KVM_SET_REGS, struct.pack("<18Q", *[0] * 16, _CODE, flags))

    def step(self, answer: bytes = b"") -> Exit:
        """Run to the next exit that KVM does not serve by itself; `answer` is for a guest that was reading."""
        if answer:
            self._run[self._asked] = answer
        fcntl.ioctl(self._vcpu, KVM_RUN, 0)
        exit_, self._asked = _exit(self._run)
        return exit_

    def registers(self) -> dict[str, int]:
        return dict(zip(REGISTERS, struct.unpack("<18Q", fcntl.ioctl(self._vcpu, KVM_GET_REGS, bytes(144))), strict=True))

    def statistics(self) -> dict[str, int]:
        """KVM's own counters of the vCPU; none before Linux 5.14."""
        return _statistics(self._vcpu)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def exits(code: bytes, ring: int, most: int = 100) -> list[Exit]:
    """All exits of a guest up to the first one that is no IO or MMIO, such as HLT; so many at most."""
    vm, seen = VM(code, ring), []
    try:
        while len(seen) < most and (not seen or seen[-1].size):
            seen.append(vm.step())
    finally:
        vm.close()
    return seen


def _exit(run: mmap.mmap) -> tuple[Exit, slice]:
    """What struct kvm_run says of the last exit, and where in it an answer goes."""
    reason = EXITS.get(number := struct.unpack_from("<I", run, 8)[0], str(number))
    if reason == "IO":
        write, size, port, count, place = struct.unpack_from("<BBHIQ", run, 32)
        found = Exit(reason, port=port, size=size * count)
    elif reason == "MMIO":
        address, _, size, write = struct.unpack_from("<QQIB", run, 32)
        found, place = Exit(reason, address=address, size=size), 40
    else:
        return Exit(reason), slice(0)
    data = slice(place, place + found.size)
    return (found._replace(data=run[data]), slice(0)) if write else (found, data)


def _statistics(fd: int) -> dict[str, int]:
    """By name, without histograms: struct kvm_stats_header and kvm_stats_desc, KVM_GET_STATS_FD."""
    try:
        stats = fcntl.ioctl(fd, KVM_GET_STATS_FD, 0)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):  # a request that this kernel does not know
            return {}
        raise
    try:
        _, name_size, count, _, descriptions, data = struct.unpack("<6I", os.pread(stats, 24, 0))
        found = {}
        for at in range(descriptions, descriptions + count * (16 + name_size), 16 + name_size):
            _, _, size, offset, _, name = struct.unpack(f"<IhHII{name_size}s", os.pread(stats, 16 + name_size, at))
            if size == 1:
                found[name.split(b"\0")[0].decode()] = struct.unpack("<Q", os.pread(stats, 8, data + offset))[0]
        return found
    finally:
        os.close(stats)


@dataclass(frozen=True)
class Answers:
    """What KVM says of itself: its API version, and by name the value of each of CAPABILITIES, 0 for one it has not.

    `problem` says why it could not be asked.
    """

    api: int | None = None
    capabilities: dict[str, int] = field(default_factory=dict)
    problem: str | None = None


def ask() -> Answers:
    """Open /dev/kvm and ask; no guest is made."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Answers(problem=error.strerror)
    try:
        api = fcntl.ioctl(fd, KVM_GET_API_VERSION, 0)
        return Answers(api, {name: fcntl.ioctl(fd, KVM_CHECK_EXTENSION, number) for name, number in CAPABILITIES.items()})
    except OSError as error:
        return Answers(problem=error.strerror)
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Speed:
    """How fast KVM runs guest code here, as parts of native speed; `problem` says why it could not be measured."""

    user: float | None = None
    kernel: float | None = None
    problem: str | None = None

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        return f"guest user code at {percent(self.user)} of native speed, guest kernel code at {percent(self.kernel)}"


def probe() -> Speed:
    """Measure a counting loop in a KVM guest, in ring 3 and in ring 0, against the same loop here; some 20 ms."""
    if platform.machine() != "x86_64":
        return Speed(problem=f"the lab guest is for x86_64, this machine is {platform.machine()}")
    try:
        native = _per_round(_native_rounds())
        user, kernel = (native / _guest_round(ring) for ring in (3, 0))
    except OSError as error:
        return Speed(problem=f"/dev/kvm: {error.strerror}")
    except _OtherExit as seen:
        return Speed(problem=f"KVM here does not run a loop of four instructions ({seen})")
    return Speed(user, kernel)


class _OtherExit(Exception):
    pass


def _guest_round(ring: int) -> float:
    vm = VM(_LOOP, ring)

    def rounds(n: int) -> None:
        struct.pack_into("<I", vm.memory, _ROUNDS, n)
        if (seen := vm.step()).reason != "IO":
            raise _OtherExit(seen)

    try:
        return _per_round(rounds)
    finally:
        vm.close()


def _native_rounds() -> Callable[[int], None]:
    return native(_NATIVE_LOOP, ctypes.c_uint32)


def native(code: bytes, *arguments: type) -> Callable[..., None]:
    """Machine code as a function of this process; OSError where the system lets no program write its own code."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page[: len(code)] = code
    function = ctypes.CFUNCTYPE(None, *arguments)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page  # the code lives as long as the function
    return function


def _per_round(rounds: Callable[[int], None]) -> float:
    """Seconds a round, from the shortest of a few tries; longer loops only where they are fast."""
    base = min(_seconds(rounds, 1) for _ in range(10))
    few = min(_seconds(rounds, 2000) for _ in range(2)) - base
    if few > 200e-6:
        return few / 2000
    return (min(_seconds(rounds, 1_000_000) for _ in range(10)) - base) / 1_000_000


def _seconds(rounds: Callable[[int], None], n: int) -> float:
    begin = time.perf_counter()
    rounds(n)
    return time.perf_counter() - begin


def percent(part: float | None) -> str:
    return "?" if part is None else f"{100 * part:.2g} %" if part < 0.095 else f"{100 * part:.0f} %"
