"""The switches without a browser: what they show is the kernel, what they do is lab.plan and lab.undo."""

import asyncio
import os

import pytest

from kvmlab import KvmlabError, cpulist
from kvmlab.guest.pinning import EMULATOR
from kvmlab.widgets import PinGrid, ask

CPUS = sorted(os.sched_getaffinity(0))
ALL = cpulist.format(CPUS)


@pytest.fixture
def grid(lab):
    lab.start("kl-c1", vcpus=2).work("spin")
    return lab.pin_widget()


def pressed(grid: PinGrid, key: tuple) -> str:
    return cpulist.format(cpu for cpu, switch in grid.switches[key].items() if switch.value)


def test_switches_show_the_kernel_and_apply_changes_it(lab, grid):
    assert list(grid.switches) == [("kl-c1", 0), ("kl-c1", 1), ("kl-c1", EMULATOR)] and not grid.wishes()
    assert grid.apply_button.disabled and pressed(grid, ("kl-c1", 0)) == ALL
    for cpu in CPUS[1:]:
        grid.switches[("kl-c1", 0)][cpu].value = False
    if len(CPUS) == 1:
        pytest.skip("one CPU: nothing can be changed")
    assert "Not applied yet" in grid.message.value and "virsh vcpupin kl-c1 0 0" in grid.commands.value
    assert lab.vcpus()["allowed_cpus"][0] == ALL
    grid.apply_button.click()
    assert lab.vcpus()["allowed_cpus"].tolist() == [str(CPUS[0]), ALL]
    assert "As the kernel says: kl-c1 vCPU 0 on CPU 0" in grid.message.value and not grid.wishes()
    grid.undo_button.click()
    assert lab.vcpus()["allowed_cpus"].tolist() == [ALL, ALL] and pressed(grid, ("kl-c1", 0)) == ALL


def test_a_row_without_a_cpu_is_an_error_before_apply(grid):
    for switch in grid.switches[("kl-c1", 1)].values():
        switch.value = False
    assert grid.apply_button.disabled and "an empty CPU set" in grid.message.value


def test_it_follows_other_tools_and_keeps_wishes_and_sees_guests_come_and_go(lab, grid):
    async def watch(seconds: float) -> PinGrid:
        seen = lab.pin_widget()
        seen.switches[("kl-c1", 1)][CPUS[0]].value = False
        lab.plan({("kl-c1", 0): CPUS[0]}).apply()
        await asyncio.sleep(seconds)
        return seen

    seen = asyncio.run(watch(1.6))
    assert pressed(seen, ("kl-c1", 0)) == str(CPUS[0]) and ("kl-c1", 1) in seen.wishes()
    assert seen.switches[("kl-c1", 0)][CPUS[0]].description == "100 %"
    lab.start("kl-c2")
    seen._read()
    assert ("kl-c2", 0) in seen.switches


def test_an_error_of_apply_is_shown_not_raised(lab, grid):
    grid.switches[("kl-c1", 0)][CPUS[0]].value = False
    lab.domain("kl-c1").destroy()
    grid._apply(None)
    assert "no running guest" in grid.message.value


def test_a_closed_lab_is_said(lab, grid):
    lab.close()
    with pytest.raises(KvmlabError, match="closed"):
        grid._read()


def test_a_prediction_has_a_value_without_a_browser():
    assert ask("moves a second", 0, 20).value == 10
