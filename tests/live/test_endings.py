"""However it ends: afterwards no guest is listed and no QEMU runs."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kvmlab import KvmlabError, Lab
from kvmlab.guest import daemon
from kvmlab.guest.microguest.page import wait_until
from tests.conftest import need

SCRIPT = """
import sys, time
from kvmlab import Lab
lab = Lab(accel="tcg")
print("open", flush=True)
for name in sys.argv[1:]:
    lab.start(name, vcpus=2).work("spin")
print("up", flush=True)
time.sleep(60)
"""


def running(*names: str) -> list[psutil.Process]:
    wanted = {f"guest={name},debug-threads=on" for name in names}
    return [p for p in psutil.process_iter(["cmdline", "status"]) if wanted & set(p.info["cmdline"] or ()) and p.info["status"] != "zombie"]


def listed() -> str:
    return subprocess.run(["virsh", "list", "--all", "--name"], capture_output=True, text=True, timeout=30).stdout


def python(*names: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *names], stdout=subprocess.PIPE, text=True)


def test_kill_9_of_python_leaves_no_guest(live):
    with Lab(accel="tcg") as onlooker:  # keeps a daemon there to be asked
        process = python("kl-k1", "kl-k2")
        assert process.stdout.readline() == "open\n" and process.stdout.readline() == "up\n"
        assert len(running("kl-k1", "kl-k2")) == 2
        process.kill()
        process.wait()
        assert wait_until(lambda: not running("kl-k1", "kl-k2"), 10, 0.1)
        assert wait_until(lambda: "kl-k" not in listed(), 10, 0.1)
        assert onlooker.guests()["guest"].str.startswith("kl-k").sum() == 0


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.15, 0.3, 0.5])
def test_ctrl_c_during_start_leaves_nothing(live, after_s):
    process = python("kl-c1")
    assert process.stdout.readline() == "open\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    assert not running("kl-c1")
    with Lab(accel="tcg"):
        assert "kl-c1" not in listed()


def test_a_script_that_just_ends_leaves_nothing(live):
    code = SCRIPT.replace("time.sleep(60)", "sys.exit(3)")
    assert subprocess.run([sys.executable, "-c", code, "kl-e1"], capture_output=True, timeout=60).returncode == 3
    assert not running("kl-e1")


def test_a_guest_destroyed_by_virsh_is_said_to_be_gone_and_the_lab_goes_on(lab):
    guest, other = lab.start("kl-a"), lab.start("kl-b")
    other.work("spin")
    subprocess.run(["virsh", "destroy", "kl-a"], check=True, capture_output=True)
    for doing in (lambda: guest.work("spin"), guest.counters):
        with pytest.raises(KvmlabError, match="'kl-a' is gone"):
            doing()
    with pytest.raises(KvmlabError, match="no running guest 'kl-a'"):
        lab.plan({("kl-a", 0): "0"})
    assert lab.vcpus()["guest"].tolist() == ["kl-b"] == lab.guests()["guest"].tolist()
    lab.start("kl-a").work("spin")  # its name is free again
    assert lab.vcpus()["work"].tolist() == ["spin", "spin"]


def test_qemu_killed_behind_libvirts_back_is_a_guest_that_is_gone(lab):
    guest = lab.start("kl-a")
    os.kill(guest.process.pid, signal.SIGKILL)
    assert wait_until(lambda: not guest.process.alive(), 5)
    with pytest.raises(KvmlabError, match="'kl-a' is gone"):
        guest.work("spin")
    assert lab.vcpus().empty


LIBVIRT, LOGS = ("libvirtd", "virtqemud"), ("virtlogd",)
SOON_S = 2


def daemons(*names: str) -> list[psutil.Process]:
    """Of this user only, and under root only where a Lab started it: never somebody's own daemon."""
    mine = (p for p in psutil.process_iter(["name", "uids", "status"]) if p.info["name"] in (names or LIBVIRT))
    return [p for p in mine if p.info["uids"].real == os.geteuid() and p.info["status"] != "zombie"]


@pytest.fixture
def no_daemon(live, monkeypatch) -> None:
    """Where root's Lab must start its daemons itself; those that an earlier Lab started end soon, and these still sooner."""
    if os.geteuid() == 0 and not wait_until(lambda: not daemons(*LIBVIRT, *LOGS), 4 * daemon.IDLE_S, 0.1):
        need("the system's own libvirt daemon runs here: it is not ours to stop")
    monkeypatch.setattr(daemon, "_OPTIONS", ["--timeout", str(SOON_S)])


def test_a_daemon_killed_meanwhile_is_said_and_no_qemu_stays(no_daemon):
    lab = Lab(accel="tcg")
    lab.start("kl-d1").work("spin")
    for one in daemons():
        one.kill()
    with pytest.raises(KvmlabError, match="daemon went away"):
        lab.vcpus()
    lab.close()
    assert wait_until(lambda: not running("kl-d1"), 10, 0.1)
    with Lab(accel="tcg") as again:
        assert wait_until(lambda: "kl-d1" not in listed(), 10, 0.1) and again.guests().empty


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's Lab starts a daemon itself")
def test_a_daemon_that_a_lab_started_serves_others_and_ends_when_nobody_is_left(no_daemon):
    first = Lab(accel="tcg")
    started = daemons()
    with Lab(accel="tcg") as second:
        first.close()
        second.start("kl-d2")
        assert daemons() == started
        time.sleep(2 * SOON_S)  # neither daemon may end for idleness while a Lab is open
        second.start("kl-d5")
    assert wait_until(lambda: not daemons(), 10 * SOON_S, 0.1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's Lab starts a daemon itself")
def test_a_daemon_that_hangs_at_its_end_is_replaced(no_daemon):
    """libvirtd waits for itself for ever when it is told to stop while an auto-destroy guest runs; here it is, for real."""
    first = Lab(accel="tcg")
    first.start("kl-d3")
    for one in daemons():
        one.terminate()
    with Lab(accel="tcg") as second:
        second.start("kl-d4").work("spin")
    first.close()
    assert wait_until(lambda: not running("kl-d3", "kl-d4"), 10, 0.1)
