"""What the tests of pins ask the kernel, and the processes that they pin."""

import os
import subprocess
from contextlib import suppress

import pytest

from kvmlab import Lab, cpulist

CPUS = sorted(os.sched_getaffinity(0))
ALL = cpulist.format(CPUS)
FIRST, LAST = CPUS[0], CPUS[-1]
two = pytest.mark.skipif(len(CPUS) < 2, reason="one CPU: there is nowhere to go")
ROOT = os.geteuid() == 0


def another_thread(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "up\n"


def affinities(process) -> dict[int, set[int]]:
    process.look()
    tids = (*process.vcpus.values(), *process.iothreads, *process.emulator)
    return {tid: cpus for tid in tids if (cpus := may_use(tid)) is not None}  # QEMU's idle workers end when they like


def may_use(tid: int) -> set[int] | None:
    with suppress(ProcessLookupError):
        return os.sched_getaffinity(tid)
    return None


def tids(process: subprocess.Popen) -> set[int]:
    return set(map(int, os.listdir(f"/proc/{process.pid}/task")))


def of_process(pid: int) -> list[set[int]]:
    return [os.sched_getaffinity(int(tid)) for tid in os.listdir(f"/proc/{pid}/task")]


def virsh(lab: Lab, *words: str) -> str:
    return subprocess.run(["virsh", "-c", lab.uri, *words], capture_output=True, text=True, check=True, timeout=30).stdout
