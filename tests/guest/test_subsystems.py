"""The five subsystems of machines that this one is not: their /proc is written by hand, and real where it is read."""

from pathlib import Path

import pytest

from kvmlab.guest import subsystems
from kvmlab.guest.vcpus import Process
from kvmlab.host.sysroot import SysRoot

SUBSYSTEMS = ["cpu", "memory", "storage", "network", "display"]


def machine(folder: Path, fds: dict[int, str], threads: dict[int, str], files: dict[str, str]) -> SysRoot:
    """A /proc of QEMU process 42."""
    (folder / "proc/42/fd").mkdir(parents=True)
    for fd, target in fds.items():
        (folder / f"proc/42/fd/{fd}").symlink_to(target)
    for name, text in files.items() | {(f"proc/42/task/{tid}/comm", comm) for tid, comm in threads.items()}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return SysRoot(folder)


def of(root, devices="", vcpus=None, cpu="") -> dict[str, list[tuple]]:
    process = Process("a guest", "uuid", 42, 0, vcpus or {}, accel="kvm")
    xml = f"<domain><memory>4096</memory><vcpu>1</vcpu>{cpu}<devices>{devices}</devices></domain>"
    found = subsystems.rows(root, process, xml, "virsh")
    return {name: [row[1:] for row in found if row[0] == name] for name in SUBSYSTEMS}


BRIDGE = """<interface type='network'><mac address='52:54:00:00:00:0{n}'/><source network='default' bridge='virbr0'/>
<target dev='vnet{n}'/><model type='virtio'/></interface>"""
TWO_TAPS = {30: "/dev/net/tun", 31: "/dev/net/tun", 32: "/dev/vhost-net"}
TAP_INFO = {"proc/42/fdinfo/30": "pos:\t0\niff:\tvnet11\n", "proc/42/fdinfo/31": "pos:\t0\niff:\tvnet1\n"}


@pytest.mark.parametrize("where", ["proc/42/task/77/comm", "proc/77/comm"], ids=["since Linux 6.4", "before"])
def test_vhost_serves_a_virtio_card_on_a_tap(tmp_path, where):
    root = machine(tmp_path, TWO_TAPS, {42: "qemu"}, {where: "vhost-42\n", **TAP_INFO})
    (card,) = of(root, BRIDGE.format(n=1))["network"]
    assert card[:5] == ("virtio 52:54:00:00:00:01", "vhost-42", 42, 77, "fd 31: /dev/net/tun, tap vnet1 in bridge virbr0")


def test_two_vhost_threads_are_not_told_apart(tmp_path):
    root = machine(tmp_path, TWO_TAPS, {42: "qemu", 77: "vhost-42", 78: "vhost-42"}, TAP_INFO)
    first, second = of(root, BRIDGE.format(n=1) + BRIDGE.format(n=2))["network"]
    assert (first[1], first[3], second[3]) == ("vhost-42", None, None)
    assert second[4] == "tap vnet2 in bridge virbr0, which QEMU does not hold open"


def test_without_vhost_the_main_loop_serves_a_tap(tmp_path):
    root = machine(tmp_path, {30: "/dev/net/tun"}, {42: "qemu"}, TAP_INFO)
    assert of(root, BRIDGE.format(n=11))["network"][0][1:4] == ("main loop (qemu)", 42, 42)


def test_a_card_or_disk_served_elsewhere_has_no_process_of_ours(tmp_path):
    root = machine(tmp_path, {1: "/dev/null"}, {42: "qemu"}, {})
    found = of(root, "<interface type='vhostuser'><source type='unix' path='/run/ovs'/></interface>")["network"]
    assert found == [("", "another process (vhost-user)", None, None, "vhostuser: type=unix path=/run/ovs", "virsh domiflist 'a guest'")]


def test_kvm_numbers_vcpus_with_gaps_and_qemu_without(tmp_path):
    fds = {10: "anon_inode:kvm-vcpu:4", 11: "anon_inode:kvm-vcpu:0", 12: "anon_inode:kvm-vcpu:1", 3: "/dev/kvm"}
    rows = of(machine(tmp_path, fds, {42: "qemu"}, {}), vcpus={0: 50, 1: 51, 2: 52}, cpu="<cpu mode='host-passthrough'/>")["cpu"]
    assert [row[4].partition(":")[0] for row in rows] == ["fd 11", "fd 12", "fd 10"] and rows[2][0] == "vCPU 2 (host-passthrough)"
    (tmp_path / "proc/42/fd/10").unlink()
    fewer = of(SysRoot(tmp_path), vcpus={0: 50, 1: 51, 2: 52})["cpu"]
    assert [row[4] for row in fewer] == [None] * 3  # which is which cannot be known


def test_a_network_disk_and_a_spice_display_are_named_as_the_xml_has_them(tmp_path):
    source = "<source protocol='rbd' name='pool/vol'><host name='a'/></source>"
    disk = f"<disk type='network' device='disk'>{source}<target dev='vdb' bus='virtio'/></disk>"
    screen = "<video><model type='qxl'/></video><graphics type='spice' port='5901' autoport='yes'><listen type='address'/></graphics>"
    tcp = "sl local\n 0: 00000000:170D 00000000:0000 0A 0 0 0 0 0 9001 1\n"
    root = machine(tmp_path, {20: "socket:[9001]"}, {42: "qemu", 60: "SPICE Worker"}, {"proc/42/net/tcp": tcp})
    found = of(root, disk + screen)
    assert found["storage"][0][4] == "network: protocol=rbd name=pool/vol name=a"
    assert found["display"][0][:5] == ("qxl card, SPICE display", "SPICE Worker", 42, 60, "fd 20: TCP port 5901 on every address")
    assert [row[1:5] for row in found["cpu"]] == [(None, 42, None, None)]  # no thread that is known for a vCPU


@pytest.mark.parametrize(
    "object_", ['{{"qom-type":"memory-backend-file","id":"{id}","size":4194304}}', "memory-backend-file,id={id},size=4M"]
)
def test_huge_pages_of_two_nodes_are_found_as_files(tmp_path, object_):
    pages = ["/dev/hugepages/qemu_back_mem.a", "/dev/hugepages/qemu_back_mem.b"]
    maps = "".join(f"7f000{n}000000-7f000{n}200000 rw-p 00000000 00:0f {n} {path} (deleted)\n" for n, path in enumerate(pages))
    words = ["qemu", *(word for name in ("node0", "node1") for word in ("-object", object_.format(id=name)))]
    fds = {n + 5: f"{path} (deleted)" for n, path in enumerate(pages)}
    root = machine(tmp_path, fds, {42: "qemu"}, {"proc/42/maps": maps, "proc/42/cmdline": "\0".join(words)})
    cells = "<cpu><numa><cell id='0' memory='2048'/><cell id='1' memory='2048'/></numa></cpu>"
    ((_, served, _, _, behind, _),) = of(root, cpu=cells)["memory"]
    assert served == "memory-backend-file node0, memory-backend-file node1"
    assert behind == f"fd 5: {pages[0]} (deleted); fd 6: {pages[1]} (deleted)"
    (tmp_path / "proc/42/maps").write_text("")
    assert of(SysRoot(tmp_path), cpu=cells)["memory"][0][4] is None
