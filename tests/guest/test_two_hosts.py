"""What two hosts are made of, without libvirt: the guard, the choice of KVM, and where a guest ran when."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from kvmlab import KvmlabError
from kvmlab.guest import guard, two_hosts
from kvmlab.guest.microguest.page import wait_until
from kvmlab.guest.migration import _described, timeline

FAMILY = "sleep 1001 & setsid sh -c 'sleep 1002 & exec sleep 1003' & exec sleep 1004"  # one goes with a session of its own, as QEMU does


@pytest.fixture
def guarded(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/file").touch()
    job = {
        "folder": str(folder),
        "commands": [[["sh", "-c", FAMILY], {"PATH": os.environ["PATH"], "KVMLAB_FAMILY": str(folder)}]],
        "user": {},
    }
    process = subprocess.Popen([sys.executable, "-IS", guard.__file__, json.dumps(job)], stdin=subprocess.PIPE)
    process.stdin.write(guard.ALL_ANSWER)
    process.stdin.flush()
    yield process, folder
    process.communicate()


def family(folder: Path) -> list[psutil.Process]:
    mark = f"KVMLAB_FAMILY={folder}\0".encode()
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes() + b"\0":
                found.append(process)
        except OSError:
            continue
    return [process for process in found if process.info["name"] == "sleep"]


def test_the_guard_ends_all_that_its_daemons_started_and_removes_the_folder(guarded):
    process, folder = guarded
    assert wait_until(lambda: len(family(folder)) == 4, 5, 0.02)
    assert psutil.Process(process.pid).name() == "kvmlab-guard"
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    assert not family(folder) and not folder.exists()


def test_the_guard_reaps_what_loses_its_parent(guarded):
    process, folder = guarded
    assert wait_until(lambda: len(family(folder)) == 4, 5, 0.02)
    for member in family(folder):
        member.kill()
    assert wait_until(lambda: not psutil.Process(process.pid).children(recursive=True), 5, 0.01), "none stays as a zombie"
    assert folder.exists() and process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's QEMU may open what that user may")
def test_what_only_root_may_open_is_no_kvm_for_the_user_that_qemu_runs_as(tmp_path, monkeypatch):
    device = tmp_path / "kvm"
    device.touch(mode=0o600)
    monkeypatch.setattr(two_hosts, "_KVM", str(device))
    accel, reason, groups = two_hosts._choose("auto")
    assert (accel, groups) == ("tcg", []) and "-rw-------" in reason and "QEMU is not root" in reason
    with pytest.raises(KvmlabError, match=r"KVM cannot be had.*chgrp kvm"):
        two_hosts._choose("kvm")
    device.chmod(0o660)
    os.chown(device, 0, 4711)
    assert two_hosts._choose("tcg") == ("tcg", "as asked", [4711])
    device.chmod(0o666)
    assert two_hosts._choose("tcg")[2] == []


def test_a_daemon_that_ends_at_once_is_told_with_its_words_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(two_hosts, "program", lambda: shutil.which("ls"))  # it takes any option, and finds no such file
    monkeypatch.setitem(two_hosts._SOCKETS, "ls", "libvirt-sock")
    monkeypatch.setattr(two_hosts, "PATIENCE_S", 3600)
    before = set(Path(two_hosts._short_place()).glob("kvmlab-2h-*"))
    with pytest.raises(KvmlabError, match=r"A libvirt daemon of the two hosts ended at once: .*daemon\.pid"):
        two_hosts.TwoHosts(accel="tcg")
    assert set(Path(two_hosts._short_place()).glob("kvmlab-2h-*")) <= before


def test_a_saved_guest_of_another_hypervisor_is_refused():
    with pytest.raises(KvmlabError, match="'c1' is a guest of 'hvf': hosts here run guests of kvm and qemu only"):
        _described("<domain type='hvf'><name>c1</name><uuid>u</uuid><vcpu>1</vcpu></domain>", None, None, None)


def test_an_unknown_accelerator_names_the_known_ones():
    with pytest.raises(KvmlabError, match="'kvm' or 'tcg'"):
        two_hosts.TwoHosts(accel="xen")


def test_the_pause_is_that_of_the_vcpu_that_stood_still_longest():
    readings = [(n / 10, "a", [n, min(n, 3)]) for n in range(6)] + [(0.55, "b", [3, 3])]  # copied: not running yet
    readings += [(n / 10, "a", [5, 3]) for n in range(6, 9)] + [(0.7, "b", [6, 3]), (0.8, "b", [7, 4])]
    rows, pause = timeline(sorted(readings), "a", "b")
    assert pause == (0.3, 0.8)
    assert [(when, turns) for when, vcpu, host, turns in rows if vcpu == 0 and host == "b"] == [(0.7, 6), (0.8, 7)]
    assert [turns for _, vcpu, _, turns in rows if vcpu == 1] == [0, 1, 2, 3, 4]


def test_an_idle_guest_has_no_pause():
    assert timeline([(0.0, "a", [7]), (0.1, "a", [7]), (0.2, "b", [7])], "a", "b") == ([(0.0, 0, "a", 7)], None)
