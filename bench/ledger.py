"""What the ledger cannot explain, for every work: `./lab run python bench/ledger.py`. It prints residuals; no test asserts them all."""

from __future__ import annotations

from labs import labs

from kvmlab import Lab, measure
from kvmlab.guest.microguest.page import WORK

SECONDS, HZ = 3, 20


def residuals(lab: Lab) -> list[float]:
    return measure.ledger(lab.sample(SECONDS, HZ, progress=False))["residual_pct"].abs().round(2).tolist()


def works(lab: Lab, vcpus: int) -> None:
    """Of the vCPU that is explained worst."""
    guest = lab.start("bench-ledger", vcpus=vcpus)
    for work in WORK:
        if work == "stop" or (vcpus == 1 and work in ("ipi", "ping-pong")):
            continue
        guest.work("idle")
        guest.work(work, vcpus=[0] if work == "ipi" else None)
        print(f"{lab.accel} {vcpus} vCPU {work:12} {max(residuals(lab)):6.2f} % of {SECONDS} s (wanted: under 2)", flush=True)
    guest.destroy()


def shared(lab: Lab) -> None:
    guests = [lab.start(name) for name in ("bench-a", "bench-b")]
    cpu = lab.vcpus()["cpu"].iloc[0]
    lab.plan({(guest.name, 0): str(cpu) for guest in guests}).apply()
    for guest in guests:
        guest.work("spin")
    print(f"{lab.accel} two spinning guests on one CPU: {residuals(lab)} %", flush=True)


if __name__ == "__main__":
    for lab in labs():
        works(lab, 1)
        works(lab, 2)
        shared(lab)
