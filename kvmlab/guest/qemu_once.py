"""Ask QEMU itself: a QEMU without a machine, guest or file is started, answers in a twentieth of a second, and ends.

libvirt does the same to learn what a QEMU can do, and keeps only a part of the answer.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from kvmlab.errors import GuestError

_PATIENCE_S = 20
_OPTIONS = ["-S", "-no-user-config", "-nodefaults", "-nographic", "-qmp", "stdio"]


def ask(emulator: str, accel: str, command: str) -> Any:
    """What QEMU's monitor answers to a command without arguments, such as "query-cpu-definitions".

    Raises
    ------
    GuestError
        When the program cannot be started, ends without an answer, or refuses.
    """
    commands = [{"execute": "qmp_capabilities"}, {"execute": command, "id": command}, {"execute": "quit"}]
    try:  # run() kills and reaps it when the time is up
        done = subprocess.run(
            [emulator, *_OPTIONS, "-machine", f"none,accel={accel}"],
            input="\n".join(map(json.dumps, commands)),
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
    except OSError as error:
        raise GuestError(f"{emulator} cannot be started: {error.strerror}. Install QEMU: apt install qemu-system-x86.") from error
    except subprocess.TimeoutExpired as error:
        raise GuestError(f"{emulator} did not answer {command} within {_PATIENCE_S} s.") from error
    return _answer(emulator, command, done)


def _answer(emulator: str, command: str, done: subprocess.CompletedProcess) -> Any:
    lines = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    answer = next((line for line in lines if line.get("id") == command), None)
    if answer is None:
        raise GuestError(f"{emulator} ended without an answer to {command}: {' '.join(done.stderr.split()) or 'it said nothing'}.")
    if "error" in answer:
        raise GuestError(f"{emulator} refuses {command}: {answer['error'].get('desc')}.")
    return answer["return"]
