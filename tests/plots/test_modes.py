"""Modes, a life and exits: the pictures are as large as the shares, and say what nobody counted."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from kvmlab import KvmlabError, measure, plots
from kvmlab.columns import frame
from kvmlab.plots.modes import MODES
from tests.measure.made import life
from tests.plots.made import clipped, extents, overlapping


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def rows(guest: str, accel: str, workload: str, /, **shares: float | None) -> list[tuple]:
    return [(guest, accel, workload, mode, share, None, None, 3, 1e6) for mode, share in shares.items()]


def many() -> pd.DataFrame:
    found = []
    for guest, accel, mode in (("c1", "kvm", "guest"), ("c2", "tcg", "user")):
        found += rows(guest, accel, "idle", guest=None, user=None, kernel=None, waiting=0.0, blocked=0.97, running=0.03)
        found += rows(guest, accel, "spin", **({"guest": 0.0, "user": 0.0} | {mode: 0.9}), kernel=0.02, waiting=0.08, blocked=0.0)
        found += rows(guest, accel, "port-io", guest=0.1, user=0.3, kernel=0.6, waiting=0.0, blocked=0.0)
    return frame(found, "modes")


def widths(ax, mode: str) -> list[float]:
    return [bar.get_width() for bar in ax.patches if bar.get_facecolor()[:3] == to_rgb(MODES[mode][0]) and bar.get_width() > 0]


def said(ax) -> list[str]:
    return [text for text, _ in extents(ax)]


def test_bars_are_as_long_as_the_shares_and_workloads_stand_together():
    ax = plots.modes(many())
    assert widths(ax, "guest") == pytest.approx([0.9, 0.1, 0.1]) and widths(ax, "running") == pytest.approx([0.03, 0.03])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{work}  {accel}" for work in ("idle", "spin", "port-io") for accel in ("KVM", "TCG")]
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_the_readers_guess_stands_beside_and_is_judged():
    ax = plots.modes(many(), guess={"spin": "guest", "idle": "halted"})
    assert sorted(text for text in said(ax) if "you said" in text) == sorted(
        ["you said halted ✓"] * 2 + ["you said guest ✓", "you said guest ✗"]
    )
    assert "right 3 of 4 times" in ax.get_title(loc="left")
    assert (overlapping(ax), clipped(ax)) == ([], [])
    with pytest.raises(KvmlabError, match=r"guess\['spin'\] is 'ring 3'.*guest, user, kernel"):
        plots.modes(many(), guess={"spin": "ring 3"})


def test_modes_in_words_say_the_same():
    text = plots.modes_in_words(many())
    assert "spin  TCG: user 90.0 %, waiting for a CPU 8.0 %, kernel 2.0 %." in text
    assert "idle  KVM: halted or asleep 97.0 %, ran too little to say in which mode 3.0 %." in text


def test_two_guests_of_one_kind_are_told_apart():
    both = pd.concat([frame(rows(name, "kvm", "spin", guest=1.0), "modes") for name in ("c1", "c2")], ignore_index=True)
    labels = [label.get_text() for label in plots.modes(both).get_yticklabels()]
    assert labels == ["spin  c1", "spin  c2"]


def test_no_modes_is_an_empty_picture_and_another_frame_an_error():
    assert len(plots.modes(frame([], "modes")).patches) == 0 and plots.modes_in_words(frame([], "modes")) == ""
    with pytest.raises(KvmlabError, match=r"pass the one of measure\.modes"):
        plots.modes(frame([], "vcpus"))


def areas(ax) -> dict[str, float]:
    found = {}
    for (mode, (colour, _)), collection in zip(MODES.items(), ax.collections, strict=True):
        corners = [path.vertices for path in collection.get_paths()]
        assert len(collection.get_facecolor()) == 0 or collection.get_facecolor()[0][:3] == pytest.approx(to_rgb(colour))
        found[mode] = sum(np.ptp(each[:, 0]) * np.ptp(each[:, 1]) for each in corners)
    return found


def test_a_life_is_as_large_as_what_was_measured():
    samples = life(4, states="SR", run_s=0.5, run_delay_s=0.2, guest_s=0.375, kernel_s=0.125)
    ax = plots.life(samples, "c1")
    drawn = areas(ax)
    expected = {"guest": 1.5, "kernel": 0.5, "waiting": 0.8, "blocked": 1.2, "user": 0, "running": 0}
    assert drawn == pytest.approx(expected, abs=0.01)
    assert ax.get_title(loc="left") == "c1 vCPU 0: guest 38 %, halted 30 %, waiting 20 %, kernel 12 %"
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_what_a_life_does_not_explain_stays_white():
    drawn = areas(plots.life(life(4, states="R", run_s=0.5), "c1"))
    assert sum(drawn.values()) == pytest.approx(2) and drawn["running"] == pytest.approx(2)  # no ticks: no modes


def test_a_life_of_nobody_names_those_there_are():
    with pytest.raises(KvmlabError, match=r"no vCPU 1 of 'c1'.*they have c1 vCPU 0"):
        plots.life(life(1), "c1", 1)
    assert "two samples" in plots.life(life(1)[:1], "c1").get_title(loc="left")


def exits_of(**counted: int) -> pd.DataFrame:
    samples = life(1)
    samples.attrs["kvm"] = [["c1", 0, 2.0, counted]]
    return measure.exits(samples)


def test_exits_are_drawn_by_reason_and_run():
    ax = plots.exits(
        {"spin": exits_of(exits=500, irq_exits=500, io_exits=0), "io": exits_of(exits=9000, io_exits=8000), "tcg": measure.exits(life(1))}
    )
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["spin    irq", "io    io", "other", "tcg    not counted"]
    assert [bar.get_width() for bar in ax.patches] == [250, 4000, 500]
    assert ax.get_title(loc="left") == "Exits from guest mode: 4,500 a second in io, the most"
    assert (overlapping(ax), clipped(ax)) == ([], [])
    assert [label.get_text() for label in plots.exits(exits_of(exits=0, irq_exits=0)).get_yticklabels()] == ["none"]


def test_where_nothing_counts_exits_the_picture_says_so():
    ax = plots.exits(measure.exits(life(1)))
    assert len(ax.patches) == 0 and any("TCG has no exits" in text for text in said(ax))
    assert "No guest ran." in said(plots.exits(frame([], "exits")))
