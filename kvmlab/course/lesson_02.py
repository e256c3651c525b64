"""Exercises of 02_architecture. Guests of a few bytes are run for real, in a process of their own: some never end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs
from kvmlab.errors import CourseError
from kvmlab.host import kvmdev

SCREEN, KEYBOARD, OUTPUT = 0xB8000, 0x60, 0xE9
_PATIENCE_S, _MOST_BYTES = 5, 4096
_PROGRAM = """
import json, sys
from kvmlab.host import kvmdev
vm, answer = kvmdev.VM(bytes.fromhex(sys.argv[1]), ring=0), b""
for _ in range(20):
    seen = vm.step(answer)
    key = seen.direction == "in" and seen.port == 0x60
    answer = sys.argv[2].encode().ljust(seen.size, b"\\0") if key else b""
    print(json.dumps([seen.reason, seen.port, seen.address, seen.direction, seen.data.hex() if seen.data else ""]))
    if not seen.size:
        break
"""


class Seen(NamedTuple):
    """An exit of a guest that ran elsewhere."""

    reason: str
    port: int | None
    address: int | None
    direction: str | None
    data: str


def run(code: bytes, key: str) -> list[Seen]:
    """The exits of this guest, up to its halt; who reads the keyboard's port gets this key.

    Raises
    ------
    CourseError
        Where KVM does not work, and for a guest that never comes back.
    """
    if not isinstance(code, bytes | bytearray):
        raise TypeError
    if not 0 < len(code) <= _MOST_BYTES:
        raise CourseError(f"{len(code)} bytes of code: the VM has room for 1 to {_MOST_BYTES}.")
    if problem := kvmdev.probe().problem:
        raise CourseError(f"KVM does not run guests here ({problem}). This exercise needs it.")
    try:
        done = subprocess.run([sys.executable, "-c", _PROGRAM, code.hex(), key], capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise CourseError(f"Your guest did not halt within {_PATIENCE_S} s. Does it end with f4 (hlt)?") from error
    if done.returncode:
        raise CourseError(f"Your guest could not be run: {done.stderr.strip().rpartition(chr(10))[2]}")
    return [Seen(*json.loads(line)) for line in done.stdout.splitlines()]


def halted(exits: list[Seen]) -> Finding:
    return Finding(exits[-1].reason == "HLT", f"Its last exit is {exits[-1].reason}.")


@exercise(
    "02.1",
    "A guest that shows the next letter",
    hints=(
        "After e4 60 the letter is in the register al. Add one to it before it goes out.",
        "fe c0 is inc al: put it between e4 60 and e6 e9.",
    ),
    wants="the guest's code, as bytes.fromhex('...')",
)
def next_letter(labs: Labs, answer: bytes) -> Iterator[Finding]:
    for key, wanted in ("K", "L"), ("h", "i"):
        exits = run(answer, key)
        shown = bytes.fromhex("".join(seen.data for seen in exits if (seen.port, seen.direction) == (OUTPUT, "out")))
        yield Finding(shown == wanted.encode(), f"You press {key}, and it shows {shown.decode('ascii', 'backslashreplace') or 'nothing'}.")
    yield halted(exits)


@exercise(
    "02.2",
    "Two letters on the screen with one exit before the halt",
    hints=(
        "One instruction can write four bytes: letter, colour, letter, colour. c7 04 25 is mov dword; the address and the four follow.",
        "c704 2500 800b 00 is mov dword [0xb8000], and 48 07 69 07 would be 'H' and 'i', grey on black. End with f4.",
    ),
    wants="the guest's code, as bytes.fromhex('...')",
)
def one_exit(labs: Labs, answer: bytes) -> Iterator[Finding]:
    exits = run(answer, "")
    screen: dict[int, int] = {}
    for seen in (seen for seen in exits if seen.address is not None and seen.direction == "out"):
        screen |= {seen.address + n: byte for n, byte in enumerate(bytes.fromhex(seen.data))}
    letters = [chr(screen.get(SCREEN + place, 0)) for place in (0, 2)]
    both = all(letter.isascii() and letter.isalpha() for letter in letters)
    yield Finding(both, f"At 0xb8000 and 0xb8002 stand {letters[0]!r} and {letters[1]!r}.")
    yield Finding(len(exits) == 2, f"Its exits: {', '.join(seen.reason for seen in exits)}.")
    yield halted(exits)


@exercise(
    "02.3",
    "The process that holds c1's VM",
    hints=(
        "ls -l /proc/*/fd/* 2>/dev/null | grep kvm-vm names all processes that hold a VM open: the number behind /proc/.",
        "One of them is this Python, for its own VMs. Which of the others has c1 on its command line? ps -ww -o args= -p PID",
    ),
    wants="a process's number (pid)",
)
def holder(labs: Labs, answer: int) -> Iterator[Finding]:
    pid = int(answer)
    guest = labs.guest("c1")
    if guest.accel == "tcg":
        yield Finding(False, "c1 runs on TCG, and no process holds a VM of it. This exercise needs KVM, and cannot be done here.")
        return
    vms = sum(link.startswith("anon_inode:kvm-vm") for link in _open_files(pid))
    there = (
        f"Process {pid} holds {vms or 'no'} VM{'s' if vms > 1 else ''} open" if Path(f"/proc/{pid}").exists() else f"No process is {pid}"
    )
    yield Finding(vms > 0, f"{there}{', and is this Python' if pid == os.getpid() else ''}.")
    its = vms > 0 and guest.uuid.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    yield Finding(its, f"Its command line {'names' if its else 'does not name'} c1.")


def _open_files(pid: int) -> list[str]:
    folder, links = Path(f"/proc/{pid}/fd"), []
    try:
        for file in folder.iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile, such as the folder itself where this Python looks at its own
                links.append(os.readlink(file))
    except PermissionError as error:
        raise CourseError(f"You may not look into process {pid}: it is another user's.") from error
    except FileNotFoundError:
        pass
    return links


@exercise(
    "02.4",
    "c1 stands still, and libvirt has not noticed",
    hints=(
        "Not with libvirt: below it c1 is a process, and a process can be stopped with a signal.",
        "kill -STOP PID, or in Python os.kill(c1.process.pid, signal.SIGSTOP). SIGCONT lets it go on.",
    ),
)
def stopped(labs: Labs, answer: None) -> Iterator[Finding]:
    guest = labs.guest("c1")
    for _ in range(20):  # a signal takes a moment
        states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{guest.process.pid}/task").glob("*/stat")]
        if (still := states.count("T")) == len(states):
            break
        time.sleep(0.05)
    yield Finding(still == len(states), f"{still} of the {len(states)} threads of process {guest.process.pid} are stopped (state T).")
    running = labs.lab("c1").domain("c1").state()[0] == 1  # VIR_DOMAIN_RUNNING
    yield Finding(running, f"libvirt says that c1 is {'running' if running else 'not running'}.")
