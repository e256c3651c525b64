"""The matrix of round trips, its runs and its words. All frames here are made up."""

import itertools

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgb

from kvmlab import KvmlabError, plots
from kvmlab.columns import frame
from kvmlab.plots.pingpong import TINTS
from tests.plots.made import clipped, extents, overlapping

NS = {"same CPU": 8e6, "SMT siblings": 45, "same L3": 130, "same node": 220, "across nodes": 390}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def made(nodes: int, caches: int, cores: int, threads: int, factors=(0.98, 1, 1.02)):
    """A machine whose SMT siblings have numbers far apart, as Linux often has it; its runs are the relation's time by each factor."""
    places = [place[1:] + place[:1] for place in itertools.product(range(threads), range(nodes), range(caches), range(cores))]
    rows = []
    for a, b in itertools.combinations_with_replacement(range(len(places)), 2):
        alike = sum(
            itertools.accumulate((x == y for x, y in zip(places[a], places[b], strict=True)), lambda all_before, same: all_before and same)
        )
        relation = ("across nodes", "same node", "same L3", "SMT siblings", "same CPU")[alike]
        rows += [(a, b, relation, n, 100, 0.1, NS[relation] * factor, 0.1 * (a == b)) for n, factor in enumerate(factors)]
    result = frame(rows, "pingpong")
    result.attrs |= {"accel": "kvm", "stopped": False}
    return result


def said(ax) -> list[str]:
    return [text for text, _ in extents(ax)]


def cell(ax, x: int, y: int) -> tuple:
    return tuple(ax.images[0].get_array()[y, x])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 2, 1), (1, 1, 2, 2), (1, 2, 2, 2), (2, 1, 4, 2), (2, 2, 4, 2), (2, 2, 8, 2)])
def test_no_text_of_a_matrix_touches_another_or_is_cut_off(shape):
    for ax in (plots.pingpong(made(*shape)), plots.pingpong_runs(made(*shape))):
        assert (overlapping(ax), clipped(ax)) == ([], [])
        assert ax.figure.get_size_inches()[0] <= 10


def test_cells_have_the_median_and_the_middle_half_of_their_runs():
    runs = made(1, 1, 2, 1, factors=(0.5, 0.9, 1, 1.1, 9))
    assert {"130 ns\n117-143", "8 ms\n7.2-8.8", "same\nL3"} <= set(said(plots.pingpong(runs)))


def test_longer_is_bluer_and_the_tints_above_say_what_is_shared():
    ax = plots.pingpong(made(2, 1, 2, 2))
    labels = [int(text.get_text()) for text in ax.get_xticklabels()]
    assert labels == [0, 4, 1, 5, 2, 6, 3, 7]  # siblings and nodes stand together
    siblings, cache, nodes = (sum(cell(ax, 0, y)) for y in (1, 2, 7))
    assert siblings > cache > nodes  # lighter is shorter
    assert [cell(ax, x, 0) for x in (0, 1, 2, 7)] == [
        to_rgb(TINTS[name]) for name in ("same CPU", "SMT siblings", "same L3", "across nodes")
    ]


def test_the_key_says_what_each_relation_costs():
    text = " ".join(said(plots.pingpong(made(2, 1, 2, 2))))
    assert "SMT siblings, 4 pairs: 45 ns" in text and "across nodes, 16 pairs: 390 ns" in text and "same CPU, 8 pairs: 8 ms" in text


def test_pairs_with_restless_runs_are_marked_and_named():
    runs = made(2, 1, 4, 2)
    rows = (runs["cpu_a"] == 0) & (runs["cpu_b"] == 9)
    runs.loc[rows, "round_trip_ns"] = [100, 200, 300]
    ax = plots.pingpong(runs)
    order = [int(text.get_text()) for text in ax.get_xticklabels()]
    dots = ax.collections[0].get_offsets()
    assert len(dots) == 1 and [round(value) for value in dots[0]] == [order.index(0), order.index(9)]
    assert "spreads by more than a quarter for CPUs 0 and 9." in plots.pingpong_in_words(runs)
    assert not plots.pingpong(made(2, 1, 4, 2)).collections


def test_each_run_is_a_dot_at_its_time():
    ax = plots.pingpong_runs(made(1, 1, 2, 2))
    drawn = [sorted(set(dots.get_offsets()[:, 0])) for dots in ax.collections]
    assert drawn == [pytest.approx([NS[name] * factor for factor in (0.98, 1, 1.02)]) for name in ("same CPU", "SMT siblings", "same L3")]
    assert [len(dots.get_offsets()) for dots in ax.collections] == [4 * 3, 2 * 3, 4 * 3]


def test_words_say_the_same_and_what_disturbed_it():
    runs = made(1, 1, 2, 1)
    text = plots.pingpong_in_words(runs)
    assert "same L3 (1 pair): 130 ns, its 3 runs 127 ns to 133 ns." in text
    assert "same CPU (2 pairs): 8 ms, its 6 runs 7.8 ms to 8.2 ms: two vCPUs on one CPU take turns" in text
    assert "waited" not in text and "TCG" not in text and "stopped" not in text
    runs.loc[(runs["cpu_a"] != runs["cpu_b"]) & (runs["repeat"] == 1), "waited_s"] = 0.03
    runs.attrs |= {"accel": "tcg", "stopped": True}
    text = plots.pingpong_in_words(runs)
    assert "In 1 of 3 runs on two CPUs, vCPUs waited for over 5 %" in text and "QEMU's emulation" in text and "stopped early" in text


def test_what_is_missing_is_not_drawn_as_fast():
    runs = made(1, 1, 2, 1)
    runs.loc[runs["cpu_a"] != runs["cpu_b"], ["relation", "round_trip_ns"]] = None
    runs["waited_s"] = runs["waited_s"].convert_dtypes().where(runs["cpu_a"] == runs["cpu_b"])
    ax = plots.pingpong(runs)
    assert "?" in said(ax) and cell(ax, 0, 1) == (1, 1, 1) and "not known (1 pair): not known." in plots.pingpong_in_words(runs)
    stopped = made(1, 1, 4, 1).query("cpu_b != 3 or cpu_a == 0")
    assert cell(plots.pingpong(stopped), 1, 3) == (1, 1, 1)


def test_no_runs_are_an_empty_picture_and_another_frame_an_error():
    empty = frame([], "pingpong")
    assert "No runs." in said(plots.pingpong(empty)) and plots.pingpong_in_words(empty) == ""
    assert len(plots.pingpong_runs(empty).collections) == 0
    for draw in (plots.pingpong, plots.pingpong_runs, plots.pingpong_in_words):
        with pytest.raises(KvmlabError, match=r"pass the one of measure\.pingpong"):
            draw(frame([], "vcpus"))
