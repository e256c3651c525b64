"""Host.threads() beside its peers, in one run: `./lab run python bench/threads.py`. It prints ratios; no test asserts them.

The peers: ps; psutil, as near to the same table as it gets (it knows no CPU, name or policy of a thread); and two bare loops
that list the same folders and read the same files and make nothing of them, by os.open and by open.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from statistics import median

import psutil

from bench import command
from kvmlab import Host

ROUNDS = 7
PS = ("ps", "-eLo", "ruser,pid,ppid,lwp,psr,args")
THREADS = """
import os, sys, threading
threading.stack_size(64 * 1024)
for _ in range(int(sys.argv[1])):
    threading.Thread(target=threading.Event().wait).start()
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""
PROCESSES = """
import os, sys
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        break
else:
    print("ready", flush=True)
os.read(0, 1)
os._exit(0)
"""
MEMORY = """
import re, kvmlab.columns
from kvmlab import Host
host = Host()
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
before = peak()
threads = host.threads()
print(len(threads), (peak() - before) / 1024)
"""


@contextmanager
def sleeping(code: str, count: int) -> Iterator[None]:
    """`count` sleeping threads or processes; they end when the pipe that they read is closed, however that comes."""
    with subprocess.Popen([sys.executable, "-c", code, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        starter.stdout.readline()
        yield
        starter.stdin.close()


def places() -> Iterator[str]:
    """The files that Host.threads() reads, from the same listings."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            yield from (f"/proc/{pid}/task/{tid}/stat" for tid in os.listdir(f"/proc/{pid}/task"))
            yield from (f"/proc/{pid}/status", f"/proc/{pid}/cmdline")


def by_os_open() -> None:
    for path in places():
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, 4096)
            os.close(fd)


def by_open() -> None:
    for path in places():
        with suppress(OSError), open(path, "rb") as file:
            file.read()


def by_psutil() -> list[tuple]:
    rows = []
    for process in psutil.process_iter(["username", "pid", "ppid", "cmdline", "name"]):
        with suppress(psutil.NoSuchProcess):
            about = tuple(process.info.values())
            rows += [(*about, *thread) for thread in process.threads()]
    return rows


def compare(what: str, beside_ps: str) -> None:
    host = Host()
    deeds: dict[str, Callable] = {
        "ps": command(*PS),
        "psutil": by_psutil,
        "os.open, read, close": by_os_open,
        "open().read()": by_open,
    }
    wanted = {"ps": beside_ps, "psutil": "under 1", "os.open, read, close": "under 1.5", "open().read()": "under 1.5"}
    ours, theirs = [], {name: [] for name in deeds}
    for _ in range(ROUNDS):  # in turns, so that whatever else this machine does falls upon all of them
        ours.append(seconds(host.threads))
        for name, deed in deeds.items():
            theirs[name].append(seconds(deed))
    print(f"{what}: {len(host.threads())} threads, host.threads() {1e3 * median(ours):.1f} ms")
    for name, taken in theirs.items():
        print(
            f"    {name:24} {1e3 * median(taken):9.1f} ms   ratio {median(ours) / median(taken):5.2f}   (wanted: {wanted[name]})",
            flush=True,
        )


def seconds(deed: Callable) -> float:
    begin = time.perf_counter()
    deed()
    return time.perf_counter() - begin


def memory() -> None:
    count, mib = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True).stdout.split()
    print(f"memory for {count} threads: {float(mib):.1f} MiB more than after the import   (wanted: under 100)")


if __name__ == "__main__":
    for count in (5_000, 20_000):
        with sleeping(THREADS, count):
            compare(f"one process of {count} threads", "under 0.33")
            if count == 20_000:
                memory()
    with sleeping(PROCESSES, 1_000):
        compare("1000 processes of one thread", "under 1: reading takes half of its time")
