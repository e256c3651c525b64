"""Who waits how long: bars as long as the shares, the model's strokes, what the guest felt, and the guess."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgb

from kvmlab import KvmlabError, plots
from kvmlab.columns import frame
from kvmlab.plots.style import PALETTE
from kvmlab.plots.waits import FELT
from tests.plots.made import clipped, extents, overlapping
from tests.plots.made_runs import overcommitted, run, weighted


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def boxes(ax, colour: str) -> list[tuple[float, float]]:
    """From and to of what has this colour, from the top down."""
    found = [bar.get_bbox() for bar in ax.patches if bar.get_facecolor()[:3] == to_rgb(colour)]
    return [(box.x0, box.x1) for box in sorted(found, key=lambda box: box.y0)]


def lines(ax) -> list[tuple[float, float]]:
    """From and to of the black lines with two ends, as they lie on the scale."""
    return [tuple(line.get_xdata()) for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]


def strokes(ax) -> list[float]:
    return [begin for begin, end in lines(ax) if begin == end]


def intervals(ax) -> list[tuple[float, float]]:
    return [(begin, end) for begin, end in lines(ax) if begin != end]


def said(ax) -> list[str]:
    return [text for text, _ in extents(ax)]


def test_bars_are_as_long_as_the_shares_and_what_was_felt_begins_where_the_guest_stopped():
    ax = plots.waits(weighted())
    shares = [part / 15 for part in (1, 2, 4, 8)]
    assert boxes(ax, PALETTE["guest"]) == [pytest.approx((0, share)) for share in shares]
    assert boxes(ax, PALETTE["waiting"]) == [pytest.approx((share, 1)) for share in shares]
    assert boxes(ax, FELT) == [pytest.approx((share, share + 0.97 * (1 - share))) for share in shares]
    assert strokes(ax) == pytest.approx(shares)
    assert intervals(ax) == [pytest.approx((0.99 * share, 1.01 * share)) for share in shares]
    assert [label.get_text() for label in ax.get_yticklabels()][:2] == ["oc-1, weight 512", "oc-2, weight 1024"]
    assert ax.get_title(loc="left") == "4 guests on CPU 1 (KVM): each vCPU waits 47 % to 93 % of the time"
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_only_the_largest_number_of_guests_is_drawn():
    ax = plots.waits(overcommitted(run(1), run(2), run(3)))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["oc-1", "oc-2", "oc-3"]


@pytest.mark.parametrize("guess", [0, 25, 60, 100])
def test_a_guess_for_all_is_a_line_through_the_bars(guess):
    ax = plots.waits(overcommitted(run(4)), guess)
    assert f"you said {guess} %" in said(ax)
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [guess / 100]
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_a_guess_for_one_guest_stands_on_its_bar():
    limited = overcommitted(run(4, [0.1, 0.3, 0.3, 0.3], quota=[0.1, None, None, None]))
    ax = plots.waits(limited, {"oc-1": 25})
    assert "you said 25 %" in said(ax) and "oc-1, at most 10 %" in said(ax)
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    assert len(diamonds) == 1 and diamonds[0].get_xdata()[0] == 0.25
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_halted_time_is_neither_run_nor_waited():
    ax = plots.waits(overcommitted(run(2, [0.3, 0.3], "duty", waited=0.2, predicted_waited=0.2, felt=None)))
    assert boxes(ax, PALETTE["halted"]) == [pytest.approx((0.5, 1))] * 2 and boxes(ax, FELT) == []
    assert strokes(ax) == pytest.approx([0.3, 0.5] * 2)


def test_what_is_missing_of_a_guest_that_never_halts_stays_white():
    assert boxes(plots.waits(overcommitted(run(2, waited=0.4))), PALETTE["halted"]) == []


def test_what_is_not_known_is_said():
    gone = overcommitted(run(2, share=[None, 0.5], waited=[None, 0.5], felt=None), unavailable={"felt": "its clock stood still"})
    ax = plots.waits(gone)
    assert "not known" in said(ax) and len(boxes(ax, PALETTE["guest"])) == 1
    assert plots.waits_in_words(gone).splitlines()[::2] == ["oc-1: not known.", "felt: its clock stood still."]


def test_many_vcpus_are_drawn_thin_and_told_together():
    idle = overcommitted(run(30, [0.0003] * 30, "idle"))
    ax = plots.waits(idle)
    assert len(boxes(ax, PALETTE["halted"])) == 30 and (overlapping(ax), clipped(ax)) == ([], [])
    assert plots.waits_in_words(idle) == "30 vCPUs: each ran 0.03 %, waited 0 %, felt 0 % of the time."


def test_in_words():
    assert plots.waits_in_words(weighted()).replace("\n    ", " ").splitlines()[3] == (
        "oc-4, weight 4096: ran 53.3 % (52.8 to 53.9; model 53.3), waited 46.7 % (46.2 to 47.1; model 46.7), felt 45.3 %."
    )


def test_waits_that_ended_in_a_short_run_and_began_before_do_not_leave_the_scale():
    ax = plots.waits(overcommitted(run(2, waited=1.1, felt=1.1, repeats=1)))
    assert boxes(ax, PALETTE["waiting"]) == boxes(ax, FELT) == [pytest.approx((0.5, 1))] * 2 and intervals(ax) == []
    assert "110 %" in said(ax) and "each vCPU waits 100 % of the time" in ax.get_title(loc="left")
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_what_others_took_meanwhile_is_said_of_the_drawn_run_only():
    runs = overcommitted(run(1, others=0.01), run(2, others=0.2))
    assert plots.waits_in_words(runs).endswith("\nAll else took 20 % of one CPU.")
    assert "All else" not in plots.waits_in_words(runs[runs["guests"] == 1])


@pytest.mark.parametrize(("guess", "words"), [("a", "a number from 0 on"), (-1, "-1"), (True, "True"), ({"oc-9": 5}, "no 'oc-9'.*oc-1")])
def test_a_guess_that_is_none_is_an_error(guess, words):
    with pytest.raises(KvmlabError, match=words):
        plots.waits(weighted(), guess)


def test_no_guests_are_an_empty_picture_and_another_frame_an_error():
    ax = plots.waits(frame([], "overcommit"), 40)
    assert ax.get_title(loc="left") == "No guest ran" and plots.waits_in_words(frame([], "overcommit")) == ""
    assert not clipped(ax) and not overlapping(ax)
    with pytest.raises(KvmlabError, match=r"pass the one of measure\.overcommit"):
        plots.waits(frame([], "vcpus"))
