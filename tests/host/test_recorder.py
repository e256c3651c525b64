import json
import os
import tarfile

import pytest

from kvmlab import Host
from kvmlab.errors import RecordingError
from kvmlab.host.recorder import record
from kvmlab.host.scrub import Scrubber
from kvmlab.host.sysroot import SysRoot
from tests.conftest import REPOSITORY
from tests.host.test_recording import FRAMES, SMALL

HOSTS = sorted((REPOSITORY / "tests/hosts").glob("*.tar.xz"))
STEADY = ("flags", "kvm", "cpus", "caches", "distances")  # what does not change from one moment to the next
NAMING = ["ruser", "args"]  # what a recording must not tell


def equal(ours, theirs) -> None:
    assert ours.dtypes.equals(theirs.dtypes) and len(ours) == len(theirs)
    different = [name for name in ours if not ours[name].equals(theirs[name])]
    assert not different, f"{different}: {ours[different].compare(theirs[different])}"


@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.name)
def test_a_recording_of_a_recording_gives_equal_frames(path, tmp_path):
    first = Host.open(path)
    first.record(tmp_path / "again.tar.gz")
    second = Host.open(tmp_path / "again.tar.gz")
    for name in FRAMES:
        equal(getattr(first, name)(), getattr(second, name)())


def test_a_recording_of_this_machine_gives_the_frames_of_this_machine(tmp_path):
    live = Host()
    before = live.support()
    manifest = live.record(tmp_path / "me.tar.xz")
    recorded = Host.open(tmp_path / "me.tar.xz")
    for name in STEADY:
        equal(getattr(live, name)(), getattr(recorded, name)())
    equal(before[["check", "source"]], recorded.support()[["check", "source"]])
    both = before.merge(recorded.support(), on="check", suffixes=("", "_recorded"))
    same = both[~both["check"].isin(["guest speed", "KSM", "huge pages"])]  # these are measured, or move
    assert (same["status"] == same["status_recorded"]).all() and (same["found"] == same["found_recorded"]).all()
    ours, theirs = live.threads(affinity=True).set_index("tid"), recorded.threads(affinity=True).set_index("tid")
    both = ours.index.intersection(theirs.index)
    assert len(both) > 10
    columns = ["pid", "ppid", "comm", "kind", "nice", "policy", "priority", "allowed_cpus"]
    kernel = both[ours.loc[both, "kind"].ne("kworker") & ours.loc[both, "comm"].eq(theirs.loc[both, "comm"])]  # workers change their names
    assert ours.loc[kernel, columns].equals(theirs.loc[kernel, columns])
    assert manifest["files"] > 50 and (tmp_path / "me.tar.xz").stat().st_size < 1 << 20


def test_the_archive_holds_the_manifest_and_nothing_but_proc_and_sys(tmp_path):
    manifest = Host.open(HOSTS[0]).record(tmp_path / "again.tar")
    with tarfile.open(tmp_path / "again.tar") as tar:
        names = tar.getnames()
        kept = json.load(tar.extractfile("kvmlab-recording.json"))
        assert all(member.uid == member.mtime == 0 for member in tar)
        folders = [member.name for member in tar if member.isdir()]
    assert kept == json.loads(json.dumps(manifest))
    assert {name.split("/")[0] for name in names} == {"kvmlab-recording.json", "proc", "sys"}
    assert kept["files"] == len(names) - 1 - len(folders)


def test_the_same_machine_gives_the_same_bytes(tmp_path):
    for name in ("a.tar.xz", "b.tar.xz"):
        Host.open(HOSTS[0]).record(tmp_path / name)
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()


@pytest.mark.parametrize("name", ["me.zip", "me", "me.tar.zst"])
def test_another_ending_is_refused_and_the_legal_ones_are_named(tmp_path, name):
    with pytest.raises(RecordingError, match=r"ends in \.tar, \.tar\.gz, \.tar\.bz2, \.tar\.xz"):
        Host().record(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_leaves_what_was_there(tmp_path):
    with pytest.raises(RecordingError, match="cannot be written: No such file or directory"):
        Host.open(HOSTS[0]).record(tmp_path / "no/such/folder.tar")
    (tmp_path / "taken.tar").mkdir()
    with pytest.raises(RecordingError, match="cannot be written: Is a directory"):
        Host.open(HOSTS[0]).record(tmp_path / "taken.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.tar"]


# ---- scrubbing


SECRETS = {
    "proc/cmdline": b"root=UUID=7d1c2a3e-1111-2222-3333-444455556666 isolcpus=1 ip=10.1.2.3::10.1.2.1 secret.token=abc "
    + b"kvm.halt_poll_ns=7 nohz_full=1",
    "proc/version": b"Linux version 6.1.0 (alice@buildbox) (gcc 12) #1 SMP",
    "proc/7/cmdline": b"/usr/bin/ssh\0bob@example.org\0",
    "proc/7/status": b"Name:\tssh\nUid:\t1000\t1000\t1000\t1000\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n",
    "proc/7/stat": b"7 (10.9.8.7-manage) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 10 20 18446744073709551615 "
    + b"94111 94222 140733333 0 0 0 0 0 0 94333 0 0 17 1 0 0 0 0 0 94444 94555 94666 140744444 140755555 140766666 140777777 0\n",
    "proc/7/task/7/stat": b"7 (52:54:00:ab:cd:ef) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 10 20 18446744073709551615 "
    + b"94111 94222 140733333 0 0 0 0 0 0 94333 0 0 17 1 0 0 0 0 0 94444 94555 94666 140744444 140755555 140766666 140777777 0\n",
    "proc/cpuinfo": b"processor\t: 0\nSerial\t\t: 00000000deadbeef\nprocessor 1: version = 00,  identification = 279F25,  machine = 2817\n",
    "proc/mounts": b"fileserver:/srv/alice /mnt nfs4 rw,addr=192.168.7.7 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
}
TOLD = [b"UUID=7d1c", b"10.1.2.3", b"abc", b"alice", b"bob", b"buildbox", b"example.org", b"10.9.8.7", b"52:54:00", b"deadbeef", b"279F25"]
TOLD += [b"fileserver", b"192.168", b"94111", b"140733333", b"140777777", b"secret"]


def scrubbed(path: str) -> bytes:
    return Scrubber(live=False).content(path, SECRETS[path])


@pytest.mark.parametrize("path", SECRETS)
def test_nothing_that_names_people_machines_or_networks_is_kept(path):
    kept = scrubbed(path) or b""
    assert not [secret for secret in TOLD if secret in kept]


def test_what_the_frames_need_is_kept():
    assert scrubbed("proc/cmdline") == b"isolcpus=1 kvm.halt_poll_ns=7 nohz_full=1\n"
    assert scrubbed("proc/version").startswith(b"Linux version 6.1.0 (scrubbed)")
    assert scrubbed("proc/7/cmdline") is None and scrubbed("proc/7/status").count(b"\n") == 3
    assert scrubbed("proc/7/task/7/stat").split()[1:3] == [b"(scrubbed)", b"S"]
    assert len(scrubbed("proc/7/stat").split()) == len(SECRETS["proc/7/stat"].split())
    assert scrubbed("proc/cpuinfo").startswith(b"processor\t: 0\nSerial\t\t: scrubbed\nprocessor 1: version = 00,")
    assert scrubbed("proc/mounts") == b"cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"


def test_the_manifest_says_what_was_scrubbed(tmp_path):
    for name, data in (SMALL | SECRETS).items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    said = record(Host.open(tmp_path / "in"), tmp_path / "out.tar")["scrubbed"]
    assert said["command lines"] == 1 and said["kernel parameters"] == 3 and said["serial numbers"] == 2
    data = (tmp_path / "out.tar").read_bytes()
    assert not [secret for secret in TOLD if secret in data]


@pytest.mark.parametrize(
    "comm, flags, kept",
    [
        (b"vm-payroll", 0, b"scrubbed"),  # libvirtd has a thread for each guest
        (b"alices-job", 0, b"scrubbed"),
        (b"CPU 1/KVM", 0, b"CPU 1/KVM"),
        (b"IO iothread1", 0, b"IO iothread1"),
        (b"qemu-system-x86", 0, b"qemu-system-x86"),
        (b"sshd", 0, b"sshd"),
        (b"kworker/1:2H-kblockd", 0x200000, b"kworker/1:2H-kblockd"),
        (b"files.web7.exam-manager", 0x200000, b"scrubbed-manager"),  # the NFS client's
        (b"rpc-web7-sync", 0x200000, b"rpc-scrubbed-sync"),
        (b"WEB7", 0x200000, b"scrubbed"),
        (b"web77", 0x200000, b"web77"),
    ],
)
def test_of_threads_only_names_stay_that_the_kernel_qemu_or_a_common_program_gave(monkeypatch, comm, flags, kept):
    """The name of the machine is a fake, for a real one may be any word, or too short to look for."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "web7.example", "6", "#1", "x86_64")))
    data = b"1 (%s) S 1 1 1 0 -1 %d 0 0\n" % (comm, flags)
    assert Scrubber(live=True).content("proc/1/task/1/stat", data) == data.replace(comm, kept)


def test_names_of_cgroups_become_numbers_and_stay_apart():
    scrubber = Scrubber(live=False)
    paths = [
        "sys/fs/cgroup/alices.slice/cpuset.cpus",
        "sys/fs/cgroup/alices.slice/job.scope/cpuset.cpus",
        "sys/fs/cgroup/system.slice/cpuset.cpus",
    ]
    assert [scrubber.path(path) for path in paths] == [
        "sys/fs/cgroup/group0/cpuset.cpus",
        "sys/fs/cgroup/group0/group1/cpuset.cpus",
        "sys/fs/cgroup/system.slice/cpuset.cpus",
    ]
    assert scrubber.path("sys/fs/cgroup/alices.slice") == "sys/fs/cgroup/group0"


def test_what_was_refused_stands_in_the_recording_as_the_reason(tmp_path):
    class Refusing(SysRoot):
        """A fake: as root nothing is refused, and what is refused to others depends on the machine."""

        def read_bytes(self, path):
            if path.endswith("cpu_capacity"):
                self.refused.add(path)
                return None
            return super().read_bytes(path)

    host = Host()
    host.root = Refusing("/")
    manifest = host.record(tmp_path / "me.tar")
    cpus = Host.open(tmp_path / "me.tar").cpus()
    assert manifest["refused"] == [f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity" for cpu in sorted(cpus["cpu"], key=str)]
    assert cpus["capacity"].isna().all() and cpus["core"].notna().all()
    assert cpus.attrs["unavailable"]["capacity"] == "no permission to read /sys/devices/system/cpu/cpu0/cpu_capacity"
