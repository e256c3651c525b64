"""Pictures: a frame in, matplotlib Axes out, nothing else. The ``..._in_words`` functions say the same as text.

One palette everywhere (Okabe-Ito, which colour-blind people can tell apart), on white, so that a dark JupyterLab shows it too.
"""

from kvmlab.plots.affinity import affinity, affinity_in_words
from kvmlab.plots.isolation import isolation_in_words, loops, loops_in_words
from kvmlab.plots.layers import layers, layers_in_words
from kvmlab.plots.machine import machine
from kvmlab.plots.machines import machines, machines_in_words
from kvmlab.plots.migration import migration, migration_in_words
from kvmlab.plots.models import will_migrate, will_migrate_in_words, will_start, will_start_in_words
from kvmlab.plots.modes import exits, life, modes, modes_in_words
from kvmlab.plots.overcommit import overcommit, overcommit_in_words
from kvmlab.plots.pingpong import pingpong, pingpong_in_words, pingpong_runs
from kvmlab.plots.pins import pins, pins_in_words
from kvmlab.plots.placement import placement, rates
from kvmlab.plots.plans import plans, plans_in_words
from kvmlab.plots.style import PALETTE
from kvmlab.plots.tails import lock_collapse, lock_collapse_in_words, tails, tails_in_words
from kvmlab.plots.usage import cpu_times, cpu_times_in_words, threads_per_cpu, threads_per_cpu_in_words
from kvmlab.plots.waits import waits, waits_in_words
from kvmlab.plots.words import machine_in_words

__all__ = [
    "PALETTE",
    "affinity",
    "affinity_in_words",
    "cpu_times",
    "cpu_times_in_words",
    "exits",
    "isolation_in_words",
    "layers",
    "layers_in_words",
    "life",
    "lock_collapse",
    "lock_collapse_in_words",
    "loops",
    "loops_in_words",
    "machine",
    "machine_in_words",
    "machines",
    "machines_in_words",
    "migration",
    "migration_in_words",
    "modes",
    "modes_in_words",
    "overcommit",
    "overcommit_in_words",
    "pingpong",
    "pingpong_in_words",
    "pingpong_runs",
    "pins",
    "pins_in_words",
    "placement",
    "plans",
    "plans_in_words",
    "rates",
    "tails",
    "tails_in_words",
    "threads_per_cpu",
    "threads_per_cpu_in_words",
    "waits",
    "waits_in_words",
    "will_migrate",
    "will_migrate_in_words",
    "will_start",
    "will_start_in_words",
]
