import json
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host
from kvmlab.columns import frame
from kvmlab.host import topology
from kvmlab.host.sysroot import SysRoot
from tests.conftest import need

CPUS = "sys/devices/system/cpu"
LEVELS = {"socket": ["socket"], "core": ["socket", "die", "core"], "node": ["node"], "l1d": ["l1d"], "l2": ["l2"], "l3": ["l3"]}


def partition(pairs) -> set[frozenset[int]]:
    groups: dict[tuple, set[int]] = {}
    for cpu, key in pairs:
        groups.setdefault(key, set()).add(int(cpu))
    return {frozenset(group) for group in groups.values()}


def test_sockets_cores_nodes_and_caches_are_those_of_lscpu():
    command = ["lscpu", "-p=CPU,SOCKET,CORE,NODE,CACHE"]
    lines = [line.split(",") for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()]
    rows = [line for line in lines if not line[0].startswith("#")]
    cpus = Host().cpus()
    online = cpus[cpus["online"]]
    assert [int(row[0]) for row in rows] == online["cpu"].tolist()
    for level, place in {"socket": 1, "core": 2, "node": 3}.items():
        if all(row[place] for row in rows):
            ours = partition((row.cpu, tuple(getattr(row, c) for c in LEVELS[level])) for row in online.itertuples())
            assert ours == partition((row[0], row[place]) for row in rows), level
    for level in ("l1d", "l2", "l3"):
        if online[level].notna().all() and rows[0][4]:
            position = {"l1d": 0, "l2": 2, "l3": 3}[level]
            ours = partition((row.cpu, getattr(row, level)) for row in online.itertuples())
            assert ours == partition((row[0], ":".join(row[4:]).split(":")[position]) for row in rows), level


def hwloc(*options: str) -> dict[str, set[frozenset[int]]]:
    """What lstopo says of this machine, or of one given by `options`: for each level, its groups of CPUs."""
    if not shutil.which("lstopo-no-graphics"):
        need("no hwloc")
    run = subprocess.run(
        ["lstopo-no-graphics", *options, "--of", "xml", "--no-io", "--disallowed"], capture_output=True, text=True, check=True
    )
    levels = {
        "Package": "socket",
        "Core": "core",
        "NUMANode": "node",
        "L1Cache": "l1d",
        "L1iCache": "l1i",
        "L2Cache": "l2",
        "L3Cache": "l3",
    }
    said: dict[str, set[frozenset[int]]] = {level: set() for level in levels.values()}
    for thing in ET.fromstring(run.stdout).iter("object"):
        words = thing.get("cpuset", "0x0").replace("0x", "").split(",")
        bits = int("".join(word.rjust(8, "0") for word in words), 16)
        if bits and thing.get("type") in levels:
            said[levels[thing.get("type")]].add(frozenset(n for n in range(bits.bit_length()) if bits >> n & 1))
    return said


def test_sockets_cores_nodes_and_caches_are_those_of_hwloc():
    said, cpus = hwloc(), Host().cpus()
    for level, keys in LEVELS.items():
        known = cpus[cpus["online"] & cpus[keys[-1]].notna()]
        ours = partition((row.cpu, tuple(str(getattr(row, key)) for key in keys)) for row in known.itertuples())
        assert ours == said[level], level


def test_caches_are_those_of_lscpu():
    run = subprocess.run(["lscpu", "-C", "-J", "-B"], capture_output=True, text=True, check=True)
    theirs = {(c["name"], int(c["one-size"]) // 1024, c["ways"], c["coherency-size"]) for c in json.loads(run.stdout)["caches"]}
    names = {"Data": "d", "Instruction": "i", "Unified": ""}
    ours = {(f"L{c.level}{names[c.type]}", c.size_kib, c.ways, c.line_b) for c in Host().caches().itertuples()}
    assert ours == theirs


def made(tmp_path, files: dict[str, str]):
    """The cpus frame of a machine with these files under sys/devices/system."""
    for name, text in files.items():
        path = tmp_path / "sys/devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return frame(topology.rows(SysRoot(tmp_path)), "cpus")


def cpu(number: int, threads: str, package: str, **ids: int) -> dict[str, str]:
    files = {"core_cpus": threads, "package_cpus": package} | {name: str(value) for name, value in ids.items()}
    return {f"cpu/cpu{number}/topology/{name}": text for name, text in files.items()}


def keys(cpus) -> list[tuple]:
    return list(cpus[["socket", "die", "core"]].itertuples(index=False, name=None))


def test_an_offline_cpu_has_a_row_and_no_topology(tmp_path):
    files = {"cpu/online": "0", "cpu/cpu1/online": "0", "cpu/cpu0/topology/core_id": "7", "cpu/cpu0/topology/die_id": "-1"}
    rows = made(tmp_path, files)
    assert rows["online"].tolist() == [True, False]
    assert rows["core"].tolist()[0] == 7 and rows["core"].isna().tolist() == [False, True] and rows["die"].isna().all()


def test_without_the_list_of_online_cpus_each_ones_own_file_counts(tmp_path):
    rows = made(tmp_path, {"cpu/cpu0/topology/core_id": "0", "cpu/cpu1/online": "0", "cpu/cpu2/online": "1"})
    assert rows["online"].tolist() == [True, False, True]


def test_a_package_id_of_minus_one_gives_sockets_by_their_cpus(tmp_path):
    """POWER7 under a hypervisor: physical_package_id is -1 everywhere, and the masks tell the packages apart."""
    files = cpu(0, "3", "3", core_id=0, physical_package_id=-1) | cpu(1, "3", "3", core_id=0, physical_package_id=-1)
    files |= cpu(2, "c", "c", core_id=8, physical_package_id=-1) | cpu(3, "c", "c", core_id=8, physical_package_id=-1)
    rows = made(tmp_path, {"cpu/online": "0-3"} | files)
    assert rows["socket"].tolist() == [0, 0, 1, 1] and rows["core"].tolist() == [0, 0, 8, 8] and rows["smt"].tolist() == [0, 1, 0, 1]


def test_package_ids_that_repeat_across_books_do_not_merge_sockets(tmp_path):
    """s390x: ids are unique within a book only."""
    files = cpu(0, "1", "1", core_id=0, physical_package_id=1, book_id=0) | cpu(1, "2", "2", core_id=0, physical_package_id=1, book_id=1)
    rows = made(tmp_path, {"cpu/online": "0-1"} | files)
    assert rows["socket"].tolist() == [0, 1] and len(set(keys(rows))) == 2


def test_core_ids_that_repeat_across_dies_stay_different_cores(tmp_path):
    files = {}
    for number in range(4):
        files |= cpu(number, f"{1 << number:x}", "f", core_id=number % 2, die_id=number // 2, physical_package_id=0)
    rows = made(tmp_path, {"cpu/online": "0-3"} | files)
    assert rows["core"].tolist() == [0, 1, 0, 1] and len(set(keys(rows))) == 4


def test_core_ids_that_say_less_than_the_masks_are_replaced(tmp_path):
    """SPARC, and anything else without core ids: all 0."""
    files = {}
    for number in (6, 7, 10):
        files |= cpu(number, f"{1 << number:x}", f"{1 << number:x}", core_id=0, physical_package_id=-1)
    rows = made(tmp_path, {"cpu/online": "6-7,10"} | files)
    assert rows["cpu"].tolist() == [6, 7, 10] and rows["socket"].tolist() == [0, 1, 2] and len(set(keys(rows))) == 3


def test_a_bulldozer_module_is_a_core_with_two_threads_as_for_the_kernel(tmp_path):
    files = cpu(0, "3", "f", core_id=0, physical_package_id=0) | cpu(1, "3", "f", core_id=1, physical_package_id=0)
    files |= cpu(2, "c", "f", core_id=2, physical_package_id=0) | cpu(3, "c", "f", core_id=3, physical_package_id=0)
    rows = made(tmp_path, {"cpu/online": "0-3"} | files)
    assert rows["core"].tolist() == [0, 0, 1, 1] and rows["smt"].tolist() == [0, 1, 0, 1]


def test_of_a_mask_and_a_list_of_a_cache_that_differ_the_mask_counts(tmp_path):
    files = {"cpu/online": "0-1"}
    for number in (0, 1):
        files |= cpu(number, f"{1 << number:x}", "3", core_id=number, physical_package_id=0)
        place = f"cpu/cpu{number}/cache/index2"
        files |= {f"{place}/level": "2", f"{place}/type": "Unified", f"{place}/size": "2048K"}
        files |= {f"{place}/shared_cpu_list": str(number), f"{place}/shared_cpu_map": "3"}
    assert made(tmp_path, files)["l2"].tolist() == [0, 0]


def test_nodes_that_claim_the_same_cpu_are_no_cpus_node(tmp_path):
    """No kernel says so of a real machine; what would be right cannot be known."""
    files = {"cpu/online": "0-1"} | cpu(0, "1", "3") | cpu(1, "2", "3")
    assert made(tmp_path, files | {"node/node0/cpulist": "0", "node/node1/cpulist": "1"})["node"].tolist() == [0, 1]
    assert made(tmp_path, files | {"node/node0/cpulist": "0-1", "node/node1/cpulist": "1"})["node"].isna().all()


def test_a_machine_without_folders_for_its_cpus_is_what_cpuinfo_lists(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: x\n\nprocessor\t: 3\n")
    rows = frame(topology.rows(SysRoot(tmp_path)), "cpus")
    assert rows["cpu"].tolist() == [0, 3] and rows["online"].all() and rows["core"].isna().all()


@pytest.mark.parametrize("text", ["", "x", "99999999999999999999", "1.5", "\u0663"])
def test_ids_that_are_no_numbers_are_na(tmp_path, text):
    rows = made(
        tmp_path, {"cpu/online": "0"} | {f"cpu/cpu0/topology/{name}": text for name in ("core_id", "physical_package_id", "die_id")}
    )
    assert rows[["socket", "die", "core"]].isna().all(axis=None)


@given(
    st.dictionaries(st.integers(0, 20), st.sets(st.integers(0, 20)), max_size=8), st.dictionaries(st.integers(0, 20), st.integers(-1, 3))
)
def test_every_group_gets_a_number_of_its_own_whatever_the_ids(masks, names):
    together = {number: tuple(sorted(mask | {number})) for number, mask in masks.items()}
    numbers = topology.named(together, names, {})
    assert numbers.keys() == (together.keys() or names.keys())
    for first in together:
        for second in together:
            assert (numbers[first] == numbers[second]) == (together[first] == together[second])
