"""A program of its own: start daemons, and when whoever started it is gone, however it went, end all that they started.

It is the subreaper of its daemons (prctl(2)): a QEMU that libvirt daemonizes becomes its child, whose end it notices at once;
where that is left to a slow process 1, libvirt waits up to two seconds for each QEMU that it ends.

Its argument is JSON: `folder`, removed at the end; `commands`, each with its environment; `user`, keywords of subprocess.Popen.
Whoever started it holds the other end of its standard input, and writes ALL_ANSWER there once the daemons do: if one ends before
that, all is over.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

ALL_ANSWER = b"!"
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36


def main(folder: str, commands: list, user: dict) -> None:
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(_PR_SET_NAME, b"kvmlab-guard", 0, 0, 0)  # not "python": a pkill of all of these should leave it alone
    streams = {"stdin": subprocess.DEVNULL, "start_new_session": True}
    daemons = [subprocess.Popen(command, env=environment, **streams, **user) for command, environment in commands]
    if _all_come_up(daemons):
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps; not before, for the daemons would inherit it
        sys.stdin.buffer.read()
    while True:
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # grandchildren come to us when their parents go: now there is nobody left
            break
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def _all_come_up(daemons: list) -> bool:
    """Wait until there is something to read on standard input, be it its end."""
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        ended = os.waitpid(-1, os.WNOHANG)[0]  # whatever there is to reap
        if ended in [daemon.pid for daemon in daemons]:
            return False
    return True


def _children() -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():  # proc(5): the parent
                found.append(int(name))
    return found


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
