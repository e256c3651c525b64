"""The Linux guest: its archive against cpio, its machines against what the kernel and lscpu inside say, its end in every case."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from kvmlab import KvmlabError
from kvmlab.guest import linux, linux_image
from kvmlab.guest.linux import LinuxImage, Shape

NOWHERE = LinuxImage(Path("vmlinuz"), Path("initramfs.gz"), {})


# ---- the archive that the kernel unpacks


def test_cpio_unpacks_our_archive_to_the_same_files(tmp_path):
    if not shutil.which("cpio"):
        pytest.skip("no cpio; the kernel of the guests below unpacks it too")
    files = {f"a/{'b' * n}c/d{n}": bytes(range(256))[:n] for n in range(9)} | {"init": b"#!/bin/sh\n" * 1000}
    archive = linux_image.newc(files, ("dev", "empty"))
    subprocess.run(["cpio", "-id", "--quiet"], cwd=tmp_path, input=archive, check=True)
    unpacked = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert unpacked == files
    assert os.access(tmp_path / "init", os.X_OK) and not list((tmp_path / "dev").iterdir()) and (tmp_path / "empty").is_dir()


def test_an_own_busybox_brings_the_libraries_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(linux_image, "_PROGRAMS", ())
    (tmp_path / "kernel").write_bytes(b"a kernel")
    image = linux.build(tmp_path / "image", kernel=str(tmp_path / "kernel"), busybox=sys.executable)
    assert image == linux.find(tmp_path / "image")
    assert image.kernel.read_bytes() == b"a kernel"
    assert b"/libc.so.6" in gzip.decompress(image.initramfs.read_bytes())


# ---- what to do where something is missing


def test_without_an_image_the_error_says_how_to_build_it(tmp_path):
    with pytest.raises(KvmlabError, match="kvmlab build-linux-guest"):
        linux.find(tmp_path)


def test_without_apt_the_error_says_how_to_give_an_own_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(linux_image, "_PROGRAMS", ())
    with pytest.raises(KvmlabError, match=r"apt-cache is not here.*kernel='/boot/vmlinuz"):
        linux.build(tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_a_kernel_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KvmlabError, match="/no/vmlinuz cannot be read: No such file"):
        linux.build(tmp_path, kernel="/no/vmlinuz")


def test_without_qemu_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "initramfs.gz").write_bytes(b"")
    with pytest.raises(KvmlabError, match="apt install qemu-system-x86"):
        linux.boot(LinuxImage(tmp_path / "vmlinuz", tmp_path / "initramfs.gz", {}), Shape(), "")


# ---- shapes as QEMU's words


def values(shape: Shape, option: str) -> list[str]:
    command = shape.command(NOWHERE)
    return [value for word, value in pairwise(command) if word == option]


def test_a_shape_without_nodes_says_sockets_dies_cores_and_threads():
    shape = Shape(sockets=2, dies=2, cores=3, threads=2, cpu="Nehalem", kernel="isolcpus=1")
    assert values(shape, "-smp") == ["24,maxcpus=24,sockets=2,dies=2,cores=3,threads=2"]
    assert values(shape, "-cpu") == ["Nehalem"] and values(shape, "-m") == ["1024M"] and values(shape, "-numa") == []
    assert values(shape, "-append")[0].split()[-1] == "isolcpus=1"


def test_cpus_to_plug_in_later_are_possible_and_not_present():
    assert values(Shape(cores=8, cpus=3), "-smp")[0].startswith("3,maxcpus=8,")


def test_nodes_without_cpus_or_memory_and_their_distances():
    shape = Shape(cores=4, nodes=(("0-1,3", 256), ("2", 0), ("", 512)), distances=((10, 20, 30), (20, 10, 40), (30, 40, 10)))
    assert values(shape, "-m") == ["768M"]
    assert values(shape, "-object") == ["memory-backend-ram,id=ram0,size=256M", "memory-backend-ram,id=ram2,size=512M"]
    assert values(shape, "-numa")[:3] == ["node,nodeid=0,memdev=ram0,cpus=0-1,cpus=3", "node,nodeid=1,cpus=2", "node,nodeid=2,memdev=ram2"]
    assert values(shape, "-numa")[3:6] == ["dist,src=0,dst=0,val=10", "dist,src=0,dst=1,val=20", "dist,src=0,dst=2,val=30"]
    assert len(values(shape, "-numa")) == 12


# ---- booted


def test_linux_inside_sees_the_shape_that_was_asked_for(image, tmp_path):
    shape = Shape(cores=2, threads=2, nodes=(("0-1", 256), ("2-3", 256)), distances=((10, 31), (31, 10)), setup=linux.offline(3))
    raw = linux.boot_and_record(image, shape, tmp_path / "host")
    rows = [line.split(",")[:4] for line in (tmp_path / "host.lscpu.txt").read_text().splitlines() if line[:1].isdigit()]
    assert rows == [["0", "0", "0", "0"], ["1", "0", "0", "0"], ["2", "1", "0", "1"]]
    with tarfile.open(raw) as tar:
        read = {member.name: tar.extractfile(member).read().decode("latin-1") for member in tar if member.isfile()}
    system = "sys/devices/system"
    assert read[f"{system}/cpu/online"] == "0-2\n" and read[f"{system}/cpu/present"] == "0-3\n"
    assert read[f"{system}/node/node0/distance"].split() == ["10", "31"]
    assert read[f"{system}/cpu/cpu1/topology/thread_siblings_list"] == "0-1\n"
    assert read["proc/cpuinfo"].count("processor\t:") == 3
    assert read["proc/1/task/1/stat"].startswith("1 (init) ")


@pytest.mark.parametrize(
    ("shape", "script", "seconds", "said"),
    [
        (Shape(cpu="Nope"), "", 60, "QEMU said .*unable to find CPU model 'Nope'"),
        (Shape(), "exit 3", 60, "did not finish.*script ended: 3"),
        (Shape(), "sleep 1000", 1, "did not finish its script within 1 s"),
    ],
    ids=["a model that QEMU lacks", "a script that fails", "a script that does not end"],
)
def test_what_goes_wrong_is_said_and_leaves_no_qemu(image, shape, script, seconds, said):
    with pytest.raises(KvmlabError, match=said):
        linux.boot(image, shape, script, seconds)
    assert not [child for child in psutil.Process().children(recursive=True) if "qemu" in child.name()]


def test_a_killed_python_leaves_no_qemu(image):
    code = f"from kvmlab.guest import linux; linux.boot(linux.find({str(image.kernel.parent)!r}), linux.Shape(), 'sleep 1000')"
    python = subprocess.Popen([sys.executable, "-c", code])
    qemu = wait_for(lambda: next((p for p in psutil.Process(python.pid).children() if "qemu" in p.name()), None))
    python.send_signal(signal.SIGKILL)
    python.wait()
    wait_for(lambda: not qemu.is_running() or qemu.status() == psutil.STATUS_ZOMBIE)


def wait_for(condition, patience_s: float = 20):
    end = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found
