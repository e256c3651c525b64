"""The story of kvmlab in a terminal: two real guests, where their vCPUs run, and what two pins change."""

from __future__ import annotations

import pandas as pd

from kvmlab import measure
from kvmlab.lab import Lab

_SECONDS = 2


def tour() -> None:
    """Two guests that float, then stacked on one host CPU, then one to one; each measured; all undone. Some ten seconds."""
    print("A tour of kvmlab: two real guests with two virtual CPUs each, and where they run.\n")
    with Lab() as lab:
        print(f"libvirt at {lab.uri}. Guests run on {lab.accel.upper()}: {lab.accel_reason}.")
        for name in ("c1", "c2"):
            guest = lab.start(name, vcpus=2)
            guest.work("spin")
            print(f"Started {guest}; both spin.")
        first, second = _two_cpus(lab)
        everybody = [(guest, vcpu) for guest in ("c1", "c2") for vcpu in (0, 1)]
        runs = {"floating": _measure(lab, "1. Floating: each vCPU is one thread of QEMU, and the kernel moves it as it likes.")}
        _pin(lab, dict.fromkeys(everybody, second))
        runs["stacked"] = _measure(lab, f"2. Stacked: all of them on CPU {second}.")
        lab.undo()
        _pin(lab, {(guest, vcpu): (first, second)[vcpu] for guest, vcpu in everybody})
        runs["one to one"] = _measure(lab, "3. One to one: each guest has one vCPU on each of two host CPUs.")
        print("\n" + _verdict(runs))
        print(f"\nUndone: {lab.undo()} pins put back. {lab.close()}")


def _pin(lab: Lab, pins: dict) -> None:
    plan = lab.plan(pins)
    print("\nThe same, typed:", *(f"    {line}" for line in plan.commands()), sep="\n")
    plan.apply()


def _two_cpus(lab: Lab) -> list[int]:
    """Two host CPUs that the guests may use; the same one twice on a machine with one."""
    allowed = lab.plan({("c1", 0): lab.vcpus()["allowed_cpus"][0]}).pins[0].cpus
    return [allowed[0], allowed[min(1, len(allowed) - 1)]]


def _measure(lab: Lab, title: str) -> pd.DataFrame:
    print(f"\n{title}\n", flush=True)
    samples = lab.sample(seconds=_SECONDS)
    rates = measure.rates(samples).query("guest in ['c1', 'c2']")  # others may run here too: they are not part of this story
    table = rates.merge(lab.vcpus()[["guest", "vcpu", "tid", "allowed_cpus"]], on=["guest", "vcpu"])
    where = measure.residency(samples)
    ran = where[where["share"] >= 0.005].groupby(["guest", "vcpu"])[["cpu", "share"]].apply(_places)
    table["ran on"] = [ran.get((row.guest, row.vcpu), "") for row in table.itertuples()]
    names = {"allowed_cpus": "may use", "migrations_per_s": "moves/s", "run_pct": "ran %", "run_delay_pct": "waited %"}
    shown = table.rename(columns=names)[["guest", "vcpu", "tid", "may use", "ran on", "moves/s", "ran %", "waited %"]]
    print(shown.to_string(index=False, float_format="{:.1f}".format))
    return table


def _places(rows: pd.DataFrame) -> str:
    return ", ".join(f"CPU {row.cpu}: {100 * row.share:.0f} %" for row in rows.itertuples())


def _verdict(runs: dict[str, pd.DataFrame]) -> str:
    work = {name: run["turns_per_s"].sum() for name, run in runs.items()}
    shares = ", ".join(f"{name} {100 * turns / work['floating']:.0f} %" for name, turns in work.items() if name != "floating")
    return f"Work done by all four together, measured against floating: {shares}."
