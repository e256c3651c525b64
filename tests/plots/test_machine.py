"""The machine's tree of boxes, where the boxes stand, what the picture shows, and the sentence under it."""

import itertools
import re
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host, KvmlabError, plots
from kvmlab.columns import frame
from kvmlab.plots import boxes, layout
from tests.plots.made import clipped, cpu_row, extents, machine, overlapping

RECORDED = sorted((Path(__file__).parent.parent / "hosts").glob("*.tar.xz"))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def kinds(tree: boxes.Box, kind: str) -> list[boxes.Box]:
    return [box for box in tree.all() if box.kind == kind]


def numbers(ax) -> list[int]:
    return sorted(int(text.get_text()) for text in ax.texts if text.get_text().isdecimal())


def key(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


# ---- the tree


def test_cores_of_two_sockets_and_dies_with_the_same_number_are_different_cores():
    tree, _ = boxes.tree(*machine(sockets=2, dies=2, caches=1, cores=3, threads=2))
    assert len(kinds(tree, "core")) == 12
    assert {len(core.cpus) for core in kinds(tree, "core")} == {2}


def test_dies_are_boxes_only_where_a_socket_has_several():
    assert len(kinds(boxes.tree(*machine(2, 2, 1, 2, 1))[0], "die")) == 4
    assert not kinds(boxes.tree(*machine(2, 1, 1, 2, 1))[0], "die")


def test_what_has_the_same_cpus_is_one_box_with_all_its_names():
    tree, _ = boxes.tree(*machine(2, 1, 1, 2, 1))
    assert [box.names for box in tree.children] == [["node 0", "socket 0", "8 GiB"], ["node 1", "socket 1", "8 GiB"]]
    assert [box.caches for box in tree.children] == [["L3 16 MiB"], ["L3 16 MiB"]]


@pytest.mark.parametrize(("node", "socket", "outer"), [("cpu // 2", "0", "socket"), ("0", "cpu // 2", "node")])
def test_nodes_stand_in_sockets_or_sockets_in_nodes_as_the_machine_has_it(node, socket, outer):
    rows = [cpu_row(cpu, node=eval(node, {"cpu": cpu}), socket=eval(socket, {"cpu": cpu}), core=cpu) for cpu in range(4)]
    tree, _ = boxes.tree(frame(rows, "cpus"))
    assert [box.kind for box in tree.children] == [outer]
    assert len(tree.children[0].children) == 2


def test_sockets_and_cores_stand_in_the_order_of_their_numbers():
    rows = [cpu_row(cpu, socket=socket, core=core) for cpu, (socket, core) in enumerate([(0, 1), (2, 0), (0, 0), (1, 0)])]
    tree, _ = boxes.tree(frame(rows, "cpus"))
    assert [box.names for box in tree.children] == [["socket 0"], ["socket 1"], ["socket 2"]]
    assert [box.names for box in tree.children[0].children] == [["core 0"], ["core 1"]]


def test_a_cache_that_cuts_across_sockets_is_left_out_and_named():
    rows = [cpu_row(cpu, socket=cpu // 2, core=cpu, l3=cpu in (1, 2)) for cpu in range(4)]
    tree, left_out = boxes.tree(frame(rows, "cpus"))
    assert [len(box.children) for box in tree.children] == [2, 2]
    assert left_out == ["L3"]
    ax = plots.machine(frame(rows, "cpus"))
    assert any("Not drawn: L3" in text for text, _ in extents(ax))
    assert clipped(ax) == []


values = st.none() | st.integers(0, 3)


@given(st.lists(st.tuples(st.booleans(), *[values] * 6), max_size=20))
def test_whatever_the_machine_says_each_cpu_is_in_one_box_inside_boxes_that_hold_it(told):
    names = ("online", "node", "socket", "die", "core", "l2", "l3")
    tree, _ = boxes.tree(frame([cpu_row(cpu, **dict(zip(names, row, strict=True))) for cpu, row in enumerate(told)], "cpus"))
    assert sorted(int(box.names[0]) for box in kinds(tree, "cpu")) == list(range(len(told)))
    for box in tree.all():
        inside = [child.cpus for child in box.children]
        assert sum(map(len, inside)) == len(frozenset().union(*inside)), "no CPU is in two boxes beside each other"
        assert frozenset().union(*inside) == box.cpus or box.kind == "cpu"


# ---- the layout


def check_places(sheet: layout.Place) -> None:
    for place in (place for *_, place in sheet.all()):
        for child in place.children:
            assert child.x >= -0.01 and child.x + child.width <= place.width + 0.01, (place.box.names, child.box.names)
            assert child.y >= -0.01 and child.y + child.height <= place.height + 0.01, (place.box.names, child.box.names)
            assert child.width > 0 and child.height > 0
            assert all(child.y >= top for _, top, _ in place.texts), "nothing stands on a box's own texts"
        for a, b in itertools.combinations(place.children, 2):
            beside = a.x + a.width + 1 <= b.x or b.x + b.width + 1 <= a.x
            assert beside or a.y + a.height + 1 <= b.y or b.y + b.height + 1 <= a.y, (a.box.names, b.box.names)


@given(st.lists(st.tuples(st.booleans(), *[values] * 6), min_size=1, max_size=30), st.integers(50, 720), st.integers(50, 500))
def test_boxes_stand_inside_each_other_and_never_on_each_other(told, width, height):
    names = ("online", "node", "socket", "die", "core", "l2", "l3")
    tree, _ = boxes.tree(frame([cpu_row(cpu, **dict(zip(names, row, strict=True))) for cpu, row in enumerate(told)], "cpus"))
    sheet, _ = layout.fit(tree, width, height)
    check_places(sheet)
    assert len([place for *_, place in sheet.all() if place.box.kind == "cpu"]) == len(told)


def test_all_cores_are_as_wide_and_all_cells_as_large_even_where_a_thread_is_offline():
    tree, _ = boxes.tree(*machine(2, 1, 1, 2, 2, offline={5, 7}))
    places = [place for *_, place in layout.fit(tree, 720, 400)[0].all()]
    for kind in ("core", "cpu"):
        inside = [place for place in places if place.box.kind == kind and place.box.state != "offline"]
        assert len({(round(place.width, 3), round(place.height, 3)) for place in inside}) == 1, kind


@pytest.mark.parametrize("shape", [(1, 1, 1, 2, 1), (2, 1, 1, 4, 2), (2, 1, 4, 8, 2), (4, 1, 1, 16, 2), (2, 1, 8, 8, 2), (8, 1, 1, 64, 2)])
def test_from_2_to_1024_cpus_the_picture_is_as_wide_as_a_notebook_and_no_text_touches_another(shape):
    ax = plots.machine(*machine(*shape))
    width, height = ax.figure.get_size_inches()
    assert width <= 10.2 and height <= 7
    assert overlapping(ax) == []
    assert clipped(ax) == []


@pytest.mark.parametrize("shape", [(1, 1, 1, 2, 1), (2, 1, 4, 8, 2), (4, 1, 1, 16, 2), (2, 1, 8, 8, 2)])
def test_up_to_256_cpus_each_has_its_number_in_letters_of_6_points_or_more(shape):
    cpus, caches, nodes = machine(*shape)
    ax = plots.machine(cpus, caches, nodes)
    assert numbers(ax) == cpus["cpu"].tolist()
    assert min(text.get_fontsize() for text in ax.texts) >= 6


def test_numbers_of_five_digits_fit_their_cells():
    cpus, caches, nodes = machine(2, 1, 4, 32, 1)
    cpus["cpu"] += 80000
    sheet, look = layout.fit(boxes.tree(cpus, caches, nodes)[0], 720, 400)
    cells = [place for *_, place in sheet.all() if place.box.kind == "cpu"]
    assert look.numbers and all(layout.text_width(cell.box.names[0], look.font) < cell.width for cell in cells)


def test_where_numbers_would_be_too_small_the_boxes_say_which_cpus_they_hold():
    ax = plots.machine(*machine(8, 1, 1, 64, 2))
    assert numbers(ax) == []
    assert {f"CPUs {128 * node}-{128 * node + 127}" for node in range(8)} <= {text for text, _ in extents(ax)}


# ---- the picture


def test_a_machine_of_two_cpus_names_node_socket_memory_caches_cores_and_cpus():
    ax = plots.machine(*machine(1, 1, 1, 2, 1))
    shown = Counter(text for text, _ in extents(ax))
    assert shown == Counter({"L2 512 KiB": 2}) + Counter(
        ["1 socket x 2 cores x 1 thread = 2 CPUs", "node 0 · socket 0 · 8 GiB", "L3 16 MiB", "core 0", "core 1", "0", "1"]
    )


def test_offline_cpus_stand_apart_hatched_with_their_numbers():
    cpus, caches, nodes = machine(2, 1, 1, 2, 2, offline={3, 6})
    tree, _ = boxes.tree(cpus, caches, nodes)
    assert [sorted(box.cpus) for box in kinds(tree, "offline")] == [[3, 6]]
    ax = plots.machine(cpus, caches, nodes)
    assert [len(drawn.get_paths()) for drawn in ax.collections if drawn.get_hatch()] == [2]
    assert numbers(ax) == list(range(8))


def test_isolated_cpus_are_tinted_and_explained_only_where_there_are_any():
    assert key(plots.machine(*machine(1, 1, 1, 4, 1))) == []
    ax = plots.machine(*machine(1, 1, 1, 4, 1, isolated={2, 3}, nohz_full={3}))
    assert key(ax) == ["isolated", "isolated and nohz_full"]
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_a_node_without_cpus_is_a_box_of_memory_only():
    cpus, caches, nodes = machine(1, 1, 1, 2, 1)
    nodes = frame([*nodes.itertuples(index=False), (1, "", 3 << 19, 0, 0, 0)], "nodes")
    tree, _ = boxes.tree(cpus, caches, nodes)
    assert [box.names for box in tree.children if not box.cpus] == [["node 1", "no CPUs", "1.5 GiB"]]
    assert "node 1 · no CPUs · 1.5 GiB" in {text for text, _ in extents(plots.machine(cpus, caches, nodes))}


@pytest.mark.parametrize("told", [None, "0-1"])
def test_a_node_whose_cpus_are_not_known_or_not_agreed_on_is_not_said_to_have_none(told):
    _, left_out = boxes.tree(machine(1, 1, 1, 2, 1)[0], None, frame([(7, told, 1 << 20, 0, 0, 0)], "nodes"))
    assert left_out == ["node 7"]


def test_a_node_without_memory_says_so_and_one_of_unknown_memory_says_nothing():
    cpus, _, _ = machine(2, 1, 1, 1, 1)
    nodes = frame([(0, "0", 0, 0, 0, 0), (1, "1", None, None, None, None)], "nodes")
    tree, _ = boxes.tree(cpus, None, nodes)
    assert [box.names for box in tree.children] == [["node 0", "socket 0", "no memory"], ["node 1", "socket 1"]]


def test_a_cache_of_unknown_size_has_its_name_only():
    rows = [cpu_row(cpu, socket=0, core=cpu, l3=0) for cpu in range(2)]
    for caches in (None, frame([(0, 3, "Unified", None, None, None, "0-1")], "caches")):
        assert boxes.tree(frame(rows, "cpus"), caches)[0].children[0].caches == ["L3"]


def test_a_machine_of_unknown_topology_is_a_plain_row():
    cpus = frame([cpu_row(cpu) for cpu in range(4)], "cpus")
    ax = plots.machine(cpus)
    assert ax.get_title(loc="left") == "4 CPUs, topology not known"
    tree, _ = boxes.tree(cpus)
    sheet, _ = layout.fit(tree, 720, 400)
    assert len({place.y for place in sheet.children}) == 1
    assert len(sheet.children) == 4


def test_cores_that_differ_are_tinted_and_told_apart_the_strongest_first():
    rows = [cpu_row(cpu, socket=0, core=cpu, max_mhz=2800.0 if cpu else 3000.0) for cpu in range(5)]
    cpus = frame(rows, "cpus")
    assert clipped(plots.machine(cpus)) == []
    assert key(plots.machine(cpus)) == ["1 core of up to 3 GHz", "4 cores of up to 2.8 GHz"]
    assert "cores differ: 1 core of up to 3 GHz, 4 cores of up to 2.8 GHz" in plots.machine_in_words(cpus)


def test_of_capacity_and_frequency_the_one_with_fewer_kinds_tells_cores_apart():
    rows = [cpu_row(cpu, socket=0, core=cpu, max_mhz=4000.0 - cpu, capacity=1024 if cpu < 2 else 400) for cpu in range(4)]
    assert boxes.strengths(frame(rows, "cpus")) == [("of capacity 1024", 2), ("of capacity 400", 2)]


def test_no_machine_at_all_is_an_empty_picture():
    assert len(plots.machine(frame([], "cpus"), frame([], "caches"), frame([], "nodes")).texts) == 0


def test_another_frame_is_refused_with_the_name_of_the_right_one():
    with pytest.raises(KvmlabError, match=r"no column 'cpu': pass the one of Host.cpus\(\)"):
        plots.machine(frame([], "nodes"))
    with pytest.raises(KvmlabError, match=r"pass the one of Host.caches\(\)"):
        plots.machine_in_words(frame([], "cpus"), frame([], "cpus"))


def test_it_draws_into_the_axes_it_is_given_with_letters_that_fit():
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    assert plots.machine(*machine(2, 1, 1, 4, 2), ax=left, title="mine") is left
    plots.machine(*machine(4, 1, 2, 8, 2), ax=right)
    assert left.get_title(loc="left") == "mine"
    for ax in (left, right):
        inside = [(text, box) for text, box in extents(ax) if text.isdecimal()]
        assert not [1 for a, b in itertools.combinations(inside, 2) if a[1].overlaps(b[1])]


# ---- recorded machines, and this one


def of_lscpu(path: Path) -> list[list[str]]:
    """CPU, node, socket and core of each online CPU, as lscpu numbers them."""
    lines = path.with_name(path.name.replace(".tar.xz", ".lscpu.txt")).read_text().splitlines()
    return [line.split(",")[:4] for line in lines if re.match(r"\d+,", line)]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_recorded_machines_are_drawn_whole_and_readable_with_the_sockets_and_cores_of_lscpu(path):
    host, theirs = Host.open(path), of_lscpu(path)
    cpus, caches, nodes = host.cpus(), host.caches(), host.nodes()
    ax = plots.machine(cpus, caches, nodes)
    assert numbers(ax) == cpus["cpu"].tolist()
    assert (overlapping(ax), clipped(ax)) == ([], [])
    tree, left_out = boxes.tree(cpus, caches, nodes)
    cores = {core: {int(row[0]) for row in theirs if row[3] == core} for core in {row[3] for row in theirs}}
    assert sorted(map(sorted, cores.values())) == sorted(sorted(core.cpus) for core in kinds(tree, "core"))
    assert sum(name.startswith("socket") for box in tree.all() for name in box.names) == len({row[2] for row in theirs})
    assert left_out == []
    assert plots.machine_in_words(cpus).startswith(f"{len({row[2] for row in theirs})} socket")


def test_this_machine_is_drawn_with_all_its_cpus():
    host = Host()
    ax = plots.machine(host.cpus(), host.caches(), host.nodes())
    assert len(numbers(ax)) in (len(host.cpus()), 0)
    assert clipped(ax) == []


# ---- in words


def test_a_regular_machine_in_words():
    assert plots.machine_in_words(*machine(2, 1, 1, 4, 2)) == (
        "2 sockets x 4 cores x 2 threads = 16 CPUs; 2 NUMA nodes with 8 GiB each; 2 L3 caches of 16 MiB, each shared by 8 CPUs; "
        "8 L2 caches of 512 KiB, each shared by 2 CPUs"
    )


def test_a_machine_with_an_offline_cpu_is_counted_not_multiplied():
    words = plots.machine_in_words(*machine(2, 1, 1, 4, 2, offline={5}, isolated={2, 3}))
    assert words.startswith("2 sockets, 8 cores of 1 or 2 threads, 15 CPUs online (CPU 5 offline); CPUs 2-3 isolated; ")


def test_dies_and_odd_nodes_in_words():
    cpus, caches, _ = machine(1, 2, 1, 2, 1)
    nodes = frame([(0, "0-3", 8 << 20, 0, 0, 0), (1, "", 4 << 20, 0, 0, 0), (2, "", 0, 0, 0, 0)], "nodes")
    words = plots.machine_in_words(cpus, caches, nodes)
    assert words.startswith("1 socket x 2 dies x 2 cores x 1 thread = 4 CPUs; 3 NUMA nodes with 4 GiB to 8 GiB")
    assert "nodes 1-2 without CPUs" in words and "node 2 without memory" in words


def test_what_is_not_known_is_said_to_be_so():
    rows = [cpu_row(cpu, core=0) for cpu in range(2)]
    assert plots.machine_in_words(frame(rows, "cpus")) == "sockets not known, 1 core of 2 threads, 2 CPUs"
    assert plots.machine_in_words(frame([cpu_row(0)], "cpus")) == "1 CPU, topology not known"
