"""The five subsystems of real guests: what the frame says is what virsh, QEMU's monitor, ps, ls and the socket itself say."""

import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kvmlab import KvmlabError, Lab
from kvmlab.errors import PlanError
from kvmlab.guest import folder as folders
from kvmlab.guest import subsystems
from kvmlab.guest.connection import libvirt
from kvmlab.guest.microguest.page import wait_until
from kvmlab.guest.spec import MEMORY_MIB
from kvmlab.host.sysroot import SysRoot
from tests.conftest import need

SUBSYSTEMS = ["cpu", "memory", "storage", "network", "display"]


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def monitor(guest: str, command: str) -> str:
    return said("virsh", "qemu-monitor-command", "--hmp", guest, command)


def folders_left() -> set[str]:
    return {folder.name for folder in folders.place().glob("kvmlab-guest-*")}


@pytest.fixture(scope="module", params=["auto", "tcg"])
def of_all(live, request):
    """A guest with everything: its Lab and its rows by subsystem."""
    with Lab(accel=request.param) as lab:
        if request.param == "auto" and lab.accel == "tcg":
            pytest.skip(f"the same as TCG: {lab.accel_reason}")
        lab.start("kl-all", vcpus=2, devices="all")
        yield lab, lab.subsystems("kl-all")


def one(frame, subsystem):
    found = [row for row in frame.itertuples() if row.subsystem == subsystem]
    assert len(found) == 1
    return found[0]


def test_all_five_are_there_in_order_and_nothing_is_missing_but_a_thread_of_the_memory(of_all):
    lab, frame = of_all
    assert list(frame["subsystem"].unique()) == SUBSYSTEMS and len(frame) == 6
    assert (frame["pid"] == lab.process("kl-all").pid).all()
    assert frame.drop(columns="tid").notna().all(axis=None)
    assert frame.loc[frame["tid"].isna(), "subsystem"].tolist() == ["memory"]
    assert frame.attrs["accel"] == lab.accel and list(frame.attrs["unavailable"]) == ["tid"]


def test_threads_are_those_of_ps_and_of_qemus_monitor(of_all):
    _, frame = of_all
    if not shutil.which("ps"):
        need("no ps")
    names = dict(line.split(None, 1) for line in said("ps", "-L", "-p", str(frame["pid"][0]), "-o", "tid=,comm=").splitlines())
    threads = frame.dropna(subset="tid")
    for row in threads.itertuples():
        assert row.served_by in (names[str(row.tid)], f"main loop ({names[str(row.tid)]})")
    vcpus = re.findall(r"CPU #\d+: thread_id=(\d+)", monitor("kl-all", "info cpus"))
    assert threads.loc[threads["subsystem"] == "cpu", "tid"].astype(str).tolist() == vcpus
    assert f"thread_id={one(frame, 'storage').tid}\n" in monitor("kl-all", "info iothreads").replace("\r", "")


def test_every_line_that_is_to_be_typed_shows_what_was_found(of_all):
    _, frame = of_all
    for row in frame.itertuples():
        shown = subprocess.run(["sh", "-c", row.found_by], capture_output=True, text=True, check=True).stdout
        fd, _, behind = row.behind.rpartition(": ") if row.behind.startswith("fd ") else ("", "", "")
        thread = row.served_by.removeprefix("main loop (").removesuffix(")").split()[0]
        assert thread in shown and behind in shown, row.found_by
        assert not fd or re.search(rf" {fd.removeprefix('fd ')} -> ", shown), row.found_by


def test_the_cpu_is_a_kvm_file_descriptor_or_none_under_emulation(of_all):
    lab, frame = of_all
    listing = said("ls", "-l", f"/proc/{frame['pid'][0]}/fd")
    behind = frame.loc[frame["subsystem"] == "cpu", "behind"].tolist()
    links = re.findall(r" (\d+) -> (anon_inode:kvm-vcpu:\d)", listing)
    assert behind == ([f"fd {fd}: {name}" for fd, name in sorted(links, key=lambda link: link[1])] or ["none: emulated by TCG"] * 2)
    assert bool(links) == (lab.accel == "kvm")
    model = re.search(r"<model[^>]*>([^<]+)</model>", said("virsh", "dumpxml", "kl-all"))[1]
    assert frame["device"][:2].tolist() == [f"vCPU 0 ({model})", f"vCPU 1 ({model})"]


def test_the_memory_is_the_file_through_which_the_lab_talks_to_its_guest(of_all):
    _, frame = of_all
    memory = one(frame, "memory")
    fd, path = re.fullmatch(r"fd (\d+): (/memfd:.*)", memory.behind).groups()
    assert os.readlink(f"/proc/{memory.pid}/fd/{fd}") == path and os.stat(f"/proc/{memory.pid}/fd/{fd}").st_size == MEMORY_MIB << 20
    assert memory.device == f"{MEMORY_MIB} MiB of RAM"
    assert re.search(rf"memory backend: pc\.ram\s+size:\s+{MEMORY_MIB << 20}", monitor("kl-all", "info memdev").replace("\r", ""))


def test_the_disk_is_the_one_virsh_and_qemu_know_and_takes_data(of_all):
    _, frame = of_all
    disk = one(frame, "storage")
    path = re.fullmatch(r"fd \d+: (/.*)", disk.behind)[1]
    assert said("virsh", "domblklist", "kl-all").split()[-2:] == ["vda", path] and disk.device == "virtio disk vda"
    assert f"{path} (qcow2)" in monitor("kl-all", "info block")
    image = json.loads(said("virsh", "qemu-monitor-command", "kl-all", '{"execute":"query-block"}'))["return"][0]["inserted"]["image"]
    assert (image["virtual-size"], image["format"]) == (1 << 20, "qcow2")
    assert b"\x5a" * 65536 not in Path(path).read_bytes()
    monitor("kl-all", 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 0x5a 960k 64k"')
    assert b"\x5a" * 65536 in Path(path).read_bytes()


def test_the_network_card_is_the_one_virsh_and_qemu_know(of_all):
    _, frame = of_all
    card = one(frame, "network")
    _, kind, _, model, mac = said("virsh", "domiflist", "kl-all").split()[-5:]
    assert (kind, card.device) == ("user", f"{model} {mac}")
    assert f"macaddr={mac}" in monitor("kl-all", "info network") and "type=user" in monitor("kl-all", "info network")
    assert "slirp" in card.behind and "net/tun" not in said("ls", "-l", f"/proc/{card.pid}/fd")


def test_the_display_answers_on_its_socket_in_vncs_words(of_all):
    lab, frame = of_all
    display = one(frame, "display")
    path = re.fullmatch(r"fd \d+: (/.*)", display.behind)[1]
    assert said("virsh", "domdisplay", "kl-all").strip() == f"vnc+unix://{path}"
    assert path in monitor("kl-all", "info vnc")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert client.recv(12) == b"RFB 003.008\n"
        assert one(lab.subsystems("kl-all"), "display").behind == display.behind  # the socket that listens, not the one that talks


def test_a_guest_without_devices_has_all_five_rows_and_says_what_it_lacks(lab):
    lab.start("kl-c1")
    frame = lab.subsystems("kl-c1")
    assert frame["subsystem"].tolist() == SUBSYSTEMS
    bare = frame[frame["device"].isna()]
    assert bare["subsystem"].tolist() == SUBSYSTEMS[2:] and bare[["served_by", "tid", "behind"]].isna().all(axis=None)
    assert {"device", "served_by", "behind"} <= set(frame.attrs["unavailable"])
    for line in bare["found_by"]:
        assert "its XML has none" in line
        shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
        assert (shown.returncode, shown.stdout) == (1, "")  # grep's word for: not there


def test_a_guest_that_does_not_run_is_an_error_that_names_those_that_do(lab):
    lab.start("kl-c1")
    with pytest.raises(PlanError, match=r"no running guest 'kl-c2'.*kl-c1"):
        lab.subsystems("kl-c2")


@pytest.mark.parametrize("wrong", ["disk", True, ["all"]])
def test_other_devices_are_refused_before_anything_is_made(lab, wrong):
    before = folders_left()
    with pytest.raises(KvmlabError, match=r"write 'all'"):
        lab.start("kl-c1", devices=wrong)
    assert "kl-c1" not in lab.guests()["guest"].tolist() and folders_left() == before


# ---- nothing outlives a Lab


def test_disk_and_socket_are_gone_with_the_guest(live):
    before = folders_left()
    with Lab() as lab:
        guests = [lab.start(f"kl-c{n}", devices="all") for n in (1, 2)]
        files = [
            row.behind.split(": ")[1] for n in (1, 2) for row in lab.subsystems(f"kl-c{n}").tail(3).itertuples() if ": /" in row.behind
        ]
        assert len(files) == 4 and all(map(os.path.exists, files))
        guests[0].destroy()
        assert [os.path.exists(file) for file in files] == [False, False, True, True]
        said("virsh", "destroy", "kl-c2")
    assert not any(map(os.path.exists, files)) and folders_left() == before


def test_a_start_that_fails_leaves_no_folder(live, tmp_path):
    before = folders_left()
    with Lab(accel="tcg") as lab:
        lab._image = tmp_path / "missing.bin"
        with pytest.raises(KvmlabError, match=r"missing\.bin"):
            lab.start("kl-c1", devices="all")
        assert folders_left() == before


KILLED = """
from kvmlab import Lab
lab = Lab(accel="tcg")
lab.start("kl-k1", devices="all")
print(lab.process("kl-k1").pid, flush=True)
input()
"""


def test_the_next_lab_removes_the_folder_of_one_that_was_killed_and_no_others(live):
    before = folders_left()
    with Lab(accel="tcg") as onlooker:
        onlooker.start("kl-c1", devices="all")
        mine = folders_left()
        python = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        qemu = int(python.stdout.readline())
        assert len(folders_left() - mine) == 1
        python.send_signal(signal.SIGKILL)
        python.communicate()
        assert wait_until(lambda: not os.path.exists(f"/proc/{qemu}/exe"), 10, 0.1)
        assert len(folders_left() - mine) == 1
        with Lab(accel="tcg"):
            assert folders_left() == mine
        assert one(onlooker.subsystems("kl-c1"), "storage").behind.startswith("fd ")
    assert folders_left() == before


# ---- guests of other making

OTHERS = """
<domain type='qemu'>
  <name>kl-other</name>
  <memory unit='MiB'>34</memory>
  <vcpu>1</vcpu>
  <iothreads>2</iothreads>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{folder}/a disk.img'/><target dev='hda' bus='ide'/></disk>
    <disk type='file' device='cdrom'><target dev='hdb' bus='ide'/><readonly/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{folder}/link.img'/><target dev='sda' bus='scsi'/></disk>
    <controller type='scsi' model='virtio-scsi'><driver iothread='2'/></controller>
    <controller type='usb' model='none'/>
    {card}
    <graphics type='vnc' autoport='yes' listen='127.0.0.1'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
CARD = "<interface type='user'><model type='e1000'/><rom enabled='no'/></interface>"


@pytest.fixture
def folder():
    """Where QEMU's user may read: tmp_path is for us alone."""
    path = Path("/tmp", f"kvmlab-subsystems-{os.getpid()}")
    path.mkdir()
    (path / "a disk.img").write_bytes(bytes(1 << 20))
    (path / "scsi.img").write_bytes(bytes(1 << 20))
    (path / "link.img").symlink_to("scsi.img")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def other(tcg_lab, folder):
    """Starts a guest that is not a Lab's, and gives its rows."""
    started = []

    def start(card=CARD):
        xml = OTHERS.format(folder=folder, card=card)
        started.append(tcg_lab.connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY))
        return tcg_lab.subsystems("kl-other")

    yield start
    for domain in started:
        domain.destroy()


def test_a_guest_of_another_make_is_understood_too(other, folder):
    frame = other()
    ide, cdrom, scsi = (row for row in frame.itertuples() if row.subsystem == "storage")
    assert (ide.device, cdrom.device, scsi.device) == ("ide disk hda", "ide cdrom hdb", "scsi disk sda")
    assert ide.behind.endswith(f": {folder}/a disk.img") and scsi.behind.endswith(f": {folder}/scsi.img")
    assert cdrom.behind == "no medium in it" and ide.tid == cdrom.tid == ide.pid and ide.served_by.startswith("main loop (qemu")
    assert scsi.served_by == "IO iothread2" and f"thread_id={scsi.tid}" in monitor("kl-other", "info iothreads")
    for row in (ide, scsi):
        fd, path = row.behind.removeprefix("fd ").split(": ")
        assert os.readlink(f"/proc/{row.pid}/fd/{fd}") == path
        assert path.rpartition("/")[2] in subprocess.run(["sh", "-c", row.found_by], capture_output=True, text=True).stdout
    assert one(frame, "network").device.startswith("e1000 52:54:00:")


def test_memory_without_a_file_is_said_to_be_anonymous_and_where_it_is(other):
    memory = one(other(), "memory")
    assert memory.device == "34 MiB of RAM" and memory.served_by == "memory-backend-ram pc.ram"
    start, end = re.fullmatch(r"anonymous memory at ([0-9a-f]+)-([0-9a-f]+)", memory.behind).groups()
    assert int(end, 16) - int(start, 16) == 34 << 20
    assert f"{start}-{end} rw-p 00000000 00:00 0" in Path(f"/proc/{memory.pid}/maps").read_text()


def test_a_display_on_tcp_is_found_by_its_port(other):
    display = one(other(), "display")
    port = 5900 + int(said("virsh", "vncdisplay", "kl-other").strip().rpartition(":")[2])
    assert re.fullmatch(rf"fd \d+: TCP port {port} on 127\.0\.0\.1", display.behind)
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert client.recv(4) == b"RFB "
    shown = subprocess.run(["sh", "-c", display.found_by], capture_output=True, text=True).stdout
    assert re.search(rf" {display.behind.split(':')[0].removeprefix('fd ')} -> socket:", shown)


@pytest.fixture
def tap():
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("taps are made by root, with ip")
    name = f"kl{os.getpid() % 10**6}"
    made = subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no tap can be made here: {made.stderr}")
    yield name
    subprocess.run(["ip", "tuntap", "del", name, "mode", "tap"], check=True)


def test_a_tap_is_found_by_its_name(tap, other):
    xml = f"<interface type='ethernet'><target dev='{tap}' managed='no'/><model type='virtio'/><rom enabled='no'/></interface>"
    card = one(other(xml), "network")
    fd = re.fullmatch(rf"fd (\d+): /dev/net/tun, tap {tap}", card.behind)[1]
    assert f"iff:\t{tap}\n" in Path(f"/proc/{card.pid}/fdinfo/{fd}").read_text()
    assert f"fdinfo/{fd}:iff:\t{tap}\n" in subprocess.run(["sh", "-c", card.found_by], capture_output=True, text=True).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_look_into_qemu_is_told_so_and_still_gets_what_all_may_see(lab):
    lab.start("kl-c1", vcpus=2, devices="all")
    process, xml = lab.process("kl-c1"), lab.domain("kl-c1").XMLDesc()
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        root = SysRoot("/")
        os.write(theirs, pickle.dumps((subsystems.rows(root, process, xml, "virsh"), subsystems.unavailable(root, process))))
        os._exit(0)
    os.waitpid(child, 0)
    rows, reasons = pickle.loads(os.read(ours, 65536))
    os.close(ours), os.close(theirs)
    known = {"none: emulated by TCG", "user-mode network: slirp inside QEMU, no tap"}
    assert {row[5] for row in rows} - known == {None} and f"/proc/{process.pid}/fd is for QEMU's own user" in reasons["behind"]
    assert [row[:5] for row in rows] == [row[:5] for row in subsystems.rows(SysRoot("/"), process, xml, "virsh")]
