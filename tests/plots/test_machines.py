"""Several machines in one picture, and in words."""

import itertools

import matplotlib.pyplot as plt
import pytest

from kvmlab import Host, KvmlabError, plots
from kvmlab.columns import frame
from tests.host.test_recorded_hosts import HOSTS
from tests.plots.made import clipped, cpu_row, extents, machine


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


SMALL, MIDDLE = machine(1, 1, 1, 2, 1)[0], machine(2, 1, 1, 2, 2)[0]


def numbers(ax) -> list[int]:
    return sorted(int(text.get_text()) for text in ax.texts if text.get_text().isdecimal())


def all_texts(axes) -> list[tuple]:
    return [extent for ax in axes for extent in extents(ax)]


def touching(axes) -> list[tuple[str, str]]:
    pairs = itertools.combinations(all_texts(axes), 2)
    return [(a[0], b[0]) for a, b in pairs if a[1].shrunk(0.98, 0.95).overlaps(b[1].shrunk(0.98, 0.95))]


@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.name)
def test_a_recorded_host_stands_beside_small_guests_with_room_for_every_text(path):
    cpus = {"this host": Host.open(path).cpus(), "guest c1": SMALL, "guest c2": MIDDLE}
    axes = plots.machines(cpus)
    assert [numbers(ax) for ax in axes] == [sorted(frame["cpu"]) for frame in cpus.values()]
    assert touching(axes) == [] and [clipped(ax) for ax in axes] == [[], [], []]
    assert axes[0].figure.get_size_inches()[0] <= 10.2
    assert [ax.get_title(loc="left") for ax in axes] == list(cpus)


def test_machines_stand_beside_each_other_and_many_in_rows():
    axes = plots.machines({f"guest {n}": machine(1, 1, 1, n, 1)[0] for n in range(1, 8)})
    boxes = [ax.get_position() for ax in axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert len({round(box.y1, 6) for box in boxes}) == 2 and touching(axes) == []
    assert [numbers(ax) for ax in axes] == [list(range(n)) for n in range(1, 8)]


def test_what_is_written_below_a_machine_stays_below_it():
    rows = [cpu_row(n, node=0, socket=0, core=n // 2, smt=n % 2, capacity=1024 if n < 8 else 600, isolated=n > 11) for n in range(16)]
    axes = plots.machines({"hybrid": frame(rows, "cpus"), "guest c1": SMALL})
    assert touching(axes) == [] and [clipped(ax) for ax in axes] == [[], []]


def test_what_is_written_about_a_machine_stays_in_its_column():
    axes = plots.machines({name: machine(2, 1, 1, 8, 2)[0] for name in "abcd"})
    assert any("Each of the smallest boxes" in text for text, _ in extents(axes[0]))
    for ax, after in itertools.pairwise(axes):
        assert max(box.x1 for _, box in extents(ax)) < after.get_window_extent().x0


def test_machines_in_words_are_a_line_each():
    text = plots.machines_in_words({"this host": MIDDLE, "guest c1": SMALL})
    assert text.splitlines()[1] == f"guest c1: {plots.machine_in_words(SMALL)}."
    assert text.startswith("this host: 2 sockets x 2 cores x 2 threads = 8 CPUs")


def test_no_machine_and_another_frame_are_errors():
    with pytest.raises(KvmlabError, match="No machines to draw"):
        plots.machines({})
    with pytest.raises(KvmlabError, match=r"pass the one of Host\.cpus\(\) or a guest's topology\(\)"):
        plots.machines({"this host": frame([], "vcpus")})
