"""Over-commit beside the model: `./lab run python bench/overcommit.py`. It prints figures; no test asserts them all.

A run counts where all else took less than 2 % of the measured CPUs; what is left out for that is said. Deviations are those of the
medians of the runs, of the guest that deviates most.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pandas as pd
from labs import labs

from kvmlab import Lab, measure
from kvmlab.host import cpulist
from kvmlab.host.cpusets import online_cpus
from kvmlab.host.sysroot import SysRoot

SECONDS, REPEATS, QUIET = 2, 5, 0.02
CPUS = online_cpus(SysRoot("/"))
ONE, TWO = str(CPUS[-1]), f"{CPUS[-2]},{CPUS[-1]}" if len(CPUS) > 1 else None
COLUMNS = ["share", "predicted", "waited", "predicted_waited", "felt", "turns_per_s", "predicted_turns_per_s", "others"]


def quiet(runs: pd.DataFrame) -> pd.DataFrame:
    """The medians of each guest's quiet runs."""
    known = runs[(runs["others"] < QUIET).fillna(True)]
    count = [len(rows.drop_duplicates(["guests", "repeat"])) for rows in (known, runs)]
    print(f"  {count[0]} of {count[1]} runs were quiet; others took {runs['others'].median():.3f}, {runs['others'].max():.3f} at most")
    return known.groupby(["guests", "guest", "vcpu"])[COLUMNS].median().astype(float).reset_index()


def worst(values: pd.Series, expected: pd.Series | float) -> str:
    return f"{100 * (values / expected - 1).abs().max():.2f} %"


def equal(lab: Lab, cpus: str, wanted: str) -> None:
    print(f"{lab.accel}, spinning guests on CPUs {cpus}; share and run delay {wanted} of the model", flush=True)
    runs = measure.overcommit(lab, range(1, 9), cpus, "spin", SECONDS, REPEATS, progress=False)
    for guests, rows in quiet(runs).groupby("guests"):
        waits = rows[rows["predicted_waited"] > 0.01]
        share = worst(rows["share"], rows["predicted"])
        delay = worst(waits["waited"], waits["predicted_waited"]) if len(waits) else f"{100 * rows['waited'].max():.2f} % of the time"
        felt = worst(waits["felt"], waits["waited"]) if len(waits) else "-"
        turns, fair = worst(rows["turns_per_s"], rows["predicted_turns_per_s"]), measure.jain(rows["share"])
        print(f"  {guests}: share {share}, run delay {delay}, felt against delay {felt} (wanted: 10 %), turns {turns}, Jain {fair:.5f}")
    print(f"  sampler: {100 * runs.attrs['sampler']:.2f} % of a CPU", flush=True)


def plain(processes: int, cpus: str) -> None:
    """The same with loops instead of guests: what the kernel's balancer does, which moves a whole thread now and then, is its own."""
    there = [subprocess.Popen(["taskset", "-c", cpus, sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    time.sleep(0.5)
    shares = []
    for _ in range(REPEATS):
        before = [ran_s(one.pid) for one in there]
        time.sleep(SECONDS)
        shares.append([(ran_s(one.pid) - ran) / SECONDS for one, ran in zip(there, before, strict=True)])
    for one in there:
        one.kill()
        one.wait()
    medians = pd.DataFrame(shares).median()
    print(f"{processes} busy loops on CPUs {cpus}, no guests: share {worst(medians, len(cpulist.parse(cpus)) / processes)} of the model")


def ran_s(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def given(lab: Lab, what: str, **parameters) -> None:
    print(f"{lab.accel}, four spinning guests on CPU {ONE}, {what} (wanted: 2 %)", flush=True)
    for row in quiet(measure.overcommit(lab, 4, ONE, "spin", SECONDS, REPEATS, progress=False, **parameters)).itertuples():
        print(f"  {row.guest}: share {row.share:.4f}, model {row.predicted:.4f}; delay {row.waited:.4f}, model {row.predicted_waited:.4f}")


def duty(lab: Lab, percent: int) -> None:
    print(f"{lab.accel}, guests that are busy {percent} % of the time, on CPU {ONE}", flush=True)
    runs = measure.overcommit(lab, (1, 2, 3, 4), ONE, "duty", SECONDS, 3, parameter=percent, progress=False)
    for guests, rows in quiet(runs).groupby("guests"):
        mean = rows.mean(numeric_only=True)
        print(f"  {guests}: share {mean.share:.3f}, model {mean.predicted:.3f}; delay {mean.waited:.3f}, model {mean.predicted_waited:.3f}")


def idle(lab: Lab, guests: int) -> None:
    begin = time.perf_counter()
    runs = measure.overcommit(lab, guests, ONE, "idle", 5, 1, progress=False)
    spent = time.perf_counter() - begin
    print(f"{lab.accel}, {guests} idle guests: {100 * runs['share'].sum():.4f} % of a CPU together; {spent:.0f} s with their start")


def lock(lab: Lab) -> None:
    """Beside one vCPU alone."""
    runs = measure.lock_collapse(lab, (1, 2, 4), (TWO, ONE) if TWO else (ONE,), 1, REPEATS, progress=False)
    passes = runs.groupby(["cpus", "vcpus"])["passes_per_s"].agg(["median", "min", "max"])
    alone = passes["median"].max()
    for (cpus, vcpus), row in passes.iterrows():
        told = f"{row['median']:,.0f} passes a second ({row['min']:,.0f} to {row['max']:,.0f})"
        print(f"{lab.accel}, lock, {vcpus} vCPUs on CPUs {cpus}: {told}, 1/{alone / row['median']:,.0f}")


if __name__ == "__main__":
    for processes in (3, 4, 7) if TWO else ():
        plain(processes, TWO)
    for lab in labs():
        equal(lab, ONE, "2 %")
        if lab.uri.endswith("/system"):
            given(lab, "shares 1:2:4:8", weights=(512, 1024, 2048, 4096))
            given(lab, "one with a quota of 10 %", quota=(0.1,))
        duty(lab, 30)
        if TWO:
            equal(lab, TWO, "5 %")
        lock(lab)
        idle(lab, 30)
