"""The system daemons that a Lab starts where root has none.

`libvirtd` (or `virtqemud`) and the `virtlogd` it writes guests' logs through run with a short idle time-out and stop themselves
when nobody is connected any more. They are never sent a signal: a libvirtd 9.0 that is told to stop while somebody's
auto-destroy guest still runs waits for itself for ever, and only the daemon knows for sure who is connected.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from kvmlab.errors import ConnectError

IDLE_S = 5
_STUCK_S = 3  # without a socket, and not gone either
_OPTIONS = ["--timeout", str(IDLE_S)]
_LOG_SOCKET = "/run/libvirt/virtlogd-sock"
_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin:/bin"


def program() -> str:
    """The daemon's path."""
    found = next((path for name in ("libvirtd", "virtqemud") if (path := shutil.which(name, path=_PATH))), None)
    if found is None:
        raise ConnectError("There is no libvirt daemon on this machine: apt install libvirt-daemon-system qemu-system-x86.")
    return found


class Daemon:
    """The daemons behind qemu:///system."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (theirs for as long as they run)
        self._program = program()

    def start(self, connect: Callable, patience_s: float = 15):
        """Start what is not there and return what `connect` returns once it succeeds.

        A daemon that another process just stopped may hold its lock for a moment: one that ends at once is started again.
        """
        begin = time.monotonic()
        while True:
            daemon, pause = _spawn(self._program, self._log), time.monotonic() + 1
            while time.monotonic() < pause or daemon.poll() is None:
                if (connection := connect()) is not None:
                    return connection
                if time.monotonic() > begin + patience_s:
                    raise ConnectError(f"{self._program} was started and does not answer: {self._said()}")
                time.sleep(0.02)
            if time.monotonic() > begin + _STUCK_S:
                self._kill_stuck()

    def _said(self) -> str:
        self._log.seek(0)
        return " ".join(self._log.read().split())[-500:] or "it said nothing"

    def _kill_stuck(self) -> None:
        """End a daemon that some Lab started and that hangs: it holds the lock of its pid file and listens no more."""
        with suppress(OSError, ValueError):
            pid = int(Path("/run", f"{Path(self._program).name}.pid").read_text())
            ours = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1:3] == _OPTIONS
            if ours and not _listening("libvirt-sock", "virtqemud-sock"):
                os.kill(pid, signal.SIGKILL)


def hold_log_daemon() -> socket.socket | None:
    """A connection to virtlogd, started where none listens: as long as it is open, virtlogd does not end for idleness.

    libvirtd connects to it only while a guest runs and never starts it, so that without this a guest that is started
    later would find none.
    """
    program, begin, started = shutil.which("virtlogd", path=_PATH), time.monotonic(), False
    while program and time.monotonic() < begin + 3:
        held = socket.socket(socket.AF_UNIX)
        try:
            held.connect(_LOG_SOCKET)
            return held
        except OSError:
            held.close()
        if not started:
            _spawn(program, subprocess.DEVNULL)
        started = True
        time.sleep(0.02)
    return None


def _spawn(program: str, log: IO | int) -> subprocess.Popen:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": log}
    reaper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py"))]
    return subprocess.Popen([*reaper, program, *_OPTIONS], start_new_session=True, **streams)


def _listening(*sockets: str) -> bool:
    """Whether somebody listens on one of libvirt's sockets: /proc/net/unix, see proc_net_unix(5)."""
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(len(f) == 8 and f[5] == "01" and f[7].rpartition("/")[2] in sockets for f in lines)
