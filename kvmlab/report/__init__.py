"""Reports of notebooks: run them, keep what they measured, and compare."""

from kvmlab.report.compare import Comparison, compare
from kvmlab.report.data import read
from kvmlab.report.run import Report, run

__all__ = ["Comparison", "Report", "compare", "read", "run"]
