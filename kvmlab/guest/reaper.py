"""A program of its own: run a daemon, and notice at once when one of the processes that it left to themselves ends.

libvirt daemonizes each QEMU and waits for its end until somebody has reaped it. That is process 1, and where that one is slow
(containers) each end of a guest, and each look at what a QEMU can do, takes up to two seconds instead of a fifth of one. A
subreaper (prctl(2)) gets these processes instead of process 1. It ends when the daemon and they have.
"""

import ctypes
import os
import subprocess
import sys

_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36


def main(command: list[str]) -> int:
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(_PR_SET_NAME, b"kvmlab-reaper", 0, 0, 0)
    daemon, code = subprocess.Popen(command), 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return code
        if pid == daemon.pid:
            code = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
