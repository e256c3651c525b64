"""What a comparison of reports looks at in each kind of frame: what tells its rows apart, what is a state, and what is a result.

All other columns are of the moment: process numbers, times of day, counters, and where a floating thread happened to be.
"""

from __future__ import annotations

from typing import NamedTuple


class Role(NamedTuple):
    """Of a kind of frame. Rows that have the same keys are repeats of each other."""

    keys: tuple[str, ...]
    states: tuple[str, ...]  # exact: another value is a difference
    results: tuple[str, ...]  # measured: a difference is what lies beyond noise; "run_s/seconds" is a part of these seconds
    loose: bool  # which rows there are depends on the moment too


def _read(table: str) -> dict[str, Role]:
    rows = ([part.split() for part in line.split("|")] for line in table.strip().splitlines())
    return {kind.strip("*"): Role(*map(tuple, columns), kind.endswith("*")) for (kind,), *columns in rows}


# kind, * where rows come and go | keys | states | results
ROLES = _read("""
cpus              | cpu                        | online node socket die core smt isolated nohz_full |
caches            | cache level type           | size_kib cpus |
nodes             | node                       | cpus mem_total_kib hugepages |
isolation         | cpu                        | isolcpus managed_irq nohz_full rcu_nocbs |
kvm               | module parameter           | value      |
flags             | flag                       | cpus       |
affinity*         | comm kind                  | allowed_cpus movable |
loops             | isolcpus started_on        | allowed_cpus | share waited
subsystems        | subsystem device           |            |
layers            | layer vcpu                 |            |
guests            | guest                      | state vcpus |
numbers           | guest vcpu                 | asked qemu seen node |
compared_topology | vcpu                       | asked seen same |
vcpus             | guest vcpu                 | allowed_cpus work |
pins              | guest thread cpu           | may_run wished |
schedinfo         | guest                      | cpu_shares quota period_s |
lint*             | rule severity vcpus cpus   |            |
delta             | guest vcpu                 |            | run_pct run_delay_pct migrations_per_s turns_per_s
ledger            | guest vcpu                 |       | run_s/seconds user_s/seconds kernel_s/seconds guest_s/seconds run_delay_s/seconds
exits*            | guest vcpu reason          |            | exits_per_s
modes*            | guest workload mode        |            | share turns_per_s
moves             | guest source destination   | vcpus      | seconds pause_s gap_s downtime_s
pingpong          | cpu_a cpu_b                | relation   | round_trip_ns
ratios*           | set                        | cpus online |
overcommit        | guests guest vcpu          | work cpus weight quota | share waited felt switches_per_s turns_per_s p99_s longest_s
placement         | plan guest vcpu            | work cpus  | share waited migrations_per_s turns_per_s p99_s longest_s
lock_collapse     | vcpus cpus                 |            | passes_per_s share waited
cpu_models        | arch model                 | kvm tcg kvm_missing tcg_missing |
cpu_expansion     | model feature              | possible origin |
cpu_trials        | accel model match check fallback | starts becomes |
asked_got         | guest feature              | asked live got |
will_start        | model host                 | starts missing |
will_migrate      | source destination         | moves missing best_model |
""")
