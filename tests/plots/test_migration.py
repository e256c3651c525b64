"""The picture of a move: rates of all vCPUs together, on the host where they were done, and nothing done in the pause."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from kvmlab import KvmlabError, plots
from kvmlab.columns import frame
from kvmlab.plots.migration import HERE, STILL, THERE
from tests.plots.made import clipped, extents, overlapping


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def moved(pause=(100.9, 101.0), vcpus: int = 2, here: float = 20e3, there: float = 10e3, hosts=("a", "b")):
    """A move from 100.5 to 101.2, with so many turns a second of each vCPU."""
    before = [(t, "c1", v, hosts[0], round(here * (t - 100))) for v in range(vcpus) for t in np.arange(100, pause[0], 0.001)]
    begin = here * (pause[0] - 100)
    after = [(t, "c1", v, hosts[1], round(begin + there * (t - pause[1]))) for v in range(vcpus) for t in np.arange(pause[1], 101.7, 0.001)]
    samples = frame(before + after, "migration")
    samples.attrs |= {"accel": "tcg", "span": [100.5, 101.2], "pause": list(pause), "downtime_s": 0.087}
    samples.attrs |= {"source": hosts[0], "destination": hosts[1]}
    return samples


def idle():
    samples = frame([(100.0, "c1", 0, "a", 7)], "migration")
    samples.attrs |= {"accel": "kvm", "span": [100.5, 101.2], "pause": None, "downtime_s": 0.022, "source": "a", "destination": "b"}
    return samples


def filled(ax, colour: str):
    """The box of what has this colour."""
    areas = [part.get_paths()[0].get_extents() for part in ax.collections if np.allclose(part.get_facecolor()[0][:3], to_rgb(colour))]
    return [*areas, *(part.get_bbox() for part in ax.patches if np.allclose(part.get_facecolor()[:3], to_rgb(colour)))][0]


def said(ax) -> list[str]:
    return [text for text, _ in extents(ax)]


def test_each_hosts_work_is_as_high_as_all_its_vcpus_rates_and_ends_at_the_pause():
    ax = plots.migration(moved())
    here, there = filled(ax, HERE), filled(ax, THERE)
    assert (here.x0, here.x1, here.y1) == pytest.approx((-0.5, 0.4, 40), abs=0.01)
    assert (there.x0, there.x1, there.y1) == pytest.approx((0.5, 1.2, 20), abs=0.01)
    still = filled(ax, STILL)
    assert (still.x0, still.x1) == pytest.approx((0.4, 0.5))
    assert {"stood still for 100 ms (libvirt says 87 ms)", "on host a", "on host b", "the move: 0.70 s"} <= set(said(ax))
    assert ax.get_title(loc="left") == "c1 moves from host a to host b (TCG)"
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_a_move_back_names_the_hosts_in_its_order():
    samples = moved(hosts=("b", "a"))
    assert plots.migration(samples).get_title(loc="left").startswith("c1 moves from host b to host a")
    assert filled(plots.migration(samples), HERE).x0 == pytest.approx(-0.5)


def test_in_words():
    assert plots.migration_in_words(moved(here=30e3)) == (
        "c1 moved from host a to host b in 0.70 s (TCG). It did 60 thousand turns a second before, 60 thousand while it was copied, "
        "stood still for 100 ms (libvirt says 87 ms), and did 20 thousand on host b."
    )


def test_a_slow_guest_keeps_its_digits():
    assert "It did 2.4 thousand turns a second before" in plots.migration_in_words(moved(vcpus=1, here=2.4e3))


def test_an_idle_guest_says_that_nothing_shows_the_pause():
    ax = plots.migration(idle())
    assert any("nothing shows how long it stood still (libvirt says 22 ms)" in text for text in said(ax))
    assert (overlapping(ax), clipped(ax)) == ([], [])
    assert "did no turns of work" in plots.migration_in_words(idle()) and "22 ms" in plots.migration_in_words(idle())


def test_other_frames_are_refused():
    with pytest.raises(KvmlabError, match=r"pass the one of Lab\.migrate"):
        plots.migration(moved().drop(columns="host"))
    lost = moved()
    lost.attrs.clear()
    with pytest.raises(KvmlabError, match="as they are"):
        plots.migration_in_words(lost)


@pytest.mark.parametrize("guess", [0, 5, 100, 400])
def test_a_guess_is_drawn_from_where_the_pause_begins(guess):
    ax = plots.migration(moved(), guess)
    assert f"your guess: {guess} ms" in said(ax)
    line = [line for line in ax.lines if len(line.get_xdata()) == 2][-1]
    begin, end = line.get_xdata()
    assert end - begin == pytest.approx(guess / 1e3) and begin == pytest.approx(0.4, abs=0.002)
    assert not overlapping(ax) and not clipped(ax)
