"""Measurements: sample running guests, and turn what was sampled into rates, a ledger of their time, and sentences."""

from kvmlab.measure.compare import compare_topology
from kvmlab.measure.ledger import exits, ledger
from kvmlab.measure.modes import modes
from kvmlab.measure.pingpong import pingpong
from kvmlab.measure.rates import delta, in_words, rates, residency
from kvmlab.measure.sampler import Sampler, follow, sample

__all__ = [
    "Sampler",
    "compare_topology",
    "delta",
    "exits",
    "follow",
    "in_words",
    "ledger",
    "modes",
    "pingpong",
    "rates",
    "residency",
    "sample",
]
