"""The project's own recordings, each a real Linux guest of that shape, against what lscpu said inside of it and hwloc says of its files."""

import json
import math
import re
import subprocess
import tarfile

import pandas as pd
import pytest

from kvmlab import Host, cpulist
from tests.conftest import REPOSITORY
from tests.host.test_topology import hwloc, partition

HOSTS = sorted((REPOSITORY / "tests/hosts").glob("*.tar.xz"))
LEVELS = {
    "socket": ["socket"],
    "core": ["socket", "die", "core"],
    "node": ["node"],
    "l1d": ["l1d"],
    "l1i": ["l1i"],
    "l2": ["l2"],
    "l3": ["l3"],
}


def ours(path, level: str) -> set[frozenset[int]]:
    cpus = Host.open(path).cpus()
    rows = cpus[cpus["online"] & cpus[LEVELS[level][-1]].notna()]
    return partition((row.cpu, tuple(str(getattr(row, c)) for c in LEVELS[level])) for row in rows.itertuples())


def lscpu(path) -> tuple[list[dict[str, str]], list[dict]]:
    """Its rows of CPUs and its caches."""
    text = (path.parent / path.name.replace(".tar.xz", ".lscpu.txt")).read_text()
    lines = [line for line in text.partition("{")[0].splitlines() if line]
    names = [name.lower() for name in lines[3].removeprefix("# ").split(",")]
    rows = [dict(zip(names, line.split(","), strict=False)) for line in lines if not line.startswith("#")]
    return rows, json.loads("{" + text.partition("{")[2])["caches"] if "{" in text else []


def test_there_are_a_dozen_of_them_and_they_are_small():
    assert len(HOSTS) >= 12
    assert all(path.stat().st_size < 200_000 for path in HOSTS)


@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.name)
def test_cpus_are_as_lscpu_saw_them_inside_of_the_guest(path):
    rows, caches = lscpu(path)
    cpus = Host.open(path).cpus()
    assert cpus.loc[cpus["online"], "cpu"].tolist() == [int(row["cpu"]) for row in rows]
    for level in LEVELS:
        said = [(row["cpu"], row[level]) for row in rows if row.get(level)]
        assert ours(path, level) == partition(said), level
    said = {(cache["name"].lower()[:3], cache["one-size"], cache["ways"] or None, cache["coherency-size"] or None) for cache in caches}
    seen = set()
    for cache in Host.open(path).caches().itertuples():
        name = f"l{cache.level}" + {"Data": "d", "Instruction": "i"}.get(cache.type, "")
        kib = 0 if pd.isna(cache.size_kib) else cache.size_kib
        size = f"{kib // 1024}M" if kib and kib % 1024 == 0 else f"{kib}K" if kib else None
        seen.add((name[:3], size, *(None if pd.isna(value) else value for value in (cache.ways, cache.line_b))))
    assert seen == said


def test_lscpu_replays_our_recordings(tmp_path):
    path = REPOSITORY / "tests/hosts/x86_64-2n2s4c2t-offline.tar.xz"
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path)  # our own: it climbs nowhere
    said = subprocess.run(["lscpu", "--sysroot", str(tmp_path), "-p=CPU,NODE,SOCKET,CORE"], capture_output=True, text=True, check=True)
    rows = [line.split(",") for line in said.stdout.splitlines() if not line.startswith("#")]
    for place, level in enumerate(("node", "socket", "core"), start=1):
        assert ours(path, level) == partition((row[0], row[place]) for row in rows), level


@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.name)
def test_cpus_are_as_hwloc_sees_them_in_the_files(path, tmp_path):
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path)  # our own: it climbs nowhere
    said = hwloc("--input", str(tmp_path), "--if", "fsroot")
    for level in LEVELS:
        if level == "node" and "cpuless" in path.name:
            continue  # hwloc gives a node without CPUs the CPUs next to it
        assert ours(path, level) == said[level], level


@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.name)
def test_the_shape_in_the_name_is_the_shape_in_the_frame(path):
    """x86_64-2n2s2d4c2t-offline: 2 nodes, 2 sockets, 2 dies a socket, 4 cores, 2 threads; cl: clusters."""
    shape = {"n": 1, "d": 1, "cl": 1}
    shape |= {letter: int(number) for number, letter in re.findall(r"(\d+)(n|s|d|cl|c|t)", path.name.split("-")[1])}
    host, cpus = Host.open(path), Host.open(path).cpus()
    assert len(host.nodes()) == shape["n"]
    if not any(word in path.name for word in ("offline", "hotplug")):
        levels = [("socket", "s"), ("die", "d"), ("cluster", "cl"), ("core", "c"), ("cpu", "t")]
        levels = [(level, letter) for level, letter in levels if shape[letter] > 1 or letter in "sct"]
        for depth in range(1, len(levels) + 1):
            keys = [level for level, _ in levels[:depth]]
            assert cpus.groupby(keys, dropna=False).ngroups == math.prod(shape[letter] for _, letter in levels[:depth]), keys


def recorded(name: str) -> Host:
    return Host.open(REPOSITORY / f"tests/hosts/x86_64-{name}.tar.xz")


def test_offline_cpus_have_rows_without_topology():
    cpus = recorded("2n2s4c2t-offline").cpus().set_index("cpu")
    assert cpus[~cpus["online"]].index.tolist() == [3, 8, 9, 14]
    assert cpus.loc[[3, 8, 9, 14], ["socket", "core", "smt", "l1d", "node"]].isna().all(axis=None)
    assert cpus.loc[[2, 15], "smt"].tolist() == [0, 0]  # their siblings are offline


def test_a_node_without_memory_and_one_without_cpus_have_rows():
    nodes = recorded("3n2s2c1t-cpuless").nodes()
    assert nodes["cpus"].tolist() == ["0-1", "2-3", ""] and (nodes["mem_total_kib"] > 0).all()
    nodes = recorded("2n2s2c2t-memoryless").nodes()
    assert nodes["cpus"].tolist() == ["0-3", "4-7"] and nodes["mem_total_kib"].tolist()[1] == 0


def test_distances_are_as_qemu_was_told():
    assert recorded("4n4s2c1t-distances").distances().to_numpy().tolist() == [
        [10, 12, 20, 22],
        [12, 10, 24, 26],
        [20, 24, 10, 14],
        [22, 26, 14, 10],
    ]


def test_huge_pages_are_as_the_kernel_was_told():
    nodes = recorded("2n2s2c1t-hugepages").nodes()
    assert nodes["hugepages"].tolist() == [32, 96] and nodes["hugepages_kib"].tolist() == [32 * 2048, 96 * 2048]


def test_a_recording_tells_no_time_that_is_not_its_own():
    times = recorded("1s1c1t").cpu_times()
    assert times["time_s"].isna().all() and (times["idle_s"] + times["user_s"] + times["kernel_s"] > 0).all()


def test_every_cpu_of_the_biggest_has_its_kernel_threads():
    threads = recorded("4n4s16c2t").threads(affinity=True)
    migration = threads[threads["kind"] == "migration"]
    assert sorted(cpulist.parse(text)[0] for text in migration["allowed_cpus"]) == list(range(128))
