"""Many lab guests on one machine: `./lab run python bench/guests.py`. It prints what they cost; no test asserts it."""

from __future__ import annotations

import time

from kvmlab import Lab


def timed(deed) -> float:
    begin = time.perf_counter()
    deed()
    return time.perf_counter() - begin


def resident_mib(lab: Lab) -> float:
    """Memory of all QEMU processes, shared pages counted by their share (PSS)."""
    total = 0
    for pid in lab.guests()["pid"]:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024


def cpu_seconds(lab: Lab) -> float:
    """CPU time of all QEMU processes so far, all of their threads."""
    total = 0
    for process in lab.processes():
        for tid in [*process.vcpus.values(), *process.iothreads, *process.emulator]:
            with open(f"/proc/{process.pid}/task/{tid}/schedstat") as file:
                total += int(file.read().split()[0])
    return total / 1e9


def main() -> None:
    with Lab() as lab:
        print(lab)
        first = lab.start("bench-0")
        print(f"its first work taken up: {1e3 * timed(lambda: first.work('spin')):.1f} ms (a bell by pty: up to 1000)")
        print(f"its whole CPUID, {len(first.cpuid_all())} leaves: {1e3 * timed(first.cpuid_all):.1f} ms (wanted: under 100)")
        first.work("idle")
        modelled = timed(lambda: lab.start("bench-m", cpu="Westmere", topology="2x2x2x2"))
        print(f"16 vCPUs of a model, in a topology: {modelled:.2f} s (wanted: as without)")
        print(f"one more guest: {timed(lambda: lab.start('bench-1')):.2f} s (wanted: under 1)")
        print(f"28 more guests: {timed(lambda: [lab.start(f'bench-{n}') for n in range(2, 30)]):.1f} s (wanted: 30 under 20)")
        begin = timed(lambda: lab.start("bench-30"))
        print(f"30 guests gone: {timed(lab.close):.1f} s (wanted: under 10); the 31st started in {begin:.2f} s")
    with Lab() as lab:
        for n in range(50):
            lab.start(f"bench-{n}")
        print(f"50 running guests: {resident_mib(lab):.0f} MiB in all (wanted: under 1024)")
        for n in range(50, 100):
            lab.start(f"bench-{n}")
        time.sleep(2)
        before, begin = cpu_seconds(lab), time.monotonic()
        time.sleep(10)
        share = (cpu_seconds(lab) - before) / (time.monotonic() - begin)
        print(f"100 idle guests: {100 * share:.2f} % of one CPU together (wanted: under 10)")


if __name__ == "__main__":
    main()
