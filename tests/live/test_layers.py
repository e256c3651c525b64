"""The layers under real guests: what the frame says is what ls, ps, pgrep, virsh, ss and the kernel's own files say."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from kvmlab import Lab
from kvmlab.errors import PlanError
from kvmlab.guest import layers
from kvmlab.guest.vcpus import Process
from kvmlab.host.sysroot import SysRoot
from tests.conftest import need

KERNEL = ["module", "device", "vm", "vcpu"]
ABOVE = ["thread", "process", "domain", "daemon", "client"]


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.fixture(scope="module", params=["auto", "tcg"])
def of_any(live, request):
    """A guest and its layers, on what this machine would use and emulated."""
    with Lab(accel=request.param) as lab:
        lab.start("layers-a", vcpus=2)
        yield lab, lab.layers("layers-a")


@pytest.fixture(scope="module")
def kvm(live):
    with Lab() as lab:
        if lab.accel != "kvm":
            pytest.skip("no KVM here that runs the lab guest")
        lab.start("layers-k", vcpus=2)
        yield lab, lab.layers("layers-k")


def one(frame, layer):
    found = [row for row in frame.itertuples() if row.layer == layer]
    assert len(found) == 1
    return found[0]


def test_they_stand_from_the_module_up_to_this_python(of_any):
    lab, frame = of_any
    assert list(frame["layer"].unique()) == KERNEL + ABOVE
    for layer in ("vcpu", "thread"):
        assert frame.loc[frame["layer"] == layer, "vcpu"].tolist() == [0, 1]
    assert frame.loc[~frame["layer"].isin(["vcpu", "thread"]), "vcpu"].isna().all()
    assert frame.attrs["accel"] == lab.accel
    assert set(frame.attrs["unavailable"]) == {column for column in frame if frame[column].isna().any()}


def test_threads_and_process_are_those_of_ps(of_any):
    lab, frame = of_any
    if not shutil.which("ps"):
        need("no ps")
    pid = lab.process("layers-a").pid
    process = one(frame, "process")
    assert process.id == f"pid {pid}" and process.what == os.readlink(f"/proc/{pid}/exe")
    names = dict(line.split(None, 1) for line in said("ps", "-L", "-p", str(pid), "-o", "tid=,comm=").splitlines())
    for row in frame[frame["layer"] == "thread"].itertuples():
        assert names[row.id.removeprefix("tid ")] == row.what and row.what == f"CPU {row.vcpu}/{lab.accel.upper()}"


def test_domain_is_the_one_of_virsh(of_any):
    _, frame = of_any
    domain = one(frame, "domain")
    assert domain.what == "layers-a"
    assert domain.id == f"id {said('virsh', 'domid', 'layers-a').strip()}"
    assert domain.detail == f"UUID {said('virsh', 'domuuid', 'layers-a').strip()}"


def test_daemon_is_the_one_that_pgrep_finds_and_this_python_is_connected_to(of_any):
    lab, frame = of_any
    if not shutil.which("pgrep"):
        need("no pgrep")
    daemon, client = one(frame, "daemon"), one(frame, "client")
    pid, name = daemon.id.removeprefix("pid "), os.path.basename(daemon.what)
    assert pid in said("pgrep", "-x", "-u", pwd.getpwuid(os.geteuid()).pw_name, name).split()
    assert client.id == f"pid {os.getpid()}"
    fd = int(client.detail.rpartition(" ")[2])
    with socket.socket(fileno=os.dup(fd)) as same:
        assert daemon.detail == f"serves {lab.uri} at {same.getpeername()}"


def test_daemon_holds_the_other_end_of_our_socket(of_any):
    if not shutil.which("ss"):
        need("no ss: apt install iproute2")
    _, frame = of_any
    fd = one(frame, "client").detail.rpartition(" ")[2]
    ours = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/self/fd/{fd}"))[1]
    other = [line for line in said("ss", "-xpH").splitlines() if re.search(rf" \* {ours} +users:", line)]
    assert len(other) == 1 and f"{one(frame, 'daemon').id.replace(' ', '=')}," in other[0]


def test_file_descriptors_are_those_that_ls_shows(kvm):
    lab, frame = kvm
    fds = dict(re.findall(r" (\d+) -> (\S+)$", said("ls", "-l", f"/proc/{lab.process('layers-k').pid}/fd"), re.MULTILINE))
    below = frame[frame["layer"].isin(["vm", "vcpu"])]
    assert [fds[row.id.removeprefix("fd ")] for row in below.itertuples()] == below["what"].tolist()
    assert below["what"].tolist() == ["anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0", "anon_inode:kvm-vcpu:1"]
    held = one(frame, "process").detail
    assert held.startswith("holds /dev/kvm") and fds[held.rpartition(" ")[2]] == "/dev/kvm"


def test_device_is_the_one_of_sys_and_of_ls(kvm):
    _, frame = kvm
    device = one(frame, "device")
    mode, _, _, group, *_ = said("ls", "-l", "/dev/kvm").split()
    assert device.id == Path("/sys/class/misc/kvm/dev").read_text().strip()
    assert device.detail == f"group {group}, {mode.rstrip('+.')}"


def test_modules_are_the_ones_of_sys(kvm):
    _, frame = kvm
    modules = frame.loc[frame["layer"] == "module", "id"].tolist()
    assert modules[0] == "kvm"
    assert sorted(modules) == sorted(name for name in said("ls", "/sys/module").split() if re.match(r"kvm(_|$)", name))


def test_exits_are_those_that_virsh_counts_and_a_vcpu_with_work_has_ever_more(kvm):
    lab, frame = kvm
    if "exits.sum" not in said("virsh", "domstats", "--vcpu", "layers-k"):
        need("this libvirt or QEMU passes no statistics of KVM's on")
    later = dict(re.findall(r"vcpu\.(\d+)\.exits\.sum=(\d+)", said("virsh", "domstats", "--vcpu", "layers-k")))
    last = lab.layers("layers-k")
    for vcpu in (0, 1):
        counts = [int(rows.loc[(rows["layer"] == "vcpu") & (rows["vcpu"] == vcpu), "exits"].iloc[0]) for rows in (frame, last)]
        assert 0 < counts[0] <= int(later[str(vcpu)]) <= counts[1]
    assert frame.loc[frame["layer"] != "vcpu", "exits"].isna().all()
    assert "vCPU's file descriptor" in frame.attrs["unavailable"]["exits"]


def test_under_tcg_the_layers_of_kvm_are_not_there(tcg_lab):
    tcg_lab.start("layers-t", vcpus=2)
    frame = tcg_lab.layers("layers-t")
    below, above = frame[frame["layer"].isin(KERNEL)], frame[frame["layer"].isin(ABOVE)]
    assert len(below) == 5 and below[["what", "id", "exits"]].isna().all(axis=None)
    assert (below["detail"] == "none: emulated by TCG").all()
    assert above[["what", "id"]].notna().all(axis=None)
    assert one(frame, "process").detail == "does not hold /dev/kvm open"
    targets = [os.readlink(fd) for fd in Path(f"/proc/{tcg_lab.process('layers-t').pid}/fd").iterdir()]
    assert targets and not [name for name in targets if name == "/dev/kvm" or name.startswith("anon_inode:kvm")]
    assert "never leaves guest mode" in frame.attrs["unavailable"]["exits"]


def test_every_line_in_found_by_shows_what_its_row_says(of_any):
    _, frame = of_any
    for row in frame.itertuples():
        run = subprocess.run(row.found_by, shell=True, capture_output=True, text=True)  # as a reader would type it
        if row.detail.startswith("none:"):
            assert run.stdout == ""
            continue
        number = row.id.rpartition(" ")[2]
        shown = run.stdout.replace(", ", ":")  # ls writes a device's number as 10, 232
        assert number in re.split(r"[\s/>]+", shown) or (row.layer == "process" and row.what in shown), row


def test_a_guest_that_another_lab_started_has_them_too(of_any):
    with Lab(accel="tcg") as other:
        assert one(other.layers("layers-a"), "domain").what == "layers-a"


def test_a_name_that_no_guest_has_is_an_error_that_says_so(lab):
    with pytest.raises(PlanError, match="no running guest 'layers-none'"):
        lab.layers("layers-none")


def test_a_thread_that_is_pinned_was_last_on_that_cpu_and_a_stopped_guest_still_has_its_layers(lab):
    guest, cpu = lab.start("layers-b"), max(os.sched_getaffinity(0))
    guest.work("spin")
    lab.plan({("layers-b", 0): cpu}).apply()
    assert one(lab.layers("layers-b"), "thread").detail == f"last on host CPU {cpu}"
    os.kill(guest.process.pid, signal.SIGSTOP)
    try:
        frame = layers.rows(SysRoot("/"), guest.process.look(), layers.Domain(1, {}, lab.uri, "virsh"))
        assert [row[0] for row in frame][-5:] == ABOVE
    finally:
        os.kill(guest.process.pid, signal.SIGCONT)


def test_what_others_may_not_see_is_missing_with_the_reason(tmp_path):
    """A made /proc: root, as whom the tests run too, may see everything in the real one."""
    (tmp_path / "proc/77").mkdir(parents=True)
    (tmp_path / "proc/77/cmdline").write_bytes(b"/usr/bin/qemu-system-x86_64\0-name\0x")
    root, process = SysRoot(tmp_path), Process("g", "u", 77, 0, {0: 78}, accel="kvm")
    root.refused.add("proc/77/fd")
    known = layers.Domain(5, {"vcpu.0.exits.sum": 9}, "qemu:///system", "virsh")
    found = {row[0]: row for row in layers.rows(root, process, known)}
    assert found["vm"][3] is None and found["vcpu"][3] is None and found["vcpu"][5] == 9
    assert found["process"][2:5] == ("/usr/bin/qemu-system-x86_64", "pid 77", "its files are not ours to see")
    assert found["thread"][4] == "ended meanwhile" and found["daemon"][3] is None
    assert "QEMU's own user" in layers.unavailable(root, process, known)["id"]


def test_where_systemd_opened_the_socket_the_daemon_is_the_users_one_process_of_that_name(tmp_path):
    """A made /proc: the machine that runs this may have no systemd."""
    for pid, comm, uid in ((1, "systemd", 0), (50, "virtqemud", 0), (60, "virtqemud", 1000)):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/comm").write_text(f"{comm}\n")
        (tmp_path / f"proc/{pid}/status").write_text(f"Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    root, path = SysRoot(tmp_path), "/run/libvirt/virtqemud-sock"
    assert layers.Connection(3, path, 1, 0).daemon(root) == ("virtqemud", 50)
    assert layers.Connection(3, path, 60, 1000).daemon(root) == ("virtqemud", 60)
    assert layers.Connection(3, path, 1, 7).daemon(root) == ("virtqemud", None)
