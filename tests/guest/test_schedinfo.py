"""Which scheduling group a process is in, by what the kernel's files say. Shares and quotas are set in tests/live/test_overcommit.py."""

import pytest

from kvmlab.guest import schedinfo
from kvmlab.guest.vcpus import Process
from kvmlab.host.sysroot import SysRoot


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A made /proc and /sys: files by path; the processes of guests are numbered from 1 on."""

    def make(files: dict[str, str], autogroups: bool = True, guests: int = 2) -> bool:
        files = {"proc/sys/kernel/sched_autogroup_enabled": str(int(autogroups))} | files
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text + "\n")
        monkeypatch.setattr(schedinfo, "ROOT", SysRoot(str(tmp_path)))
        return schedinfo.grouped(Process(f"c{pid}", "", pid, 0) for pid in range(1, guests + 1))

    return make


def test_each_with_a_cgroup_of_version_1_is_grouped(machine):
    files = {f"proc/{n}/cgroup": f"4:memory:/x\n3:cpu,cpuacct:/machine/qemu-{n}-c{n}/emulator\n0::/" for n in (1, 2)}
    assert machine(files | {f"sys/fs/cgroup/cpu/machine/qemu-{n}-c{n}/emulator/cpu.shares": "1024" for n in (1, 2)}, autogroups=False)


def test_each_with_a_cgroup_of_version_2_is_grouped_also_where_only_one_above_has_the_cpu_controller(machine):
    files = {f"proc/{n}/cgroup": f"0::/machine.slice/qemu-{n}.scope/libvirt/emulator" for n in (1, 2)}
    assert machine(files | {f"sys/fs/cgroup/machine.slice/qemu-{n}.scope/cpu.weight": "100" for n in (1, 2)}, autogroups=False)


def test_guests_of_a_session_in_one_cgroup_are_not_grouped_and_autogroups_do_not_count_there(machine):
    files = {f"proc/{n}/cgroup": "0::/user.slice/user-1000.slice/session-2.scope" for n in (1, 2)}
    files |= {f"proc/{n}/autogroup": f"/autogroup-{n} nice 0" for n in (1, 2)}
    assert not machine(files | {"sys/fs/cgroup/user.slice/cpu.weight": "100"})


def test_guests_in_no_cpu_cgroup_are_in_autogroups_where_the_kernel_has_them_on(machine):
    files = {f"proc/{n}/cgroup": "2:cpu:/\n0::/somewhere" for n in (1, 2)}
    files |= {f"proc/{n}/autogroup": f"/autogroup-{n} nice 0" for n in (1, 2)}
    assert machine(files)
    assert not machine(files, autogroups=False)
    assert not machine(files | {"proc/2/autogroup": "/autogroup-1 nice 0"})


def test_a_process_that_is_gone_is_in_no_group(machine):
    assert not machine({"proc/1/cgroup": "0::/", "proc/1/autogroup": "/autogroup-7 nice 0"})


def test_without_a_quota_it_is_missing_with_the_reason_and_in_session_mode_all_is():
    assert schedinfo._row("c1", {"cpu_shares": 2048, "vcpu_quota": -1, "vcpu_period": 100_000}) == ("c1", 2048, None, 0.1)
    assert schedinfo._row("c1", {"cpu_shares": 2048, "vcpu_quota": 5000, "vcpu_period": 10_000}) == ("c1", 2048, 0.5, 0.01)
    assert schedinfo._row("c1", {}) == ("c1", None, None, None)
    assert "session mode" in schedinfo._unavailable({})["cpu_shares"]
