"""A host's frames as plain sets and dictionaries: the same, and what is not told stays apart."""

from pathlib import Path

import pytest

from kvmlab import Host, cpulist
from kvmlab.host.layout import Layout

HOSTS = Path(__file__).parent.parent / "hosts"
NAMES = sorted(path.name.removesuffix(".tar.xz") for path in HOSTS.glob("*.tar.xz"))


def layout(name):
    host = Host.open(HOSTS / f"{name}.tar.xz")
    return Layout.of(host.cpus(), host.isolation()), host


@pytest.mark.parametrize("name", NAMES)
def test_cores_and_nodes_are_those_that_lscpu_saw(name):
    found, _ = layout(name)
    lines = [line.split(",") for line in (HOSTS / f"{name}.lscpu.txt").read_text().splitlines() if line[:1].isdigit()]
    cores = {tuple(int(cpu) for cpu, _, _, other, *_ in lines if other == core) for _, _, _, core, *_ in lines}
    assert set(found.core.values()) == cores and found.online == {int(cpu) for cpu, *_ in lines}
    assert all(found.node(int(cpu)) == int(node or 0) for cpu, node, *_ in lines)


def test_isolated_are_those_of_the_command_line_and_of_isolated_partitions():
    found, _ = layout("x86_64-1s4c2t-isolated")
    assert found.isolated == found.nohz_full == {2, 3, 4, 5}
    assert layout("x86_64-1s8c1t-cgroups")[0].isolated == {4, 5}


def test_interrupts_that_may_go_everywhere_are_aimed_nowhere():
    found, host = layout("x86_64-1s4c2t-isolated")
    everywhere = {2}
    for cpu, irqs in zip(host.isolation()["cpu"], host.isolation()["irqs"], strict=True):
        assert found.irqs[cpu] == set(cpulist.parse(irqs)) - everywhere
    assert not any(irqs & everywhere for irqs in found.irqs.values())


def test_strength_is_capacity_or_the_highest_clock_or_nothing():
    assert set(layout("aarch64-2n2s2cl2c2t")[0].strength.values()) == {1024}
    _, host = layout("x86_64-2s2c1t")
    cpus = host.cpus()
    assert Layout.of(cpus, host.isolation()).strength == {}
    assert Layout.of(cpus.assign(max_mhz=[3000.0, 3000.0, 2000.0, 2000.0]), host.isolation()).strength == {
        0: 3000,
        1: 3000,
        2: 2000,
        3: 2000,
    }
