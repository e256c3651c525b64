"""Topology from CPUID, against the shapes that QEMU was asked for, Linux guests of the same CPU and the program cpuid(1)."""

import re
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvmlab.columns import FRAMES, frame
from kvmlab.guest import cpuid_topology
from kvmlab.guest.topology import Topology
from kvmlab.host import cpulist
from tests.conftest import need
from tests.guest import cpuid_dumps
from tests.guest.test_cpuid import ANSWERS

INTEL = (0, 0x756E6547, 0x6C65746E, 0x49656E69)
AMD = (0, 0x68747541, 0x444D4163, 0x69746E65)
NO_THREADS = {"Opteron_G3-2x1x2x2"}  # no leaf 0xB, no topoext: neither we nor anybody sees the threads that QEMU was asked for
HT, TOPOEXT = 1 << 28, 1 << 22


def _table(per_vcpu):
    return frame(cpuid_topology.rows(per_vcpu), "cpus", cpuid_topology.unavailable())


def _together(table, *columns) -> list[str]:
    """Of each CPU: the list of those that are the same in some columns, as sysfs writes it."""
    groups = table.groupby(list(columns))["cpu"].apply(lambda cpus: cpulist.format(cpus.tolist()))
    return [groups.loc[tuple(row) if len(columns) > 1 else row[0]] for row in table[list(columns)].itertuples(index=False, name=None)]


def _seen(table) -> list[tuple]:
    return list(table[["socket", "die", "core", "smt"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("name", [*cpuid_dumps.RECORDED, cpuid_dumps.WITHOUT_LINUX])
def test_a_recorded_guest_has_the_shape_that_qemu_was_asked_for(name):
    asked = Topology.parse(name.rpartition("-")[2])
    if name in NO_THREADS:
        asked = Topology(asked.sockets, asked.dies, asked.cores * asked.threads, 1)
    assert _seen(_table(cpuid_dumps.load(name))) == asked.places()


@pytest.mark.parametrize("name", cpuid_dumps.RECORDED)
def test_linux_sees_the_same_sockets_cores_and_caches(name):
    per_vcpu = cpuid_dumps.load(name)
    lines = [line.split() for line in (cpuid_dumps.FOLDER / f"{name}.linux.txt").read_text().splitlines()[1:]]
    sockets, threads, *caches = zip(*lines, strict=True)
    table = _table(per_vcpu)
    assert table["socket"].tolist() == [int(socket) for socket in sockets]
    if cpuid_topology.remarks(per_vcpu):
        assert list(threads) == [str(cpu) for cpu in table["cpu"]] and table["smt"].max() == 1
    else:
        assert _together(table, "socket", "die", "core") == list(threads)
    assert [_together(table, cache) for cache in ("l1d", "l1i", "l2", "l3")] == [list(shared) for shared in caches]


@pytest.mark.parametrize(
    "name", ["EPYC-2x1x2x2", "EPYC-Rome-2x1x3x2", "Opteron_G3-2x1x2x2", "qemu64-1x1x3x1", "kvm64-1x1x3x2", "qemu32-1x1x2x2"]
)
def test_the_program_cpuid_puts_cpus_in_the_same_places(name, tmp_path):
    """Not two sockets of Intel: from leaf 0xB that program counts the bits of threads twice. Nor `max`: that looks there from Zen on."""
    need(None if shutil.which("cpuid") else "no program cpuid")
    per_vcpu = cpuid_dumps.load(name)
    (tmp_path / "raw").write_text(cpuid_dumps.text(per_vcpu))
    said = subprocess.run(["cpuid", "-f", tmp_path / "raw"], capture_output=True, text=True, check=True).stdout
    places = [tuple(map(int, found)) for found in re.findall(r"\(APIC synth\): +PKG_ID=(\d+) CORE_ID=(\d+) SMT_ID=(\d+)", said)]
    assert len(places) == len(per_vcpu)
    assert [(socket, core, smt) for socket, _, core, smt in _seen(_table(per_vcpu))] == places


SHAPES = st.builds(Topology, *(st.integers(1, most) for most in (4, 3, 5, 3))).filter(lambda shape: shape.vcpus <= 64)


def _bits(*counts: int) -> list[int]:
    """Bits below each level."""
    widths = [(count - 1).bit_length() for count in counts]
    return [sum(widths[: n + 1]) for n in range(len(widths))]


def _told(shape: Topology, kind: str, apic_id: int) -> dict:
    """What a CPU of that kind says of its place; sources as in cpuid_topology."""
    threads, cores, dies = shape.threads, shape.cores, shape.dies
    smt, die, socket = _bits(threads, cores, dies)
    in_socket = threads * cores * dies
    if kind == "0x1F":
        levels = [(smt, threads, 1), (die, threads * cores, 2), (socket, in_socket, 5)]
        return {(0x1F, n): (bits, count, level << 8 | n, apic_id) for n, (bits, count, level) in enumerate(levels)}
    if kind == "0xB":
        levels = [(smt, threads, 1), (socket, in_socket, 2)]
        return {(0xB, n): (bits, count, level << 8 | n, apic_id) for n, (bits, count, level) in enumerate(levels)}
    if kind == "topoext":
        place = (apic_id, threads - 1 << 8, dies - 1 << 8 | apic_id >> die & 0xFF, 0)
        return {(0x80000001, 0): (0, 0, TOPOEXT, 0), (0x80000008, 0): (0, 0, socket << 12 | in_socket - 1, 0), (0x8000001E, 0): place}
    assert kind == "counts"  # leaf 4 counts the numbers that cores of a socket can have, leaf 1 those of its CPUs
    return {(4, 0): ((1 << socket - smt) - 1 << 26 | 1 << 5 | 1, 0, 0, 0)}


def _guest(shape: Topology, kind: str) -> dict:
    socket = _bits(shape.threads, shape.cores, shape.dies)[-1]
    basic = {(0, 0): AMD if kind == "topoext" else INTEL}
    return {
        vcpu: basic | {(1, 0): (0, apic_id << 24 | 1 << socket + 16, 0, HT)} | _told(shape, kind, apic_id)
        for vcpu, apic_id in enumerate(shape.apic_ids())
    }


@pytest.mark.parametrize("kind", ["0x1F", "0xB", "topoext", "counts"])
@given(shape=SHAPES)
@example(shape=Topology(1, 1, 1, 1))
@example(shape=Topology(2, 2, 3, 2))
def test_any_shape_that_a_cpu_tells_is_read_back(kind, shape):
    seen = _seen(_table(_guest(shape, kind)))
    if kind in ("0x1F", "topoext"):
        assert seen == shape.places()
    else:  # leaves 0xB and 4 know no dies: theirs are cores like all others
        assert [(socket, smt) for socket, _, _, smt in seen] == [(socket, smt) for socket, *_, smt in shape.places()]
        assert len({place[:3] for place in seen}) == shape.sockets * shape.dies * shape.cores


def _cache(level: int, kind: int, cpus: int) -> tuple:
    return (level << 5 | kind | cpus - 1 << 14, 0, 0, 0)


@pytest.mark.parametrize(("vendor", "leaf"), [(INTEL, 4), (AMD, 0x8000001D)])
def test_caches_are_shared_by_as_many_as_the_leaf_says_and_numbered_by_first_cpu(vendor, leaf):
    caches = [_cache(1, 1, 2), _cache(1, 2, 2), _cache(2, 3, 4), _cache(3, 3, 8)]
    told = {(0, 0): vendor, (0x80000001, 0): (0, 0, TOPOEXT, 0)} | {(leaf, n): cache for n, cache in enumerate(caches)}
    table = _table({v: told | {(0xB, 0): (1, 2, 0x100, v), (0xB, 1): (3, 8, 0x201, v), (1, 0): (0, v << 24, 0, HT)} for v in range(16)})
    assert _together(table, "l1d") == _together(table, "l1i") == _together(table, "socket", "die", "core")
    assert set(_together(table, "l2")) == {"0-3", "4-7", "8-11", "12-15"} and set(_together(table, "l3")) == {"0-7", "8-15"}
    assert table["l2"].tolist() == sorted(table["l2"]) and table["l2"].max() == 3


def test_a_cpu_that_tells_of_no_cache_has_none_and_the_frame_says_why():
    table = _table({0: {(0, 0): INTEL, (1, 0): (0x400, 0, 0, 0)}})
    assert table[["l1d", "l1i", "l2", "l3"]].isna().all(axis=None)
    missing = set(table.columns[table.isna().any()])
    assert missing == set(table.attrs["unavailable"]) and "node" in missing


LEAVES = st.sampled_from([(leaf, n) for leaf in (4, 0xB, 0x1F, 0x8000001D) for n in range(3)] + [(1, 0), (0x80000001, 0)])
MORE = st.sampled_from([(0x80000005, 0), (0x80000006, 0), (0x80000008, 0), (0x8000001E, 0)])


@given(st.sampled_from([INTEL, AMD]), st.dictionaries(LEAVES | MORE, ANSWERS), st.dictionaries(LEAVES | MORE, ANSWERS))
def test_nonsense_is_read_without_an_error_and_threads_of_a_core_are_numbered(vendor, one, other):
    per_vcpu = {0: one | {(0, 0): vendor}, 3: other | {(0, 0): vendor}}
    found = list(cpuid_topology.rows(per_vcpu))
    assert [row[0] for row in found] == [0, 3] and {len(row) for row in found} == {len(FRAMES["cpus"])}
    assert len({row[3:8] for row in found}) == 2
    assert all(number < 1 << 32 for row in found for number in row[3:8] if number is not None)
