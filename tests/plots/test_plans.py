"""Plans beside each other: bars as long as the medians, lines from the least to the most, and the same in words."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb

from kvmlab import KvmlabError, plots
from kvmlab.columns import frame
from tests.plots.made import clipped, overlapping
from tests.plots.made_plans import FOUR, four, placed, under


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def bars(ax, colour: str) -> list[float]:
    """From the top to the bottom."""
    found = [bar for bar in ax.patches if bar.get_facecolor()[:3] == to_rgb(colour)]
    return [round(bar.get_width(), 6) for bar in sorted(found, key=lambda bar: bar.get_y())]


def spans(ax) -> list[tuple[float, float]]:
    lines = [segment for part in ax.collections if isinstance(part, LineCollection) for segment in part.get_segments()]
    return [tuple(segment[:, 0].round(6).tolist()) for segment in sorted(lines, key=lambda segment: segment[0][1])]


def said(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def tidy(axes) -> bool:
    return not [found for ax in axes for found in (*overlapping(ax), *clipped(ax))]


def test_bars_are_medians_and_lines_go_from_the_least_repeat_to_the_most():
    work, waited, moved, paused = axes = plots.plans(four())
    assert bars(work, plots.PALETTE["guest"]) == [1, 0.5, 1] and said(work) == ["100 %", "50 %", "100 %"]
    assert spans(work) == [(0.99, 1.01), (0.495, 0.505), (0.99, 1.01)]
    assert bars(waited, plots.PALETTE["waiting"]) == [0.5] * 4 + [0.75] * 4 + [0] + [round(2 / 3, 6)] * 3
    assert spans(waited)[4] == (0.7425, 0.7575)
    assert [bar for bar in bars(moved, "#009E73") if bar] == [2.5] * 4 and said(moved)[:5] == ["2.5"] * 4 + ["0"]
    dots = next(part for part in paused.collections if isinstance(part, PathCollection)).get_offsets()
    assert sorted(dots[:, 0].tolist()) == pytest.approx([0.0005, *[0.008] * 8, *[0.012] * 3]) and "500 µs" in said(paused)
    assert tidy(axes)


def test_a_plan_stands_above_its_vcpus_in_the_order_it_was_given():
    axes = plots.plans(four())
    ticks = sorted(zip(axes[0].get_yticks(), (label.get_text() for label in axes[0].get_yticklabels()), strict=True))
    vcpus = [f"{guest} vCPU {vcpu}" for guest in ("c1", "c2") for vcpu in (0, 1)]
    assert [text for _, text in ticks] == ["float", *vcpus, "stacked", *vcpus, "dedicated", *vcpus]
    assert axes[0].figure.get_suptitle() == "The same work of 4 vCPUs under 3 plans (KVM)"


def test_a_dollar_in_the_name_of_a_plan_is_a_dollar():
    data = four()
    data["plan"] = data["plan"].replace("stacked", r"$\frac$x")
    data.attrs.pop("plans", None)
    axes = plots.plans(data)
    axes[0].figure.canvas.draw()
    assert r"$\frac$x" in [label.get_text() for label in axes[0].get_yticklabels()]


@pytest.mark.parametrize("guess", [0, 150])
def test_a_guess_is_drawn_below_the_bar_of_its_plan(guess):
    axes = plots.plans(four(), {"stacked": guess})
    diamond = next(line for line in axes[0].lines if line.get_marker() == "D")
    assert diamond.get_xdata()[0] == guess / 100 and f"you said {guess} %" in said(axes[0])
    bar = axes[0].patches[1]
    assert bar.get_y() + bar.get_height() < diamond.get_ydata()[0] < axes[0].patches[2].get_y()
    assert tidy(axes)


def test_one_vcpu_needs_no_name_and_many_have_none():
    one = placed(under("float", {"c1 0": 1}), under("pinned", {"c1 0": 0.5}), accel="tcg")
    axes = plots.plans(one, {"pinned": 80})
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["float", "pinned"] and tidy(axes)
    assert axes[0].figure.get_suptitle() == "The same work of 1 vCPU under 2 plans (TCG)"
    names = [f"c{guest} {vcpu}" for guest in range(8) for vcpu in range(8)]
    axes = plots.plans(placed(under("float", dict.fromkeys(names, 0.5)), under("stacked", dict.fromkeys(names, 0.1))))
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["float", "stacked"] and tidy(axes)
    assert len(bars(axes[1], plots.PALETTE["waiting"])) == 128 and not said(axes[1])


def test_different_works_count_alike_however_long_their_turns_are():
    works = {"c1 0": 1.0, "c1 1": 0.2}
    both = placed(
        under("float", works, turns_per_s=[300e3, 100.0], work=["spin", "device"]),
        under("pinned", works, turns_per_s=[150e3, 80.0], work=["spin", "device"]),
    )
    assert bars(plots.plans(both)[0], plots.PALETTE["guest"]) == [1, 0.65]
    assert "turns a second" not in plots.plans_in_words(both)
    idle = placed(under("float", works, turns_per_s=[300e3, 0.0], work=["spin", "idle"]))
    assert plots.plans_in_words(idle).startswith("float: 300 thousand turns a second, 100.0 %;")


def test_runs_without_a_guest_that_ended_do_not_count_as_work():
    rows = [row for row in under("stacked", dict.fromkeys(FOUR, 0.25)) if row["guest"] == "c1" or row["repeat"] < 2]
    short = placed(under("float", dict.fromkeys(FOUR, 0.5)), rows, ended={"c2": "under 'stacked', repeat 2"})
    assert spans(plots.plans(short)[0])[1] == (0.495, 0.5)
    assert plots.plans_in_words(short).endswith("c2 ended under 'stacked', repeat 2.")


def test_what_is_not_known_is_said_and_not_drawn_as_0():
    blind = under("float", dict.fromkeys(FOUR, 0.5), migrations_per_s=None, longest_s=None, turns_per_s=None, work="cpuid")
    why = {"migrations_per_s": "no sched", "longest_s": "no clock", "turns_per_s": "no turns"}
    frame = placed(blind, unavailable=why)
    work, _, moved, paused = axes = plots.plans(frame)
    assert (said(work), said(moved), said(paused)) == (["not known"], ["not known"] * 4, ["not known"] * 4)
    assert not [bar for ax in (work, moved, paused) for bar in ax.patches if bar.get_width() == bar.get_width()] and tidy(axes)
    lines = plots.plans_in_words(frame).splitlines()
    assert lines == ["float: work not known; waited 50 % of the time.", "work: no turns.", "moves: no sched.", "pauses: no clock."]


def test_in_words():
    text = plots.plans_in_words(four(stopped=True))
    assert max(len(line) for line in text.splitlines()) <= 110
    lines = text.replace("\n    ", " ").splitlines()
    assert lines == [
        "float: 600 thousand turns a second, 100.0 % (99.0 to 101.0); waited 50 % of the time; "
        "moved 2.5 times a second; longest pause 8 ms.",
        "stacked: 300 thousand turns a second, 50.0 % of the work under 'float' (49.5 to 50.5); waited 75 % of the time; "
        "moved 0 times a second; longest pause 8 ms.",
        "dedicated: 600 thousand turns a second, 100.0 % of the work under 'float' (99.0 to 101.0); "
        "waited 0 % (c1 vCPU 0), 67 % (c1 vCPU 1), 67 % (c2 vCPU 0), 67 % (c2 vCPU 1) of the time; moved 0 times a second; "
        "longest pause 500 µs (c1 vCPU 0), 12 ms (c1 vCPU 1), 12 ms (c2 vCPU 0), 12 ms (c2 vCPU 1).",
        "It was stopped early.",
    ]


def test_what_others_took_is_said_where_it_is_much():
    text = plots.plans_in_words(placed(under("float", {"c1 0": 0.5}, others=0.5), under("away", {"c1 0": 1.0}, others=0.01)))
    assert text.count("All else took 50 % of one CPU.") == 1


def test_nothing_measured_is_an_empty_picture_and_another_frame_an_error():
    axes = plots.plans(frame([], "placement"), {"float": 50})
    assert axes[0].figure.get_suptitle() == "Nothing was measured" and plots.plans_in_words(frame([], "placement")) == ""
    with pytest.raises(KvmlabError, match=r"pass the one of measure\.placement"):
        plots.plans(frame([], "vcpus"))
    with pytest.raises(KvmlabError, match=r"pass the one of lab\.sample"):
        plots.placement(four())
