"""Overcommit ratios of real guests, against what virsh says of them: who started them does not matter, and who is paused does not count."""

import json
import os
import subprocess
import sys
import time

import pytest

from kvmlab import cpulist
from tests.conftest import REPOSITORY

CPUS = sorted(os.sched_getaffinity(0))
LAST = str(CPUS[-1])


@pytest.fixture(scope="module")
def here(live):
    """Guest a pinned to one CPU, b with one vCPU there and one anywhere, both busy there; c is paused."""
    from kvmlab import Lab

    with Lab() as lab:
        a, b = lab.start("ra-a"), lab.start("ra-b", vcpus=2)
        lab.start("ra-c")
        lab.plan({("ra-a", 0): LAST, ("ra-b", 0): LAST}).apply()
        a.work("spin")
        b.work("spin", vcpus=0)
        lab.domain("ra-c").suspend()
        yield lab


def virsh(lab, *words: str) -> str:
    return subprocess.run(["virsh", "-c", lab.uri, *words], capture_output=True, text=True, check=True).stdout


def asked_s(lab, guest: str) -> float:
    """How long vCPU 0 ran and waited so far, as libvirt reads it."""
    said = dict(line.strip().split("=", 1) for line in virsh(lab, "domstats", "--vcpu", guest).splitlines() if "=" in line)
    return (int(said["vcpu.0.time"]) + int(said["vcpu.0.delay"])) / 1e9


def test_the_rows_are_those_of_what_virsh_says(here):
    before, begin = asked_s(here, "ra-a"), time.monotonic()
    table = here.overcommit(seconds=1).set_index("set")
    asked = (asked_s(here, "ra-a") - before) / (time.monotonic() - begin)
    running = virsh(here, "list", "--name", "--state-running").split()
    assert table.loc["host", "guests"] == len(running) and "ra-c" not in running
    counts = [int(line.split()[1]) for name in running for line in virsh(here, "dominfo", name).splitlines() if line.startswith("CPU(s)")]
    assert table.loc["host", "vcpus"] == sum(counts)
    assert table.loc["host", "ratio"] == pytest.approx(sum(counts) / len(cpulist.parse(table.loc["host", "cpus"])))
    if len(CPUS) > 1:
        assert table.loc[LAST, "vcpus"] >= 2 and table.loc[LAST, "guests"] >= 2 and table.loc[LAST, "online"] == 1
        assert asked == pytest.approx(1, abs=0.1) and table.loc[LAST, "demand"] >= 2 * asked - 0.2
        assert table.loc[LAST, "slack"] == pytest.approx(1 - table.loc[LAST, "demand"])


def test_a_lab_that_only_watches_sees_the_same(here):
    from kvmlab import Lab

    with Lab(here.uri) as other:
        theirs, ours = (lab.overcommit(seconds=0.2).set_index("set").loc["host", ["guests", "vcpus"]] for lab in (other, here))
    assert theirs.tolist() == ours.tolist()


def test_the_command_says_the_same(here):
    said = subprocess.run(
        [sys.executable, "-m", "kvmlab.cli", "overcommit", "--json"], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    rows = {row["set"]: row for row in json.loads(said.stdout)}
    ours = here.overcommit(seconds=0.2).set_index("set")
    assert set(rows) == set(ours.index) and all(rows[name]["vcpus"] == ours.loc[name, "vcpus"] for name in rows)
