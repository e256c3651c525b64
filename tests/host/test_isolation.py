from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host, cpulist
from kvmlab.columns import frame
from kvmlab.host import isolation
from kvmlab.host.sysroot import SysRoot
from tests.conftest import REPOSITORY

CPUS = "sys/devices/system/cpu"


def machine(tmp_path, files: dict[str, str], cpus: int = 8):
    """The isolation frame of a machine with these files."""
    made = {f"{CPUS}/cpu{cpu}/topology/core_id": str(cpu) for cpu in range(cpus)} | {f"{CPUS}/online": f"0-{cpus - 1}"} | files
    for name, text in made.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    return frame(isolation.rows(SysRoot(tmp_path)), "isolation").set_index("cpu")


def cpus_with(column) -> list[int]:
    return column[column.fillna(False)].index.tolist()


@pytest.mark.parametrize(
    "text, flags, cpus",
    [
        ("1-2", ("domain",), (1, 2)),
        ("domain,1-2", ("domain",), (1, 2)),
        ("managed_irq,domain,1,5", ("managed_irq", "domain"), (1, 5)),
        ("nohz,2-N", ("nohz",), (2, 3, 4, 5, 6, 7)),
        ("0-7:1/4", ("domain",), (0, 4)),
        ("all", ("domain",), tuple(range(8))),
        ("", (), ()),
        ("managed_irq", (), ()),
        ("3-1,x,,99999999", (), ()),
    ],
)
def test_isolcpus_is_read_as_the_kernel_reads_it(text, flags, cpus):
    assert isolation.isolcpus(text, list(range(8))) == (flags, cpus)


@given(st.text(max_size=60), st.lists(st.integers(0, 65535), max_size=8))
def test_any_text_names_only_cpus_that_are_there(text, cpus):
    assert set(isolation.kernel_list(text, cpus)) <= set(cpus)
    assert set(isolation.isolcpus(text, cpus)[1]) <= set(cpus)


def test_what_the_kernel_was_told_stands_in_the_frame(tmp_path):
    rows = machine(
        tmp_path,
        {"proc/cmdline": "isolcpus=managed_irq,2-3 nohz_full=3 rcu_nocbs=1", f"{CPUS}/isolated": "", f"{CPUS}/nohz_full": "3"},
    )
    assert cpus_with(rows["isolcpus"]) == []  # managed_irq alone leaves them to the load balancer: the kernel's list is empty
    assert cpus_with(rows["managed_irq"]) == [2, 3] and rows["isolcpus_flags"].dropna().to_dict() == {2: "managed_irq", 3: "managed_irq"}
    assert cpus_with(rows["nohz_full"]) == [3] and cpus_with(rows["rcu_nocbs"]) == [1, 3]


def test_without_a_command_line_nothing_is_known_rather_than_nothing_isolated(tmp_path):
    rows = machine(tmp_path, {})
    assert rows[["isolcpus", "managed_irq", "nohz_full", "rcu_nocbs", "irqs"]].isna().all(axis=None)
    assert "isolated" in rows.attrs["unavailable"]["isolcpus"]


def test_a_kernel_without_tickless_cpus_says_null_and_that_is_none(tmp_path):
    assert cpus_with(machine(tmp_path, {f"{CPUS}/nohz_full": "(null)", "proc/cmdline": ""})["nohz_full"]) == []


def test_partitions_of_both_kinds_of_cgroups_are_found(tmp_path):
    files = {
        "sys/fs/cgroup/unified/cgroup.controllers": "cpuset",
        "sys/fs/cgroup/unified/vms/cpuset.cpus.partition": "isolated",
        "sys/fs/cgroup/unified/vms/cpuset.cpus.effective": "2-3",
        "sys/fs/cgroup/unified/vms/inner/cpuset.cpus.partition": "member",
        "sys/fs/cgroup/cpuset/rt/one/cpuset.cpu_exclusive": "1",
        "sys/fs/cgroup/cpuset/rt/one/cpuset.sched_load_balance": "0",
        "sys/fs/cgroup/cpuset/rt/one/cpuset.cpus": "5",
        "sys/fs/cgroup/cpuset/rt/two/cpuset.cpu_exclusive": "0",
        "sys/fs/cgroup/cpuset/rt/two/cpuset.cpus": "6",
    }
    found = machine(tmp_path, files)["cpuset_partition"].dropna().to_dict()
    assert found == {2: "/vms (isolated)", 3: "/vms (isolated)", 5: "/rt/one (exclusive, no load balancing)"}


def test_interrupts_are_where_they_really_go_and_else_where_they_may(tmp_path):
    files = {
        "proc/irq/24/effective_affinity_list": "1",
        "proc/irq/24/smp_affinity_list": "0-7",
        "proc/irq/9/smp_affinity_list": "0-1",
        "proc/irq/10/effective_affinity_list": "",
        "proc/irq/10/smp_affinity_list": "0",
        "proc/irq/default_smp_affinity": "ff",
    }
    assert machine(tmp_path, files)["irqs"].tolist() == ["9-10", "9,24", *[""] * 6]


def test_a_guest_booted_with_isolated_cpus_shows_them():
    """Recorded in a real Linux guest: isolcpus=managed_irq,domain,2-5 nohz_full=2-5 rcu_nocbs=2-5."""
    rows = Host.open(REPOSITORY / "tests/hosts/x86_64-1s4c2t-isolated.tar.xz").isolation().set_index("cpu")
    for column in ("isolcpus", "managed_irq", "nohz_full", "rcu_nocbs"):
        assert cpus_with(rows[column]) == [2, 3, 4, 5], column
    assert rows.loc[2, "isolcpus_flags"] == "managed_irq,domain"


def test_a_guest_with_a_cpuset_partition_shows_it():
    """Recorded in a real Linux guest with cgroup v2: /sys/fs/cgroup/isolated has CPUs 4 and 5 to itself."""
    rows = Host.open(REPOSITORY / "tests/hosts/x86_64-1s8c1t-cgroups.tar.xz").isolation().set_index("cpu")
    assert rows["cpuset_partition"].dropna().to_dict() == {4: "/isolated (isolated)", 5: "/isolated (isolated)"}


def test_this_machines_interrupts_are_those_of_its_files():
    rows = Host().isolation()
    said = {(row.cpu, irq) for row in rows.itertuples() if isinstance(row.irqs, str) for irq in cpulist.parse(row.irqs)}
    allowed = {}
    for path in Path("/proc/irq").glob("[0-9]*/smp_affinity_list"):
        allowed[int(path.parent.name)] = cpulist.parse(path.read_text())
    assert {irq for _, irq in said} == {irq for irq, cpus in allowed.items() if cpus}
    assert all(cpu in allowed[irq] for cpu, irq in said)
    assert rows["cpu"].tolist() == Host().cpus()["cpu"].tolist()
