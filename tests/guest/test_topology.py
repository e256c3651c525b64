"""Topologies and NUMA cells that users write, and the shape of a host that a guest is to be like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host, KvmlabError
from kvmlab.guest.spec import GuestSpec
from kvmlab.guest.topology import Cells, Topology, like
from kvmlab.measure import compare_topology
from tests.conftest import REPOSITORY

SIZES = st.tuples(*[st.integers(1, 5)] * 4)


@given(SIZES)
def test_a_topology_reads_as_it_is_written_and_counts_out(sizes):
    topology = Topology.parse("x".join(map(str, sizes)))
    assert (str(topology), topology.vcpus) == ("x".join(map(str, sizes)), len(topology.places()))
    assert len(set(topology.places())) == topology.vcpus and topology.places() == sorted(topology.places())


@given(SIZES)
def test_an_apic_id_holds_each_level_in_bits_of_its_own(sizes):
    """The rule of CPUID leaf 0xB: shifted right by the bits of the levels below, it is the same for all of one level."""
    topology = Topology(*sizes)
    shifts = [sum((size - 1).bit_length() for size in sizes[level + 1 :]) for level in range(4)]
    for apic_id, place in zip(topology.apic_ids(), topology.places(), strict=True):
        widths = [None, *((size - 1).bit_length() for size in sizes[1:])]
        fields = [
            apic_id >> shift if width is None else apic_id >> shift & (1 << width) - 1 for shift, width in zip(shifts, widths, strict=True)
        ]
        assert tuple(fields) == place


def test_three_numbers_have_one_die_a_socket():
    assert Topology.parse("2x4x1") == Topology(2, 1, 4, 1)


@pytest.mark.parametrize("text", ["", "2", "2x2", "2x2x2x2x2", "0x1x1", "2x0x2x2", "-1x1x1", "2X2X2", "axbxc", "2x2x2 ", "²x1x1", None, 8])
def test_what_is_no_topology_is_refused_with_an_example(text):
    with pytest.raises(KvmlabError, match="as in '2x1x2x2'"):
        Topology.parse(text)


def test_a_topology_that_does_not_multiply_out_prints_the_arithmetic():
    with pytest.raises(KvmlabError, match=r"2 sockets x 1 die x 2 cores x 2 threads = 8 vCPUs, not 6"):
        GuestSpec("c1", 6, "tcg", "/image", "/run/c1", topology=Topology(2, 1, 2, 2))


@pytest.mark.parametrize(
    "cells, distances, words",
    [
        (["0-3", "3-7"], None, "vCPU 3 is in the NUMA cells 0 and 1"),
        (["0-3", "5-7"], None, "vCPU 4 is in no NUMA cell"),
        (["0-3", "4-8"], None, "no vCPU 8; the guest has 0 to 7"),
        (["0-3", "x"], None, "NUMA cell 1"),
        (["0-3", 4], None, "NUMA cell 1"),
        ("0-7", None, "write a list"),
        ([], None, "write a list"),
        (["0-3", "4-7"], [[10, 20]], "write 2 rows of 2 numbers"),
        (["0-3", "4-7"], [[10, 20], [20]], "write 2 rows of 2 numbers"),
        (["0-3", "4-7"], [[20, 20], [20, 10]], "distance 20 from cell 0 to 0: write 10 to itself"),
        (["0-3", "4-7"], [[10, 255], [20, 10]], "11 to 254 to others"),
        (["0-3", "4-7"], [[10, 10], [20, 10]], "11 to 254 to others"),
        (["0-3", "4-7"], [[10, 20.0], [20, 10]], r"distance 20\.0 from cell 0 to 1"),
    ],
)
def test_cells_that_cannot_be_say_which_and_what_would(cells, distances, words):
    with pytest.raises(KvmlabError, match=words):
        Cells.parse(cells, distances, 8)


def test_a_cell_may_be_without_vcpus():
    assert Cells.parse(["0-7", ""], [[10, 17], [17, 10]], 8).distances == ((10, 17), (17, 10))


def test_distances_of_a_host_go_in_as_they_come_out():
    host = Host.open(REPOSITORY / "tests/hosts/x86_64-4n4s2c1t-distances.tar.xz").distances()
    cells = Cells.parse(["0", "1", "2", "3"], host.to_numpy(), 4)
    assert [list(row) for row in cells.distances] == host.to_numpy().tolist()
    assert Cells.parse(["0", "1", "2", "3"], host.to_numpy(dtype="int16"), 4) == cells


@pytest.mark.parametrize(
    "name, chosen, shape",
    [
        ("x86_64-2n2s8c2t", None, "2x1x8x2"),
        ("x86_64-2s2d2c2t", None, "2x2x2x2"),
        ("x86_64-1s8c1t-cgroups", None, "1x1x8x1"),
        ("x86_64-1s4c2t-isolated", [0, 1, 2, 3], "1x1x2x2"),
        ("x86_64-2n2s8c2t", [0], "1x1x1x1"),
    ],
)
def test_a_guest_like_a_host_has_its_shape(name, chosen, shape):
    cpus = Host.open(REPOSITORY / f"tests/hosts/{name}.tar.xz").cpus()
    topology, order = like(cpus, chosen or cpus["cpu"].tolist())
    assert str(topology) == shape
    mirrored = cpus.set_index("cpu").loc[order].reset_index()
    assert compare_topology(shape, mirrored)["same"].all()  # vCPU n of the guest is to be where the n-th of these is


def test_a_host_that_counts_siblings_last_has_the_shape_of_its_mirror():
    cpus = Host.open(REPOSITORY / "tests/hosts/x86_64-1s4c2t-isolated.tar.xz").cpus()
    cpus["cpu"] = [0, 4, 1, 5, 2, 6, 3, 7]  # as Linux numbers most machines: siblings are 0 and 4
    cpus = cpus.sort_values("cpu", ignore_index=True)
    topology, order = like(cpus, cpus["cpu"].tolist())
    assert (str(topology), order) == ("1x1x4x2", [0, 4, 1, 5, 2, 6, 3, 7])
    seen = cpus.set_index("cpu").loc[order].reset_index()
    assert compare_topology(cpus, seen)["same"].all()
    offline = cpus.assign(online=[True] * 3 + [False] + [True] * 3 + [False])
    assert len(compare_topology(offline, seen[~seen["core"].eq(3)])) == 6


def test_an_uneven_part_of_a_host_is_no_shape_and_says_why():
    cpus = Host.open(REPOSITORY / "tests/hosts/x86_64-2n2s8c2t.tar.xz").cpus()
    with pytest.raises(KvmlabError, match=r"Host CPUs 0-2 are no regular shape: 1 or 2 threads"):
        like(cpus, [0, 1, 2])


def test_compare_names_the_vcpus_that_differ():
    seen = Host.open(REPOSITORY / "tests/hosts/x86_64-1s4c2t-isolated.tar.xz").cpus()
    compared = compare_topology("1x1x8x1", seen)
    assert (
        compared["same"].tolist() == [True] + [False] * 7
        and compared["asked"].iloc[1] == "0:0:1:0"
        and compared["seen"].iloc[1] == "0:0:0:1"
    )
    with pytest.raises(KvmlabError, match="4 CPUs were asked for and 8 are seen"):
        compare_topology("1x4x1", seen)
