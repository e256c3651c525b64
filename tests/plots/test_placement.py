"""Where vCPUs ran: the picture is as large as the measured times."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from kvmlab import plots
from kvmlab.columns import FRAMES, frame
from tests.plots.made import clipped, overlapping


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def sample(time_s: float, cpu: int, run_s: float, run_delay_s: float) -> tuple:
    known = {"time_s": time_s, "guest": "c1", "vcpu": 0, "tid": 7, "cpu": cpu, "run_s": run_s, "run_delay_s": run_delay_s}
    return tuple(known.get(column.name) for column in FRAMES["vcpus"])


def drawn(ax, part: str) -> float:
    return sum(-bar.get_height() * bar.get_width() for bar in ax.patches if bar.get_facecolor()[:3] == to_rgb(plots.PALETTE[part])) / 0.8


def test_areas_are_the_seconds_that_it_ran_and_waited():
    ax = plots.placement(frame([sample(5, 0, 0, 0), sample(6, 0, 0.75, 0.25), sample(8, 1, 1.75, 0.75)], "vcpus"))
    assert (drawn(ax, "guest"), drawn(ax, "waiting")) == pytest.approx((1.75, 0.75))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["c1 vCPU 0    CPU 0", "CPU 1"]
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_rates_of_two_runs_stand_beside_each_other_with_the_guess():
    names = [column.name for column in FRAMES["delta"]]
    runs = {
        name: frame([tuple({"guest": "c1", "vcpu": 0, "migrations_per_s": moves, "turns_per_s": 2e6}.get(n) for n in names)], "delta")
        for name, moves in (("floating", 4.5), ("pinned", None))
    }
    moves, work = plots.rates(runs, guess=3)
    said = [text.get_text() for text in moves.texts]
    assert sorted(said) == ["4.5", "not known", "your guess: 3"]
    assert [bar.get_width() for bar in work.patches] == [2000, 2000]


def test_nothing_measured_is_an_empty_picture():
    assert len(plots.placement(frame([], "vcpus")).patches) == 0
    assert len(plots.placement(pd.concat([frame([sample(5, 0, 0, 0)], "vcpus")])).patches) == 0
