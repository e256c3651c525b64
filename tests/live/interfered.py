"""What happens to guests in the midst of an experiment."""

import sys
import threading
from collections.abc import Callable

import pytest


def interfered(monkeypatch: pytest.MonkeyPatch, module: str, at: int, what: Callable) -> None:
    """In the run `at` of this module of kvmlab.measure, a moment after that began, `what` happens to its guests."""
    experiment, calls = sys.modules[module], []

    def run(guests, *rest, real=experiment.run):
        calls.append(guests)
        if len(calls) == at:
            threading.Timer(0.1, what, [guests]).start()
        return real(guests, *rest)

    monkeypatch.setattr(experiment, "run", run)
