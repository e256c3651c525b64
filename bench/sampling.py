"""Sampling 16 vCPUs beside its peers, in one run: `./lab run python bench/sampling.py`. It prints ratios; no test asserts them.

One reading is compared with libvirt's domain statistics of the same guest through its API, and with virsh; the share of a CPU
that sampling at 10 Hz takes is this process's own CPU time, the making of the frame left out and printed apart.
"""

from __future__ import annotations

import time

import libvirt

from bench import command, report, seconds
from kvmlab import Lab, measure
from kvmlab.guest import vcpus
from kvmlab.guest.watch import Guests, Watch

NAME, SECONDS = "bench-sampling", 10


def one_reading(lab: Lab) -> None:
    domain, process = lab.domain(NAME), lab.process(NAME)
    watch = Watch(lambda: [process])
    watch.look()
    ours = seconds(watch.rows, 200)
    statistics = libvirt.VIR_DOMAIN_STATS_VCPU
    theirs = seconds(lambda: lab.connection.domainListGetStats([domain], statistics), 50)
    report("one sample of 16 vCPUs", ours, "libvirt's domain statistics", theirs, "under 0.1")
    theirs = seconds(lambda: lab.connection.getAllDomainStats(statistics), 50)
    report("one sample of 16 vCPUs", ours, "getAllDomainStats", theirs, "under 0.1")
    theirs = seconds(command("virsh", "domstats", "--vcpu", NAME), 20)
    report("one sample of 16 vCPUs", ours, "virsh domstats --vcpu", theirs, "under 0.02")
    report("one sample of 16 vCPUs", ours, "opening the files each time", seconds(lambda: vcpus.rows(process), 200), "under 1")
    watch.close()


def looking(lab: Lab) -> None:
    watch = Watch(Guests(lab))
    watch.look()
    report("looking for new guests, once a second", seconds(watch.look, 50), "1 % of a CPU", 0.01, "under 1")
    watch.close()


def at_10_hz(lab: Lab) -> None:
    with measure.Sampler(lab, hz=10) as sampler:
        begin, used = time.monotonic(), time.process_time()
        time.sleep(SECONDS)
        share = (time.process_time() - used) / (time.monotonic() - begin)
    report("CPU time a second, sampling at 10 Hz", share, "1 % of a CPU", 0.01, "under 1")
    samples = sampler.frame()
    print(f"    {len(samples)} rows, {samples.attrs['missed']} of {SECONDS * 10} ticks missed")
    report("frame() of them", seconds(sampler.frame, 9), "the time it took to sample", SECONDS, "none")
    report("measure.ledger() of them", seconds(lambda: measure.ledger(samples), 9), "the same", SECONDS, "none")


if __name__ == "__main__":
    for accel in ("auto", "tcg"):
        with Lab(accel=accel) as lab:
            print(lab)
            lab.start(NAME, vcpus=16)
            one_reading(lab)
            looking(lab)
            at_10_hz(lab)
