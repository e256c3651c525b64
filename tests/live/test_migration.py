"""Two real libvirt daemons and guests that move between them; libvirt, virsh and the processes themselves are asked what came of it."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from kvmlab import KvmlabError, TwoHosts, plots
from kvmlab.guest.connection import libvirt
from kvmlab.guest.microguest.page import wait_until
from kvmlab.lab import HostLab

SPIN = "work == 'spin'"


@pytest.fixture(scope="module", params=["tcg", "auto"])
def hosts(request, live):
    with TwoHosts(accel=request.param) as labs:
        if request.param == "auto" and labs[0].accel == "tcg":
            pytest.skip(f"KVM cannot be had: {labs[0].accel_reason}")
        yield labs


@pytest.fixture
def a(hosts):
    return emptied(hosts)[0]


@pytest.fixture
def b(hosts):
    return hosts[1]


@pytest.fixture(scope="module")
def tcg(live):
    with TwoHosts(accel="tcg") as labs:
        yield labs


def emptied(labs):
    for lab in labs:
        for guest in list(lab._mine.values()):
            guest.destroy()
    return labs


def virsh(lab, *words: str) -> str:
    return subprocess.run(["virsh", "-c", lab.uri, *words], capture_output=True, text=True, timeout=60).stdout


def names(lab) -> list[str]:
    return virsh(lab, "list", "--all", "--name").split()


def spun(guest) -> int:
    return int(guest.counters().query(SPIN)["turns"].sum())


def goes_on(guest) -> bool:
    before = spun(guest)
    return wait_until(lambda: spun(guest) > before, 5)


def within(folder: Path, name: str = "") -> list[psutil.Process]:
    """Processes whose command line names something in this folder."""
    found = (p for p in psutil.process_iter(["name", "cmdline", "status"]) if p.info["status"] != "zombie")
    return [p for p in found if p.info["name"].startswith(name) and f"{folder}/" in " ".join(p.info["cmdline"] or ())]


def nothing_of_a_guest(lab) -> bool:
    """No domain, no QEMU, no folder of one."""
    home = lab.host.home
    return not names(lab) and not within(home, "qemu") and not list((home / "guests").iterdir()) and lab.guests().empty


def slowed(lab, guest) -> None:
    """Make its next move take half a minute: memory that is not empty, at 1 MiB/s."""
    guest.page._ram[4 << 20 : 30 << 20] = os.urandom(26 << 20)
    lab.domain(guest.name).migrateSetMaxSpeed(1)


# ---- a move


def test_a_working_guest_moves_and_goes_on_where_it_was(a, b):
    guest = a.start("ht-1", topology="1x1x2x1", cells=["0", "1"])
    guest.work("spin")
    old, before = guest.process, spun(guest)
    moved = a.migrate("ht-1", b)
    assert moved.guest is guest and spun(guest) > before and goes_on(guest)
    assert (names(a), names(b)) == ([], ["ht-1"]) and nothing_of_a_guest(a)
    assert not old.alive() and guest.process.alive() and guest.process.pid != old.pid
    assert b.guests()[["guest", "state", "owned", "boots"]].values.tolist() == [["ht-1", "running", True, 1]]
    assert b.vcpus()["tid"].tolist() == list(guest.process.vcpus.values())
    _the_figures_are_libvirts(moved, b)
    _the_samples_are_one_life(moved)
    guest.work("idle")
    guest.work("spin")  # its bell wakes it there, too
    assert b.migrate("ht-1", a, cpu=None).guest is guest and goes_on(guest)
    assert guest.cpuid(1)[1] >> 24 == 0 and guest.topology()["core"].tolist() == [0, 1]


def _the_figures_are_libvirts(moved, b) -> None:
    said = dict(line.split(":", 1) for line in virsh(b, "domjobinfo", "ht-1", "--completed", "--rawstats").splitlines() if ":" in line)
    row = moved.result.iloc[0]
    assert (row.guest, row.accel, row.vcpus, row.source, row.destination) == ("ht-1", b.accel, 2, "a", "b")
    assert round(1000 * row.downtime_s) == int(said["downtime"])
    assert (row.pages_sent, row.pages_zero, row.rounds) == tuple(int(said[f"memory_{n}"]) for n in ("normal", "constant", "iteration"))
    assert row.memory_kib >= (32 + 8) * 1024 and 0 < row.sent_kib < row.memory_kib
    assert 0 <= row.pages_again < row.pages_sent
    assert 0 < row.pause_s < row.seconds and row.gap_s >= 0
    assert moved.result.attrs["unavailable"] == {}


def _the_samples_are_one_life(moved) -> None:
    samples, (asked, answered), pause = moved.samples, moved.samples.attrs["span"], moved.samples.attrs["pause"]
    for _, one in samples.groupby("vcpu"):
        assert one["turns"].is_monotonic_increasing and one["time_s"].is_monotonic_increasing
        assert one["host"].is_monotonic_increasing and one["host"].unique().tolist() == ["a", "b"]
    assert samples["time_s"].min() < asked < pause[0] < pause[1] and answered < samples["time_s"].max()
    words = plots.migration_in_words(samples)
    assert f"stood still for {1000 * moved.result['pause_s'][0]:.0f} ms" in words
    assert "ht-1 moves from host a to host b" in plots.migration(samples).get_title(loc="left")


def test_an_idle_guests_pause_is_not_known_and_says_why(tcg):
    a, b = emptied(tcg)
    a.start("ht-1")
    result = a.migrate("ht-1", b).result
    assert result[["pause_s", "gap_s"]].isna().all(axis=None) and result["downtime_s"][0] > 0
    assert set(result.attrs["unavailable"]) == {"pause_s", "gap_s"}
    assert result["pages_again"][0] == 0, "nobody wrote to its memory"


def test_a_saved_guest_goes_on_where_it_was_on_either_host_if_its_cpu_stays(a, b):
    guest = a.start("ht-1", vcpus=2, cpu="Westmere")
    guest.work("spin")
    other = a.xml("ht-1").replace(">Westmere<", ">Nehalem<")
    refused(a, guest, "Target CPU model Nehalem does not match source Westmere", lambda: a.save("ht-1", xml=other))
    path = a.save("ht-1", xml=a.xml("ht-1"))
    assert nothing_of_a_guest(a) and "ht-1" in virsh(b, "save-image-dumpxml", str(path))
    with pytest.raises(KvmlabError, match="'ht-1' is gone"):
        guest.counters()
    with pytest.raises(KvmlabError, match="Target CPU model Nehalem does not match source Westmere"):
        b.restore(path, cpu="Nehalem")
    assert nothing_of_a_guest(b)
    first = b.restore(path, cpu="Westmere")
    assert spun(first) > 0 and goes_on(first) and b.guests()["boots"].tolist() == [1]
    first.work("idle")
    first.work("spin")
    with pytest.raises(KvmlabError, match="'ht-1' is taken"):
        b.restore(path)
    assert goes_on(first)
    first.destroy()
    again = a.restore(path)
    assert goes_on(again) and names(a) == ["ht-1"]


def test_saved_guests_of_one_name_have_a_file_each(tcg):
    paths = []
    for lab in emptied(tcg):
        lab.start("ht-1")
        paths.append(lab.save("ht-1"))
    assert paths[0] != paths[1] and all(path.exists() for path in paths)


# ---- what libvirt refuses, and the same done right


def refused(lab, guest, words: str, doing) -> None:
    with pytest.raises(KvmlabError, match=words) as caught:
        doing()
    assert str(caught.value).rstrip().endswith("'ht-1' runs on, on host a.")
    assert goes_on(guest) and names(lab) == ["ht-1"]


def test_another_cpu_on_the_other_side_is_refused_in_libvirts_own_words(a, b, tmp_path):
    guest = a.start("ht-1", cpu="Westmere")
    guest.work("spin")
    refused(a, guest, "Target CPU model Nehalem does not match source Westmere.*baseline", lambda: a.migrate("ht-1", b, cpu="Nehalem"))
    xml = a.xml("ht-1")
    file = tmp_path / "poorer.xml"
    file.write_text(xml.replace(">Westmere<", ">Nehalem<"))
    uri = f"qemu+unix:///session?socket={b.host.socket}"
    command = ["virsh", "-c", a.uri, "migrate", "ht-1", uri, "--live", "--p2p", "--tunnelled", "--xml", str(file)]
    assert "Target CPU model Nehalem does not match source Westmere" in subprocess.run(command, capture_output=True, text=True).stderr
    topology = re.sub("<vcpu[^>]*>1<", "<vcpu>2<", xml)
    refused(a, guest, "Target domain vCPU max 2 does not match source 1", lambda: a.migrate("ht-1", b, xml=topology))
    kinds = {"kvm": "qemu", "qemu": "kvm"}
    other = re.sub("<domain type='(kvm|qemu)'", lambda match: f"<domain type='{kinds[match[1]]}'", xml)
    refused(a, guest, "Target domain virt type", lambda: a.migrate("ht-1", b, xml=other))
    assert nothing_of_a_guest(b)
    a.migrate("ht-1", b, cpu="Westmere")
    assert goes_on(guest)


def test_with_the_hosts_baseline_model_it_may_come_and_go(a, b):
    kind = "kvm" if a.accel == "kvm" else "qemu"
    known = [lab.connection.getDomainCapabilities(None, "x86_64", None, kind) for lab in (a, b)]
    models = [re.search("<mode name='host-model'.*?</mode>", xml, re.S)[0] for xml in known]
    models = [re.sub("<mode [^>]*>", "<cpu>", model).replace("</mode>", "</cpu>") for model in models]
    baseline = a.connection.baselineHypervisorCPU(None, "x86_64", None, kind, models, libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE)
    guest = a.start("ht-1", cpu=baseline)
    guest.work("spin")
    a.migrate("ht-1", b, cpu=baseline)
    assert goes_on(guest)


def test_host_passthrough_moves_between_equal_hosts_unless_it_promises_what_no_other_host_can_keep(a, b):
    if a.accel == "tcg":
        with pytest.raises(KvmlabError, match=r"host-passthrough.*not supported"):
            a.start("ht-1", cpu="host-passthrough")
        return
    try:
        guest = a.start("ht-1", cpu="<cpu mode='host-passthrough' migratable='off'/>")
    except KvmlabError as error:
        pytest.skip(f"host-passthrough does not start here: {error}")
    guest.work("spin")
    if guest.cpuid(0x80000007)[3] >> 8 & 1:  # an invariant time stamp counter
        refused(a, guest, r"non-migratable CPU device \(invtsc flag\)", lambda: a.migrate("ht-1", b))
    guest.destroy()
    guest = a.start("ht-1", cpu="host-passthrough")
    guest.work("spin")
    a.migrate("ht-1", b)
    assert goes_on(guest) and not guest.cpuid(0x80000007)[3] >> 8 & 1


def test_what_cannot_be_is_said_and_nothing_is_lost(tcg):
    a, b = emptied(tcg)
    guest = a.start("ht-1")
    guest.work("spin")
    xml = a.xml("ht-1")
    emulator = re.search("<emulator>(.*?)</emulator>", xml)[1]
    refused(a, guest, "Cannot check QEMU binary /nowhere", lambda: a.migrate("ht-1", b, xml=xml.replace(emulator, "/nowhere")))
    assert nothing_of_a_guest(b)
    b.start("ht-1")
    refused(a, guest, "lacks a permission|No such file", lambda: a.save("ht-1", "/proc/nowhere/x"))
    for words, doing in {
        "The name 'ht-1' is taken": lambda: a.migrate("ht-1", b),
        "on host a already": lambda: a.migrate("ht-1", a),
        "other Lab of the same TwoHosts": lambda: a.migrate("ht-1", "b"),
        "no running guest 'ht-7'": lambda: a.migrate("ht-7", b),
        "no XML of a domain": lambda: a.migrate("ht-1", b, xml="<domain"),
        "Nearest: Westmere": lambda: a.migrate("ht-1", b, cpu="Westmore"),
        "image magic is incorrect": lambda: b.restore(__file__),
        "No such file": lambda: b.restore("/nowhere"),
        "have no devices": lambda: a.start("ht-2", devices="all"),
    }.items():
        with pytest.raises(KvmlabError, match=words):
            doing()
    assert goes_on(guest) and names(a) == ["ht-1"] == names(b)


def test_a_guest_that_came_but_no_longer_answers_is_told_of_and_ends_with_its_lab(live):
    with TwoHosts(accel="tcg") as (a, b):
        a.start("ht-1").work("spin")
        deaf = re.sub("<serial type='unix'>.*?</serial>", "<serial type='null'><target port='0'/></serial>", a.xml("ht-1"), flags=re.S)
        with pytest.raises(KvmlabError, match=r"'ht-1' cannot be woken.* It runs on host b now, and ends with this Lab"):
            a.migrate("ht-1", b, xml=deaf)
        with pytest.raises(KvmlabError, match="'ht-1' runs on host b, but no longer answers this Lab"):
            b.migrate("ht-1", a)
        assert names(a) == [] and names(b) == ["ht-1"]
        home = a.host.home.parent
    assert nothing_left(home)


# ---- interrupted


def test_ctrl_c_aborts_the_move_and_the_guest_stays(tcg, capfd):
    a, b = emptied(tcg)
    guest = a.start("ht-1")
    guest.work("spin")
    slowed(a, guest)
    threading.Timer(1.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        a.migrate("ht-1", b)
    assert "'ht-1' is on host a" in capfd.readouterr().err
    assert names(a) == ["ht-1"] and nothing_of_a_guest(b) and goes_on(guest)
    a.domain("ht-1").migrateSetMaxSpeed(1000)
    a.migrate("ht-1", b)
    assert goes_on(guest) and names(b) == ["ht-1"]


def test_a_destination_that_goes_away_in_mid_move_leaves_the_guest_where_it_was(live):
    with TwoHosts(accel="tcg") as (a, b):
        guest = a.start("ht-1")
        guest.work("spin")
        slowed(a, guest)
        daemon = int((b.host.home / "run/daemon.pid").read_text())
        threading.Timer(1.2, os.kill, (daemon, signal.SIGKILL)).start()
        refused(a, guest, "Moving 'ht-1' to host b: ", lambda: a.migrate("ht-1", b))
        with pytest.raises(KvmlabError, match="daemon went away"):
            a.migrate("ht-1", b)
        b.close()
        with pytest.raises(KvmlabError, match="Lab is closed"):
            a.migrate("ht-1", b)
        assert goes_on(guest)
        home = b.host.home.parent
    assert nothing_left(home)


def test_a_host_that_does_not_come_up_takes_the_other_one_with_it(live):
    made = []

    class OnlyOne(HostLab):
        def __init__(self, host, *rest):
            if host.name == "a":
                raise KvmlabError("a does not come up")
            super().__init__(host, *rest)
            made.append(self)

    class Half(TwoHosts):
        lab_class = OnlyOne

    with pytest.raises(KvmlabError, match="a does not come up"):
        Half(accel="tcg")
    with pytest.raises(KvmlabError, match="Lab is closed"):
        made[0].guests()
    assert nothing_left(made[0].host.home.parent)


# ---- the end


def nothing_left(home: Path) -> bool:
    return not home.exists() and not within(home)


SCRIPT = """
import os, sys, time
from kvmlab import TwoHosts
a, b = hosts = TwoHosts(accel="tcg")
guest = a.start("ht-1")
a.start("ht-2")
a.migrate("ht-2", b)
guest.page._ram[4 << 20 : 30 << 20] = os.urandom(26 << 20)
a.domain("ht-1").migrateSetMaxSpeed(1)
print(a.host.home.parent, flush=True)
a.migrate("ht-1", b)
"""


def test_kill_9_of_python_in_mid_move_leaves_neither_guest_nor_daemon_nor_folder(live):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    home = Path(process.stdout.readline().strip())
    assert wait_until(lambda: len(within(home, "qemu")) == 3, 10, 0.05), "one on each host, and one that waits for what comes"
    process.kill()
    process.wait()
    assert wait_until(lambda: nothing_left(home), 10, 0.05)


def test_the_hosts_belong_to_nobody_else_and_go_with_their_block(live):
    with TwoHosts(accel="tcg") as (a, b):
        home = a.host.home.parent
        a.start("ht-1")
        b.start("ht-1")  # each host has its own names
        owner = home.stat()
        assert owner.st_mode & 0o777 == 0o700 and owner.st_uid == (os.geteuid() or 65534)
        users = {psutil.Process(lab.guests()["pid"][0]).uids().real for lab in (a, b)}
        assert users == {owner.st_uid}
        assert "on host a of two" in repr(a)
        assert f"-c '{a.uri}'" in a.plan({("ht-1", 0): "0"}).commands()[0]
    assert nothing_left(home)
