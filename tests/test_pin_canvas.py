"""What the pin canvas draws, from recorded hosts and made-up seconds: columns, numbers, the picture that stands still."""

import asyncio
import os
import struct
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from traitlets import TraitError

from kvmlab import Host, KvmlabError, plots
from kvmlab.columns import frame
from kvmlab.widgets import model
from kvmlab.widgets.model import Row, Used, Window
from kvmlab.widgets.reader import Others
from tests.drawn import drawn
from tests.plots.made import clipped, overlapping

HOSTS = Path(__file__).parent / "hosts"


def columns(name: str) -> dict:
    host = Host.open(HOSTS / f"{name}.tar.xz")
    return model.columns(host.cpus(), host.caches(), host.nodes())


def test_columns_stand_in_the_order_of_the_topology_under_boxes_of_each_level():
    host = columns("x86_64-2n2s8c2t")
    assert [cpu["cpu"] for cpu in host["cpus"]] == list(range(32))
    assert [[(first, count) for first, count, *_ in tier] for tier in host["tiers"]] == [
        [(0, 16), (16, 16)],
        [(first, 2) for first in range(0, 32, 2)],
    ]
    assert host["tiers"][0][1][3][-2:] == ["node 1", "1"] and host["tiers"][0][1][3][0].startswith("node 1 · socket 1 · ")
    assert host["cpus"][17]["where"] == "core 0, die 0, socket 1, node 1"


def test_offline_cpus_have_no_column_and_isolated_ones_say_so():
    assert not {3, 8, 9, 14} & {cpu["cpu"] for cpu in columns("x86_64-2n2s4c2t-offline")["cpus"]}
    assert [cpu["cpu"] for cpu in columns("x86_64-1s4c2t-isolated")["cpus"] if "isolated" in cpu["special"]] == [2, 3, 4, 5]


@pytest.mark.parametrize("path", sorted(HOSTS.glob("*.tar.xz")), ids=lambda path: path.name)
def test_every_recorded_host_has_a_column_for_each_online_cpu_and_tiers_that_do_not_overlap(path):
    host = Host.open(path)
    cpus, drawn = host.cpus(), model.columns(host.cpus(), host.caches(), host.nodes())
    assert sorted(cpu["cpu"] for cpu in drawn["cpus"]) == cpus[cpus["online"]]["cpu"].tolist()
    for tier in drawn["tiers"]:
        ends = [0]
        for first, count, *_ in sorted(tier):
            assert first >= ends[-1]
            ends.append(first + count)


ROWS = [Row(("c1", 0), "vCPU 0", "vcpu", "0-1"), Row(("c1", "emulator"), "emulator", "emulator", "1")]


@pytest.fixture
def window() -> Window:
    """Two looks: vCPU 0 runs half a second on CPU 0 and waits a quarter, then the same on CPU 1; the emulator was never seen."""
    window = Window([0, 1])
    for second, cpu in ((1.0, 0), (2.0, 1)):
        window.add(second, 1.0, {"c1 vCPU 0": [Used(cpu, 0.5, 0.25, 0.3, 0.0, 0.1, 1)]}, np.array([1.0, 0.5]))
    return window


def test_shares_are_of_the_wall_clock_and_ticks_are_scaled_to_the_exact_time(window):
    cells, parts = window.of("c1 vCPU 0")
    assert cells == {0: (0.25, 0.125), 1: (0.25, 0.125)}
    assert parts == pytest.approx([0.375, 0.0, 0.125, 0.25, 0.25, 1.0])
    assert window.of("c1 emulator") == ({}, [None] * 6)


def test_what_is_older_than_the_window_is_forgotten(window):
    window.add(6.5, 1.0, {"c1 vCPU 0": [Used(0, 1.0, None, 0.0, 1.0, 0.0, None)]}, np.array([0.0, 0.0]))
    cells, parts = window.of("c1 vCPU 0")
    assert cells == {0: (0.5, 0.0), 1: (0.25, 0.125)} and parts[3] is None and parts[5] is None


def test_numbers_travel_packed_without_the_empty_cells(window):
    data = model.packed(window, ROWS)
    assert struct.unpack_from("<4I2I", data) == (2, 2, 2, 0, 0, 1)
    assert struct.unpack_from("<12H", data, 24) == (375, 0, 125, 250, 250, 10, *[model.UNKNOWN] * 6)
    assert list(data[48:]) == [25, 25, 12, 12, 100, 50]


def table(window: Window, wishes: dict):
    host = columns("x86_64-1s4c2t-isolated")
    host["cpus"] = host["cpus"][:2]
    return frame(model.pins(host, ROWS, wishes, window), "pins")


def test_the_table_has_a_row_a_thread_and_cpu(window):
    data = table(window, {"c1 vCPU 0": "1"})
    assert data["may_run"].tolist() == [True, True, False, True] and data["wished"].tolist() == [False, True, False, True]
    assert data["ran_pct"].tolist()[:2] == [25, 25] and data["ran_pct"].isna().tolist() == [False, False, True, True]
    words = plots.pins_in_words(data)
    assert words.splitlines()[0] == "c1 vCPU 0: may run on CPU 0-1; ran 25 % on CPU 0, 25 % on CPU 1; waited 25 %; wished: CPU 1"
    assert words.splitlines()[1] == "c1 emulator: may run on CPU 1; not watched yet"


def test_what_is_missing_in_the_table_has_a_reason_and_is_no_zero():
    canvas = drawn("x86_64-1s4c2t-isolated", 1)
    canvas._reader.rows.append(Row("tid 7", "cc1", "thread", "0"))
    full = canvas.table()
    assert (
        full.attrs["unavailable"].keys()
        == {column for column in full if full[column].isna().any()}
        == {"guest", "special", "ran_pct", "waited_pct"}
    )
    canvas._reader.window = Window(canvas._reader.cpus)
    assert canvas.table()["busy_pct"].isna().all() and "watched" in canvas.table().attrs["unavailable"]["busy_pct"]


@pytest.mark.parametrize(
    "message",
    [
        [1],
        "x",
        None,
        {},
        {"do": ["a"]},
        {"do": {}},
        {"do": "apply"},
        *({"do": "apply", "wished": w} for w in (5, [], {"g0 vCPU 0": [1]}, {1: "0"})),
    ],
)
def test_what_is_no_message_of_the_page_is_ignored(message):
    canvas = drawn(16, 1)
    canvas._heard(canvas, message, [])
    assert not canvas._status and not canvas._wished


def test_wishes_are_words():
    canvas = drawn(16, 1)
    with pytest.raises(TraitError):
        canvas._wished = {"g0 vCPU 0": [1]}


def test_whatever_ends_it_is_said():
    async def watch() -> str:
        canvas = drawn(16, 1)
        canvas._reader.read = lambda: 1 / 0
        await asyncio.wait_for(canvas._running, 5)
        return canvas._ended

    assert asyncio.run(watch()) == "This canvas has stopped: ZeroDivisionError: division by zero. Run the cell again."


def test_no_thread_is_remembered_that_is_not_looked_at():
    others = Others()
    others._until = {os.getpid(): float("inf")}
    others._threads = {2**22 + 1: (0.0, 0.0)}  # no thread has a number so high
    others._next = float("inf")
    others.look(set())
    assert others._threads.keys() == {int(tid) for tid in os.listdir("/proc/self/task")}


def test_the_picture_cuts_off_no_word_and_needs_its_frame(window):
    ax = plots.pins(table(window, {"c1 vCPU 0": ""}))
    assert not overlapping(ax) and not clipped(ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["all work on it", "c1  vCPU 0", "c1  emulator"]
    plt.close("all")
    with pytest.raises(KvmlabError, match=r"pass the one of lab.pin_widget\(\).table\(\)"):
        plots.pins(Host().cpus())
    assert plots.pins_in_words(frame([], "pins")) == "No guest runs."
    plots.pins(frame([], "pins"))
    rows = [Row("tid 7", r"$\frac$x", "thread", "0")]
    plots.pins(frame(model.pins(columns("x86_64-1s4c2t-isolated"), rows, {}, Window([0])), "pins")).figure.canvas.draw()
    plt.close("all")
