"""A minimal KVM client over /dev/kvm: what KVM says of itself, and the probe that measures how fast it runs guest code here.

That /dev/kvm exists says little: under nested virtualization KVM may run a guest's user code at full speed and emulate
its kernel code, thousands of times slower. Source: Documentation/virt/kvm/api.rst (the probe: x86).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

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
KVM_SET_USER_MEMORY_REGION, KVM_GET_SREGS, KVM_SET_SREGS, KVM_SET_REGS = 0x4020AE46, 0x8138AE83, 0x4138AE84, 0x4090AE82
EXIT_IO = 2

_CODE, _ROUNDS, _TABLES, _SIZE = 0x1000, 0x500, 0x2000, 0x10000
# again: mov ecx, [0x500]; round: dec ecx; jnz round; out 0x10, al; jmp again
_LOOP = bytes.fromhex("8b0c2500050000 ffc9 75fc e610 ebf1")
_NATIVE_LOOP = bytes.fromhex("89f9 ffc9 75fc c3")  # mov ecx, edi; round: dec ecx; jnz round; ret
_SEGMENT = struct.Struct("<QIH8BH")  # struct kvm_segment


class VM:
    """One vCPU in 64-bit mode, running `code` in ring 0 (guest kernel code) or ring 3 (guest user code)."""

    def __init__(self, code: bytes, ring: int):
        self._fds = [os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)]
        try:
            self._fds.append(fcntl.ioctl(self._fds[0], KVM_CREATE_VM, 0))
            self.memory = mmap.mmap(-1, _SIZE)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
            fcntl.ioctl(self._fds[1], KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, _SIZE, address))
            self._fds.append(fcntl.ioctl(self._fds[1], KVM_CREATE_VCPU, 0))
            self._run = mmap.mmap(self._fds[2], fcntl.ioctl(self._fds[0], KVM_GET_VCPU_MMAP_SIZE, 0))
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
        fcntl.ioctl(self._fds[2], KVM_GET_SREGS, sregs, True)
        code = _SEGMENT.pack(0, 0xFFFFFFFF, 0x8 | ring, 11, 1, ring, 0, 1, 1, 1, 0, 0)
        data = _SEGMENT.pack(0, 0xFFFFFFFF, 0x10 | ring, 3, 1, ring, 1, 1, 0, 1, 0, 0)
        sregs[: 6 * 24] = code + data * 5  # cs ds es fs gs ss
        struct.pack_into("<QQQQ", sregs, 224, 0x80000011, 0, _TABLES, 0x20)  # cr0 cr2 cr3 cr4: paging, PAE
        struct.pack_into("<Q", sregs, 264, 0x500)  # efer: long mode
        fcntl.ioctl(self._fds[2], KVM_SET_SREGS, bytes(sregs))

    def _load(self, code: bytes) -> None:
        self.memory[_CODE : _CODE + len(code)] = code
        flags = 0x3002  # no interrupts; ring 3 may use ports
        fcntl.ioctl(self._fds[2], KVM_SET_REGS, struct.pack("<18Q", *[0] * 16, _CODE, flags))

    def step(self) -> int:
        """Run to the next exit; its reason (KVM_EXIT_*)."""
        fcntl.ioctl(self._fds[2], KVM_RUN, 0)
        return struct.unpack_from("<I", self._run, 8)[0]

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


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
    """Measure a counting loop in a KVM guest, in ring 3 and in ring 0, against the same loop here; some 30 ms."""
    if platform.machine() != "x86_64":
        return Speed(problem=f"the lab guest is for x86_64, this machine is {platform.machine()}")
    try:
        native = _per_round(_native_rounds())
        user, kernel = (native / _guest_round(ring) for ring in (3, 0))
    except OSError as error:
        return Speed(problem=f"/dev/kvm: {error.strerror}")
    except _OtherExit as exit_reason:
        return Speed(problem=f"KVM here does not run a loop of four instructions (exit reason {exit_reason})")
    return Speed(user, kernel)


class _OtherExit(Exception):
    pass


def _guest_round(ring: int) -> float:
    vm = VM(_LOOP, ring)

    def rounds(n: int) -> None:
        struct.pack_into("<I", vm.memory, _ROUNDS, n)
        if (reason := vm.step()) != EXIT_IO:
            raise _OtherExit(reason)

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
