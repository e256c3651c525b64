"""Partitions: what is refused before anything is touched. That they come and go for real is tested in the Linux guest
(tests/guest/test_isolated.py), whose kernel is not this machine's.
"""

import pytest

from kvmlab import KvmlabError
from kvmlab.host.partition import Partition
from kvmlab.host.sysroot import SysRoot


def on(tmp_path, files: dict[str, str], cpus: str = "1") -> Partition:
    """A partition of a folder that imitates nothing but some files: it gets as far as they go."""
    for name, text in ({"sys/devices/system/cpu/online": "0-3"} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    partition = Partition(cpus)
    partition.root = SysRoot(tmp_path)
    return partition


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "There is no cgroup v2 here"),
        ({"sys/fs/cgroup/unified/cgroup.controllers": "hugetlb"}, "no cpuset controller, only hugetlb"),
        ({"sys/fs/cgroup/cgroup.controllers": ""}, "only none at all"),
    ],
)
def test_without_the_controller_it_is_said_what_there_is(tmp_path, files, said):
    with pytest.raises(KvmlabError, match=said), on(tmp_path, files):
        pass


@pytest.mark.parametrize(("cpus", "said"), [("4", "no online CPU 4"), ("0-3", "all of the online CPUs 0-3"), ("", "none of the online")])
def test_cpus_that_cannot_be_taken_are_said(tmp_path, cpus, said):
    with pytest.raises(KvmlabError, match=said), on(tmp_path, {"sys/fs/cgroup/cgroup.controllers": "cpuset"}, cpus):
        pass


def test_a_step_that_fails_takes_back_the_ones_before_it(tmp_path):
    files = {"sys/fs/cgroup/cgroup.controllers": "cpuset", "sys/fs/cgroup/cgroup.subtree_control": ""}
    with pytest.raises(KvmlabError, match=r"cpuset.cpus: No such file"), on(tmp_path, files):
        pass
    assert [path.name for path in (tmp_path / "sys/fs/cgroup").iterdir() if path.is_dir()] == []
    assert (tmp_path / "sys/fs/cgroup/cgroup.subtree_control").read_text().startswith("-cpuset")


def test_nothing_can_be_added_before_it_is_made():
    with pytest.raises(KvmlabError, match="use it in a with-block"):
        Partition("1").add(1)
    with pytest.raises(KvmlabError, match="neither a CPU nor a range"):
        Partition("one")
    assert "not made" in repr(Partition("1"))
