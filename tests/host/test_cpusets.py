import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.columns import frame
from kvmlab.host import cpulist, numa
from kvmlab.host.caches import parse_size
from kvmlab.host.cpusets import mask, members
from kvmlab.host.sysroot import SysRoot


@given(st.sets(st.integers(0, 4095)))
def test_a_mask_as_the_kernel_writes_it_is_read_back(cpus):
    bits = sum(1 << cpu for cpu in cpus)
    words = [f"{bits >> shift & 0xFFFFFFFF:08x}" for shift in range(4096 - 32, -1, -32)]
    assert mask(",".join(words)) == tuple(sorted(cpus))
    assert members(cpulist.format(cpus)) == tuple(sorted(cpus))


@given(st.text(max_size=40))
def test_any_other_text_is_no_mask_and_no_list(text):
    for parse in (mask, members):
        found = parse(text)
        assert found is None or (list(found) == sorted(set(found)) and all(cpu >= 0 for cpu in found))


@pytest.mark.parametrize("text, cpus", [("f", (0, 1, 2, 3)), ("1,00000000", (32,)), ("0", ()), ("", None), ("0-3", None), ("g", None)])
def test_masks(text, cpus):
    assert mask(text) == cpus


@pytest.mark.parametrize("text, kib", [("32K", 32), ("8M", 8192), ("1G", 1048576), ("0K", None), ("", None), ("K", None), ("1.5M", None)])
def test_sizes_of_caches(text, kib):
    assert parse_size(text) == kib


def nodes(tmp_path, files: dict[str, str]):
    for name, text in files.items():
        path = tmp_path / "sys/devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return SysRoot(tmp_path)


def test_a_nodes_memory_and_huge_pages(tmp_path):
    meminfo = "Node 0 MemTotal:       32940032 kB\nNode 0 MemFree:         1234 kB\nNode 0 HugePages_Total:     0"
    root = nodes(
        tmp_path,
        {
            "cpu/online": "0-1",
            "node/node0/cpulist": "0-1",
            "node/node0/meminfo": meminfo,
            "node/node0/hugepages/hugepages-2048kB/nr_hugepages": "3",
            "node/node0/hugepages/hugepages-1048576kB/nr_hugepages": "1",
            "node/node2/cpulist": "",
            "node/node2/meminfo": "garbage",
        },
    )
    rows = frame(numa.rows(root), "nodes").astype(object).where(lambda f: f.notna(), None)
    assert rows.to_numpy().tolist() == [[0, "0-1", 32940032, 1234, 4, 3 * 2048 + 1048576], [2, "", None, None, None, None]]


def test_distances_that_do_not_fit_the_nodes_are_na(tmp_path):
    root = nodes(tmp_path, {"node/node0/distance": "10 20", "node/node3/distance": "20"})
    assert numa.distances(root) == ([0, 3], [[10, 20], [None, None]])


def test_this_machines_nodes_are_those_of_its_files():
    import re

    from kvmlab import Host

    for row in Host().nodes().itertuples():
        with open(f"/sys/devices/system/node/node{row.node}/meminfo") as file:
            assert row.mem_total_kib == int(re.search(r"MemTotal:\s*(\d+) kB", file.read())[1])
