"""How long a move takes and how long the guest stands still: `./lab run python bench/migration.py`. No test asserts it."""

from __future__ import annotations

import time

import pandas as pd

from kvmlab import KvmlabError, TwoHosts

REPEATS = 10
SHOWN = {
    "seconds": "move s",
    "pause_s": "pause ms",
    "gap_s": "guest's own gap ms",
    "downtime_s": "libvirt's downtime ms",
    "sent_kib": "sent KiB",
}


def moves(a, b, vcpus: int, work: str, parameter: int | None) -> pd.DataFrame:
    guest = a.start(f"bench-{work}", vcpus=vcpus)
    guest.work(work, parameter=parameter)
    pair, found = (a, b), []
    for _ in range(REPEATS):
        found.append(pair[0].migrate(guest.name, pair[1], progress=False).result)
        pair = pair[::-1]
    guest.destroy()
    return pd.concat(found, ignore_index=True)


def row(found: pd.DataFrame) -> str:
    parts = []
    for column, name in SHOWN.items():
        values = found[column].dropna().astype(float) * (1000 if name.endswith("ms") else 1)
        parts.append(f"{name} {values.median():.3g} ({values.min():.3g} to {values.max():.3g})" if len(values) else f"{name} -")
    again = found["pages_again"].median()
    return f"{', '.join(parts)}, pages told again {again:.0f} of {found['memory_kib'][0] / 4:.0f}"


def saved(a, b) -> str:
    guest = a.start("bench-save", vcpus=2)
    guest.work("spin")
    begin = time.perf_counter()
    path = a.save("bench-save")
    middle = time.perf_counter()
    size = path.stat().st_size
    b.restore(path).destroy()
    return f"save {middle - begin:.2f} s, {size / 1024:.0f} KiB; restore {time.perf_counter() - middle:.2f} s"


def main() -> None:
    for accel in ("tcg", "kvm"):
        begin = time.perf_counter()
        try:
            hosts = TwoHosts(accel=accel)
        except KvmlabError as error:
            print(f"{accel}: {error}")
            continue
        print(f"{accel}: two hosts in {time.perf_counter() - begin:.2f} s; median of {REPEATS} moves (least to most):")
        with hosts as (a, b):
            for vcpus, work, parameter in ((1, "spin", None), (2, "spin", None), (1, "device", 16384), (1, "idle", None)):
                print(f"  {vcpus} vCPU {work}: {row(moves(a, b, vcpus, work, parameter))}", flush=True)
            print(f"  {saved(a, b)}")


if __name__ == "__main__":
    main()
