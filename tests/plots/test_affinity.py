"""Where threads ran, and busy loops beside isolated CPUs: what the pictures show is what the frames say, and so do the words."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from kvmlab import Host, KvmlabError, plots
from kvmlab.columns import FRAMES, frame
from tests.conftest import REPOSITORY
from tests.plots.made import clipped, overlapping


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def of(kind: str, **known) -> tuple:
    return tuple(known.get(column.name) for column in FRAMES[kind])


def looks(*rows: tuple):
    names = ("time_s", "tid", "cpu", "run_s", "run_delay_s")
    return frame([of("affinity", comm="sh", allowed_cpus="0-1", **dict(zip(names, row, strict=True))) for row in rows], "affinity")


def area(ax, part: str) -> float:
    """Seconds: a lane is 0.8 high."""
    found = [c for c in ax.collections if isinstance(c, PolyCollection) and tuple(c.get_facecolor()[0][:3]) == to_rgb(plots.PALETTE[part])]
    boxes = [path.get_extents() for collection in found for path in collection.get_paths()]
    return sum(box.width * box.height for box in boxes) / 0.8


TWO = ((5, 7, 0, 0, 0), (6, 7, 0, 0.75, 0.25), (8, 7, 1, 1.75, 0.75), (5, 8, 1, 0, 0), (8, 8, 1, 3, 0))


def test_areas_are_the_seconds_that_threads_ran_and_waited():
    ax = plots.affinity(looks(*TWO))
    assert (area(ax, "user"), area(ax, "waiting")) == pytest.approx((4.75, 0.75))
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["sh 7, allowed 0-1    CPU 0", "CPU 1", "sh 8, allowed 0-1    CPU 1"]
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_threads_in_words_say_where_and_how_long():
    assert plots.affinity_in_words(looks(*TWO)) == (
        "sh 7 may run on 0-1 and was seen on CPU 0-1; it ran for 58% of the time.\n"
        "sh 8 may run on 0-1 and was seen on CPU 1; it ran for 100% of the time."
    )
    assert plots.affinity_in_words(looks((1, 7, 0, None, None), (2, 7, 0, None, None))) == "sh 7 may run on 0-1 and was seen on CPU 0."


@pytest.mark.parametrize("rows", [(), ((1, 7, 0, 0, 0),), ((1, 7, 0, None, None), (2, 7, None, None, None), (3, 7, 1, None, None))])
def test_few_looks_and_unknown_times_are_drawn(rows):
    plots.affinity(looks(*rows)).figure.canvas.draw()


def test_a_dollar_in_the_name_of_a_thread_is_a_dollar():
    ax = plots.affinity(frame([of("affinity", comm=r"$\frac$x", tid=7, cpu=0, time_s=1, allowed_cpus="0")], "affinity"))
    ax.figure.canvas.draw()
    assert ax.get_yticklabels()[0].get_text() == r"$\frac$x 7, allowed 0    CPU 0"


# ---- busy loops


def loop(isolcpus: str, started_on: str, cpu: int, share: float) -> tuple:
    return of("loops", isolcpus=isolcpus, started_on=started_on, cpu=cpu, share=share, allowed_cpus=started_on)


LOOPS = frame([loop("", "0-3", 0, 1.0), loop("", "0-3", 2, 0.9), loop("1-2", "1-2", 1, 0.5), loop("1-2", "1-2", 1, 0.4)], "loops")


def test_a_loop_is_as_wide_as_the_part_of_the_time_that_it_ran():
    ax = plots.loops(LOOPS)
    bars = [patch for patch in ax.patches if patch.get_facecolor()[:3] == to_rgb(plots.PALETTE["user"])]
    assert [bar.get_width() for bar in bars] == pytest.approx([1, 0.9, 0.5, 0.4])
    assert [bar.get_y() + 0.31 for bar in bars] == pytest.approx([0, 2, 1, 1])
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_loops_in_words_say_the_same():
    assert plots.loops_in_words(LOOPS).splitlines() == [
        "With nothing isolated, 2 loops started on CPUs 0-3: CPU 0 ran 1, 100% of the time; CPU 2 ran 1, 90% of the time.",
        "With isolcpus=1-2, 2 loops started on CPUs 1-2: CPU 1 ran 2, 45% of the time each.",
    ]


# ---- isolation in words


def words(name: str) -> str:
    host = Host.open(REPOSITORY / f"tests/hosts/{name}.tar.xz")
    return plots.isolation_in_words(host.isolation(), host.threads())


def test_each_kind_of_isolation_has_its_sentence():
    """Recorded in a real Linux guest: isolcpus=managed_irq,domain,2-5 nohz_full=2-5 rcu_nocbs=2-5."""
    told = words("x86_64-1s4c2t-isolated").splitlines()
    assert [line.split(" are ")[0] for line in told[:4]] == ["CPUs 2-5"] * 4
    assert [next(w for w in ("isolcpus", "managed", "nohz_full", "rcu_nocbs") if w in line) for line in told[:4]] == [
        *("isolcpus", "managed", "nohz_full", "rcu_nocbs")
    ]
    assert told[4].startswith("Interrupts that may go there all the same: 2,12,27 to CPU 2;") and "4 migration" in told[5]


def test_a_partition_and_the_threads_in_it_are_told():
    told = words("x86_64-1s8c1t-cgroups")
    assert "CPUs 4-5 are there for cpuset /isolated (isolated) alone" in told and "other threads last ran there: " in told


def test_nothing_isolated_is_said_and_so_is_what_is_not_known():
    assert words("x86_64-1s1c1t").startswith("Nothing is kept away from any CPU")
    unknown = frame([of("isolation", cpu=0)], "isolation")
    assert plots.isolation_in_words(unknown).startswith("Not known: isolcpus, managed_irq, nohz_full, rcu_nocbs.")
    one = frame([of("isolation", cpu=3, isolcpus=True, managed_irq=False, nohz_full=False, rcu_nocbs=False, irqs="")], "isolation")
    assert plots.isolation_in_words(one).startswith("CPU 3 is left out") and "No interrupt goes there." in plots.isolation_in_words(one)


@pytest.mark.parametrize("picture", [plots.affinity, plots.affinity_in_words, plots.loops, plots.loops_in_words, plots.isolation_in_words])
def test_another_frame_is_refused_with_the_call_that_gives_the_right_one(picture):
    with pytest.raises(KvmlabError, match="pass the one of"):
        picture(frame([], "caches"))
