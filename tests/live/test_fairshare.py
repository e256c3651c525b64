"""Fair shares of real guests: what the kernel gives to the vCPUs on one host CPU, in proportion, is what the model says."""

import os
import time

import pytest

from kvmlab.guest import schedinfo
from kvmlab.measure.fairshare import Task, shares

CPUS = sorted(os.sched_getaffinity(0))[-2:]


def ran_ns(tid: int) -> int:
    with open(f"/proc/{tid}/schedstat") as file:
        return int(file.read().split()[0])


@pytest.mark.skipif(len(CPUS) < 2, reason="a guest's weight is divided between two CPUs: this machine has one")
def test_a_guest_with_vcpus_on_two_cpus_counts_on_each_as_the_model_says(lab):
    places = {("fs-a", 0): CPUS[0], ("fs-a", 1): CPUS[1], ("fs-b", 0): CPUS[1], ("fs-b", 1): CPUS[1]}
    guests = {name: lab.start(name, vcpus=2) for name in ("fs-a", "fs-b")}
    lab.plan(places).apply()
    for guest in guests.values():
        guest.work("spin")
    grouped = schedinfo.grouped(guest.process for guest in guests.values())
    tasks = [Task(str(key), frozenset({cpu}), group=key[0]) for key, cpu in places.items()]
    expected = {key: float(share.run) for key, share in zip(places, shares(tasks, grouped), strict=True)}
    tids = {key: guests[key[0]].process.vcpus[key[1]] for key in places}
    time.sleep(0.5)
    before = {key: ran_ns(tid) for key, tid in tids.items()}
    time.sleep(1.5)
    ran = {key: ran_ns(tid) - before[key] for key, tid in tids.items()}
    together = [key for key in places if places[key] == CPUS[1]]  # whatever else runs on this CPU takes from all of them alike
    for key in together:
        part = ran[key] / sum(ran[key] for key in together)
        assert part == pytest.approx(expected[key] / sum(expected[key] for key in together), rel=0.1)
