"""Placement, measured: `./lab run python bench/placement.py`. It prints figures of this machine; no test asserts them.

What all else took is told with each plan where it was much: such figures say more about that than about the plan.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from labs import labs

from kvmlab import Lab, cpulist, measure
from kvmlab.guest.guest import Guest
from kvmlab.plots import plans_in_words

SECONDS, REPEATS = 2, 5
CPUS = sorted(os.sched_getaffinity(0))
A, B = (str(cpu) for cpu in (CPUS[0], CPUS[-1]))
FLOAT = cpulist.format({CPUS[0], CPUS[-1]})


@contextmanager
def guests(lab: Lab, vcpus: dict[str, int], work: str = "spin", parameter: int | None = None) -> Iterator[list[Guest]]:
    """Guests that work, and may use two CPUs."""
    there = [lab.start(name, vcpus=number) for name, number in vcpus.items()]
    lab.plan({(name, vcpu): FLOAT for name, number in vcpus.items() for vcpu in range(number)}).apply()
    for guest in there:
        guest.work(work, parameter=parameter)
    yield there
    lab.end(there)
    lab.undo()


def compare(lab: Lab, what: str, plans: dict[str, dict]) -> None:
    print(f"\n{lab.accel}: {what}", flush=True)
    print(plans_in_words(measure.placement(lab, plans, SECONDS, REPEATS, progress=False)), flush=True)


def four(lab: Lab) -> None:
    """Two guests of two vCPUs on two CPUs."""
    one_to_one = {(guest, vcpu): cpu for guest in ("pl-1", "pl-2") for vcpu, cpu in enumerate((A, B))}
    plans = {"float": {}, "one-to-one": one_to_one, "stacked": dict.fromkeys(one_to_one, A)}
    with guests(lab, {"pl-1": 2, "pl-2": 2}):
        compare(lab, "four busy vCPUs", plans | {"dedicated": dict.fromkeys(one_to_one, A) | {("pl-1", 0): B}})


def emulator(lab: Lab) -> None:
    """Does a vCPU do less where QEMU's other threads share its CPU? And what do these run at all?"""
    for work in ("spin", "port-io", "mmio", "device", "duty"):
        with guests(lab, {"pl-1": 1}, work) as (guest,):
            plans = {name: {("pl-1", 0): A, ("pl-1", "emulator"): cpu} for name, cpu in (("apart", B), ("beside", A))}
            before = ran_s(guest)
            compare(lab, f"a vCPU that does '{work}', and QEMU's other threads", plans)
            spent = 2 * REPEATS * SECONDS
            print(f"the other threads ran {100 * (ran_s(guest) - before) / spent:.3f} % of the time")


def ran_s(guest: Guest) -> float:
    """Of QEMU's threads that are no vCPU."""
    total = 0
    for tid in guest.process.look().emulator:
        with open(f"/proc/{tid}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


@contextmanager
def neighbour(cpu: str) -> Iterator[int]:
    """An ordinary busy process on one CPU."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.sched_setaffinity(busy.pid, {int(cpu)})
    yield busy.pid
    busy.kill()
    busy.wait()


def noisy(lab: Lab) -> None:
    with guests(lab, {"pl-1": 2}), neighbour(A):
        compare(lab, f"two busy vCPUs, and a busy process on CPU {A}", {"float": {}, "one-to-one": {("pl-1", 0): A, ("pl-1", 1): B}})


def losing(lab: Lab) -> None:
    """More work than CPUs in the pinned set while others idle: who may not leave, loses."""
    with guests(lab, {"pl-1": 1}), neighbour(A):
        compare(lab, f"one busy vCPU, and a busy process on CPU {A}", {"float": {}, "pinned there": {("pl-1", 0): A}})
    three = {"pl-1": 1, "pl-2": 1, "pl-3": 1}
    with guests(lab, three):
        pins = {(name, 0): cpu for name, cpu in zip(three, (A, A, B), strict=True)}
        compare(lab, "three busy vCPUs", {"float": {}, "two and one": pins, "all on one": dict.fromkeys(pins, A)})
    with guests(lab, three, "duty", 60):
        compare(lab, "three vCPUs that are busy 60 % of the time", {"float": {}, "two and one": pins})


if __name__ == "__main__":
    for lab in labs():
        for part in (four, noisy, losing, emulator) if len(CPUS) > 1 else ():
            part(lab)
