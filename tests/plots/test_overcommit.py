"""What guests do together and each: points where the medians are, the model under them, the guess beside them."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb

from kvmlab import KvmlabError, plots
from kvmlab.columns import frame
from kvmlab.plots.overcommit import EACH, PREDICTED, TOGETHER
from tests.plots.made import clipped, extents, overlapping
from tests.plots.made_runs import FULL, overcommitted, run, weighted


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def sweep(**attrs):
    return overcommitted(*(run(guests) for guests in range(1, 9)), **attrs)


def points(ax, colour: str) -> set[tuple[float, float]]:
    marks = [part for part in ax.collections if isinstance(part, PathCollection) and tuple(part.get_facecolor()[0][:3]) == to_rgb(colour)]
    return {(x, round(y, 6)) for part in marks for x, y in part.get_offsets()}


def bars(ax, colour: str) -> set[tuple[float, float, float]]:
    lines = [part for part in ax.collections if isinstance(part, LineCollection) and tuple(part.get_color()[0][:3]) == to_rgb(colour)]
    return {(begin[0], round(begin[1], 6), round(end[1], 6)) for part in lines for begin, end in part.get_segments()}


def model(ax) -> list[list[float]]:
    return [line.get_ydata().tolist() for line in ax.lines if line.get_color() == PREDICTED]


def said(ax) -> list[str]:
    return [text for text, _ in extents(ax)]


def test_points_are_medians_bars_the_repeats_and_the_model_lies_under_them():
    ax = plots.overcommit(sweep())
    assert points(ax, TOGETHER) == {(n, FULL) for n in range(1, 9)}
    assert points(ax, EACH) == {(n, round(FULL / n, 6)) for n in range(1, 9)}
    assert bars(ax, TOGETHER) == {(n, 0.99 * FULL, 1.01 * FULL) for n in range(1, 9)}
    assert pytest.approx([FULL] * 8) in model(ax) and pytest.approx([FULL / n for n in range(1, 9)]) in model(ax)
    assert ax.get_title(loc="left") == "8 guests on CPU 1 (KVM): together 100 % of the work of one CPU"
    assert {"together 300 thousand", "each 37.5 thousand"} <= set(said(ax))
    assert (overlapping(ax), clipped(ax)) == ([], [])


@pytest.mark.parametrize("guess", [0, 13, 60, 100, 400])
def test_a_guess_is_drawn_in_percent_of_what_one_cpu_can_do(guess):
    ax = plots.overcommit(sweep(), guess)
    assert f"you said {guess} %" in said(ax)
    diamond = next(line for line in ax.lines if line.get_marker() == "D")
    assert (*diamond.get_xdata(), *diamond.get_ydata()) == pytest.approx((8, guess / 100 * FULL))
    assert ax.get_ylim()[0] <= guess / 100 * FULL <= ax.get_ylim()[1]
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_guests_of_unequal_weight_have_their_names():
    ax = plots.overcommit(weighted())
    assert {"oc-1 20 thousand", "oc-4 160 thousand", "together 300 thousand"} <= set(said(ax))
    assert (overlapping(ax), clipped(ax)) == ([], [])
    assert ax.get_xticks().tolist() == [4]


def test_idle_guests_are_drawn_by_the_part_of_a_cpu_that_they_took():
    idle = overcommitted(*(run(n, [0.0003] * n, "idle") for n in (1, 10, 30)))
    ax = plots.overcommit(idle, 5)
    assert points(ax, TOGETHER) == {(1, 0.0003), (10, 0.003), (30, 0.009)}
    assert ax.get_title(loc="left") == "30 guests on CPU 1 (KVM): idle, all together 0.9 % of one CPU"
    assert {"you said 5 %", "together 0.9 %"} <= set(said(ax))
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_vcpus_of_a_guest_are_added_up():
    two = overcommitted(run(1, vcpu=0, cpus="0-1"), run(1, vcpu=1, cpus="0-1"))
    ax = plots.overcommit(two)
    assert points(ax, TOGETHER) == {(1, 2 * FULL)}
    assert ax.get_title(loc="left") == "1 guest on CPUs 0-1 (KVM): together 200 % of the work of one CPU"


def test_what_is_not_known_is_left_out_and_not_drawn_as_0():
    gone = overcommitted(run(1), run(2, turns_per_s=[None, 100e3], share=[None, 0.5]), ended={"oc-1": "while 2 worked, repeat 0"})
    ax = plots.overcommit(gone)
    assert points(ax, TOGETHER) == {(1, FULL)} and points(ax, EACH) == {(1, FULL), (2, 100e3)}
    assert plots.overcommit_in_words(gone).endswith("oc-1 ended while 2 worked, repeat 0.")


def test_in_words():
    text = plots.overcommit_in_words(sweep(stopped=True))
    assert max(len(line) for line in text.splitlines()) <= 110
    assert not [line for line in text.splitlines() if line.strip().startswith(("%", "thousand"))]
    lines = text.replace("\n    ", " ").splitlines()
    assert lines[0].startswith("1 guest on CPU 1: 300 thousand turns a second (model: 300 thousand); each vCPU ran 99 % to 101 %")
    assert lines[3] == (
        "4 guests on CPU 1: 300 thousand turns a second (model: 300 thousand) together, 75 thousand each; "
        "each vCPU ran 25 % and waited 74 % to 76 % of the time."
    )
    assert len(lines) == 9 and lines[-1] == "It was stopped early."


def test_what_others_took_is_said_where_it_is_much():
    text = plots.overcommit_in_words(overcommitted(run(1, others=0.2)))
    assert text.replace("\n    ", " ").endswith(" All else took 20 % of one CPU.")
    assert "All else" not in plots.overcommit_in_words(overcommitted(run(1, others=0.01)))


def test_no_guests_are_an_empty_picture_and_another_frame_an_error():
    ax = plots.overcommit(frame([], "overcommit"), 50)
    assert ax.get_title(loc="left") == "No guest ran" and not said(ax)[0].isdigit()
    assert plots.overcommit_in_words(frame([], "overcommit")) == ""
    with pytest.raises(KvmlabError, match=r"pass the one of measure\.overcommit"):
        plots.overcommit(pd.DataFrame({"guests": [1]}))
