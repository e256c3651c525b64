"""The system daemons that a Lab starts where root has none, and stops again.

`libvirtd` (or `virtqemud`) and the `virtlogd` it writes logs through run with their own idle time-outs: should nobody be
left to stop them, they stop themselves.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kvmlab.errors import ConnectError

IDLE_S = 30
_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin:/bin"


class Daemon:
    """The daemons behind qemu:///system, for as long as a Lab needs them."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by stop)
        self._program = next((path for name in ("libvirtd", "virtqemud") if (path := shutil.which(name, path=_PATH))), None)
        if self._program is None:
            raise ConnectError("There is no libvirt daemon on this machine: apt install libvirt-daemon-system qemu-system-x86.")

    def start(self, connect: Callable, patience_s: float = 15):
        """Start what is not there and return what `connect` returns once it succeeds.

        A daemon that another process just stopped may hold its lock for a moment: one that ends at once is started again.
        """
        deadline = time.monotonic() + patience_s
        log_daemon = shutil.which("virtlogd", path=_PATH)
        while True:
            if log_daemon and not _listening("virtlogd-sock"):
                self._spawn(log_daemon)
            self._spawn(self._program)
            pause = time.monotonic() + 1
            while time.monotonic() < pause or self._processes[-1].poll() is None:
                if (connection := connect()) is not None:
                    return connection
                if time.monotonic() > deadline:
                    raise ConnectError(f"{self._program} was started and does not answer: {self._said()}")
                time.sleep(0.02)

    def _spawn(self, program: str) -> None:
        command = [program, "--timeout", str(IDLE_S)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": self._log}
        self._processes.append(subprocess.Popen(command, start_new_session=True, **streams))

    def _said(self) -> str:
        self._log.seek(0)
        return " ".join(self._log.read().split())[-500:] or "it said nothing"

    def stop(self) -> None:
        """Stop them, unless somebody else is connected by now: then their idle time-out does."""
        if not self._busy():
            for process in reversed(self._processes):
                process.terminate()
            for process in self._processes:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
        self._processes.clear()
        self._log.close()

    def _busy(self, patience_s: float = 0.5) -> bool:
        """Whether others are connected; our own connection is closed, but the daemon may be slower to notice."""
        deadline = time.monotonic() + patience_s
        while busy := _listening("libvirt-sock", "virtqemud-sock", connected=True):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return busy


def _listening(*sockets: str, connected: bool = False) -> bool:
    """Whether somebody listens on (or is connected to) one of libvirt's sockets: /proc/net/unix, proc_net_unix(5)."""
    wanted = "03" if connected else "01"
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(len(f) == 8 and f[5] == wanted and f[7].rpartition("/")[2] in sockets for f in lines)
