"""A lock's collapse and the tails of turns: heights, factors, shares and percentiles as made up, and the guesses beside them."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from kvmlab import KvmlabError, plots
from kvmlab.columns import frame
from kvmlab.plots.tails import COLOURS
from tests.plots.made import clipped, extents, overlapping
from tests.plots.made_runs import locked, tail

PASSES = {(1, "0-1"): 120e3, (2, "0-1"): 100e3, (4, "0-1"): 600, (1, "1"): 124e3, (2, "1"): 800, (4, "1"): 150}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def said(ax) -> list[str]:
    return [text for text, _ in extents(ax)]


def points(ax, colour: str) -> list[tuple[float, float]]:
    marks = [part for part in ax.collections if len(part.get_facecolor()) and tuple(part.get_facecolor()[0][:3]) == to_rgb(colour)]
    return [tuple(point) for part in marks for point in part.get_offsets()]


# ---- the lock


def test_each_set_of_cpus_is_a_line_through_its_medians_on_a_log_scale():
    ax = plots.lock_collapse(locked(PASSES))
    assert ax.get_yscale() == "log"
    assert points(ax, COLOURS[0]) == [(0, pytest.approx(120e3)), (1, pytest.approx(100e3)), (2, pytest.approx(600))]
    assert points(ax, COLOURS[1]) == [(0, pytest.approx(124e3)), (1, pytest.approx(800)), (2, pytest.approx(150))]
    assert {"on CPUs 0-1: 600", "on CPU 1: 150", "1 vCPU", "4 vCPUs", "100,000"} <= set(said(ax))
    assert ax.get_title(loc="left") == "A lock (TCG): 2 vCPUs on CPU 1 take it 160 times less often than one"
    assert (overlapping(ax), clipped(ax)) == ([], [])


@pytest.mark.parametrize("guess, words", [(1, "1.0"), (2.5, "2.5"), (155, "155"), (10000, "10,000")])
def test_a_guess_stands_at_the_first_case_of_more_vcpus_than_cpus(guess, words):
    ax = plots.lock_collapse(locked(PASSES), guess)
    diamond = next(line for line in ax.lines if line.get_marker() == "D")
    assert (*diamond.get_xdata(), *diamond.get_ydata()) == pytest.approx((1, 124e3 / guess))
    assert f"you said {words} times fewer" in said(ax)
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_without_more_vcpus_than_cpus_nothing_is_said_to_collapse():
    ax = plots.lock_collapse(locked({(1, "0-3"): 1e5, (4, "0-3"): 9e4}), 10)
    assert ax.get_title(loc="left") == "How often a lock is taken (TCG)" and not [text for text in said(ax) if "you said" in text]


def test_a_lock_in_words():
    text = plots.lock_collapse_in_words(locked(PASSES, stopped=True)).replace("\n    ", " ").splitlines()
    assert text[4] == (
        "2 vCPUs on CPU 1: 800 passes a second (720 to 880), 160 times less often than 1; "
        "ran 99 % of one CPU together, each waited 50 % of the time."
    )
    assert "about as often as 1" in text[1] and text[-1] == "It was stopped early."


def test_cases_that_were_not_measured_are_left_out():
    some = locked({(1, "1"): 1e5, (2, "1"): None})
    assert len(points(plots.lock_collapse(some, 3), COLOURS[0])) == 1 and "2 vCPUs" not in plots.lock_collapse_in_words(some)
    empty = plots.lock_collapse(frame([], "lock_collapse"), 3)
    assert empty.get_title(loc="left") == "No lock was measured" and plots.lock_collapse_in_words(frame([], "lock_collapse")) == ""
    with pytest.raises(KvmlabError, match=r"pass the one of measure\.lock_collapse"):
        plots.lock_collapse(frame([], "modes"))


# ---- tails

MOST = {1: 90_000, 2: 9_900}  # within 2 to 4, and 4 to 8 µs


def four() -> dict:
    return {f"{n} guests": tail(MOST | {(12 + n) if n > 1 else 4: 100}) for n in (1, 2, 4, 8)}


def test_a_line_is_as_high_as_the_share_of_turns_that_took_so_long():
    ax = plots.tails(tail(MOST | {14: 100}))
    line = ax.lines[0]
    assert line.get_xdata()[:2] == pytest.approx([2e-6, 4e-6])
    assert [round(y, 9) for y in line.get_ydata()] == [1, 0.1, *[0.001] * 12, 0.001]
    assert line.get_xdata()[-1] == pytest.approx(1e-6 * 2**15) and ax.get_xscale() == ax.get_yscale() == "log"
    assert {"c1, longest 33 ms", "1 in 1,000", "all"} <= set(said(ax))
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_several_frames_are_told_apart_by_their_names():
    ax = plots.tails(four())
    assert [text.get_text() for text in ax.get_legend().get_texts()][::3] == ["1 guests, longest 32 µs", "8 guests, longest 2.1 s"]
    assert (overlapping(ax), clipped(ax)) == ([], [])


@pytest.mark.parametrize("guess", [0.001, 1, 20, 3000])
def test_a_guess_is_drawn_at_its_milliseconds(guess):
    ax = plots.tails(four(), guess)
    assert f"you said {guess:g} ms" in said(ax)
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [guess / 1e3]
    assert ax.get_xlim()[0] <= guess / 1e3 <= ax.get_xlim()[1]
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_vcpus_of_a_guest_are_one_line_and_the_last_bucket_has_no_end():
    both = pd.concat([tail({1: 50}), tail({1: 49, 23: 1}, vcpu=1)], ignore_index=True)
    ax = plots.tails(both)
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(0.01) and ax.lines[0].get_xdata()[-1] == pytest.approx(1e-6 * 2**23)
    assert "the longest 8.4 s" in plots.tails_in_words(both)


def test_tails_in_words():
    assert plots.tails_in_words({"two guests": tail(MOST | {14: 100})}).replace("\n    ", " ") == (
        "two guests: half of the turns within 4 µs, 99 of 100 within 8 µs, the longest 33 ms; "
        "1 in 1,000 took 10 times as long as most, and with these went 88 % of the time."
    )
    assert plots.tails_in_words(tail(MOST)).replace("\n    ", " ").endswith("the longest 8 µs; none took 10 times as long as most.")


def test_no_turns_are_an_empty_picture_and_another_frame_an_error():
    for nothing in (frame([], "tails"), {"idle": tail({})}):
        assert plots.tails(nothing, 5).get_title(loc="left") == "No turns were done" and plots.tails_in_words(nothing) == ""
    with pytest.raises(KvmlabError, match=r"pass the one of Guest\.tails"):
        plots.tails({"1": frame([], "gaps")})
