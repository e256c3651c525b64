"""Measurements: sample running guests, and turn what was sampled into rates, a ledger of their time, and sentences."""

from kvmlab.measure.compare import compare_topology
from kvmlab.measure.ledger import exits, ledger
from kvmlab.measure.lock import lock_collapse
from kvmlab.measure.modes import modes
from kvmlab.measure.noise import noise
from kvmlab.measure.overcommit import jain, overcommit
from kvmlab.measure.pingpong import pingpong
from kvmlab.measure.placement import placement
from kvmlab.measure.rates import delta, in_words, rates, residency
from kvmlab.measure.sampler import Sampler, follow, sample
from kvmlab.measure.thread_moves import thread_moves

__all__ = [
    "Sampler",
    "compare_topology",
    "delta",
    "exits",
    "follow",
    "in_words",
    "jain",
    "ledger",
    "lock_collapse",
    "modes",
    "noise",
    "overcommit",
    "pingpong",
    "placement",
    "rates",
    "residency",
    "sample",
    "thread_moves",
]
