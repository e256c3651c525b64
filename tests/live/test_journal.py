"""What a killed Lab left of others is put back: real guests, a real kill -9, and the kernel asked afterwards."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid

import pytest

from kvmlab import Lab, cli
from kvmlab.errors import PinError
from kvmlab.guest import journal
from kvmlab.guest.pinned import Pinned
from tests.live import foreign
from tests.live.pins import ALL, CPUS, FIRST, LAST, affinities, two

pytestmark = pytest.mark.usefixtures("state")
NAME = "kl-journal"
APPLY = """
import random, sys
from kvmlab import Lab, cpulist
uri, pid, cpus, seed = sys.argv[1], sys.argv[2], list(map(int, sys.argv[3].split(","))), int(sys.argv[4])
keys = [*(("kl-journal", who) for who in (0, 1, "emulator", "iothread 1")), f"pid {pid}"]
chance = random.Random(seed)
lab = Lab(uri, allow_changes=True)
print("open", flush=True)
while True:
    for _ in range(50):
        rows = chance.sample(keys, chance.randint(1, 3))
        lab.plan({key: cpulist.format(chance.sample(cpus, chance.randint(1, len(cpus)))) for key in rows}).apply()
        print(end=".", flush=True)
        if chance.random() < 0.3:
            lab.undo()
"""
ONCE = """
import os, sys
from kvmlab import Lab
lab = Lab(sys.argv[1], allow_changes=True)
exec(sys.argv[2])
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def watcher(live, state):
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def domain(watcher):
    with foreign.guest(watcher, NAME) as domain:
        yield domain


@pytest.fixture
def process(watcher, domain):
    process = watcher.process(NAME)
    before = affinities(process)
    yield process
    assert as_it_was(process, before)
    assert os.listdir(journal.folder()) == ["lock"]


def as_it_was(process, before: dict[int, set[int]]) -> bool:
    """QEMU's idle workers end when they like; its vCPUs and I/O threads are all still there."""
    now = affinities(process)
    return now.items() <= before.items() and now.keys() >= {*process.vcpus.values(), *process.iothreads}


def killed(watcher: Lab, deed: str) -> None:
    """A Lab of its own does that, and is killed."""
    assert subprocess.run([sys.executable, "-c", ONCE, watcher.uri, deed], timeout=60).returncode == -signal.SIGKILL


def left() -> journal.Left:
    (found,) = journal.left_behind()
    return found


def change(**values) -> None:
    """Write something else into the last line of the one journal that was left."""
    path = left().path
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps(json.loads(last) | values)]) + "\n")


def clean(capsys) -> str:
    assert cli.main(["doctor", "--clean"]) == 0
    return capsys.readouterr().out


PIN = f"lab.plan({{('{NAME}', 0): {FIRST}, ('{NAME}', 'emulator'): {FIRST}}}).apply(%s)"


def test_kill_9_in_the_middle_of_many_applies_leaves_no_pin(watcher, domain, process, capsys):
    """At random moments; also of libvirt's knowledge, and of an ordinary process's threads."""
    chance, victim = random.Random(), subprocess.Popen(["sleep", "600"])
    before, known = affinities(process), (domain.vcpuPinInfo(), domain.emulatorPinInfo(), domain.ioThreadInfo())
    try:
        for seed in range(3):
            command = [sys.executable, "-c", APPLY, watcher.uri, str(victim.pid), ",".join(map(str, CPUS)), str(seed)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert child.stdout.readline() == "open\n" and child.stdout.read(1) == "."
            time.sleep(chance.uniform(0, 0.4))
            child.kill()
            child.communicate()
            changed = any(one.steps for one in journal.left_behind())  # none, when it was killed right after an undo
            said = clean(capsys)
            assert ("Put back what a killed process had changed: " in said) == changed, said
            assert as_it_was(process, before) and os.sched_getaffinity(victim.pid) == set(CPUS)
            assert (domain.vcpuPinInfo(), domain.emulatorPinInfo(), domain.ioThreadInfo()) == known
            assert os.listdir(journal.folder()) == ["lock"]
    finally:
        victim.kill()
        victim.wait()


def test_the_next_lab_puts_back_what_was_left_and_says_so(watcher, process, capfd):
    killed(watcher, PIN % "")
    assert os.sched_getaffinity(process.vcpus[0]) == {FIRST}
    with Lab(watcher.uri):
        said = capfd.readouterr().err
        assert f"Put back what a killed process had changed: emulator of '{NAME}'; vCPU 0 of '{NAME}'." in said
        assert os.sched_getaffinity(process.vcpus[0]) == set(CPUS)


def test_a_lab_that_is_open_already_puts_it_back_before_it_changes_anything(watcher, process):
    with Lab(watcher.uri, allow_changes=True) as lab:
        killed(watcher, PIN % "")
        lab.plan({(NAME, 0): LAST}).apply()
        lab.undo()
        assert os.sched_getaffinity(process.vcpus[0]) == set(CPUS) and not journal.left_behind()


def test_the_terminal_says_what_it_put_back_also_of_definitions(watcher, domain, process):
    before = foreign.pins(domain)
    killed(watcher, PIN % "persistent=True")
    assert foreign.pins(domain) == [("emulatorpin", str(FIRST)), ("vcpupin", str(FIRST))]
    run = subprocess.run([sys.executable, "-m", "kvmlab.cli", "doctor", "--clean"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and f"vCPU 0 of '{NAME}'" in run.stdout
    assert foreign.pins(domain) == before and os.sched_getaffinity(process.vcpus[0]) == set(CPUS)


def test_of_another_boot_only_definitions_are_put_back(watcher, domain, process, capsys):
    killed(watcher, PIN % "persistent=True")
    change(boot="another")
    assert "Put back" in clean(capsys) and foreign.pins(domain) == []
    assert os.sched_getaffinity(process.vcpus[0]) == {FIRST}  # numbers of another boot: not touched
    for who in (lambda: domain.pinVcpu(0, (True,) * (LAST + 1)), lambda: domain.pinEmulator((True,) * (LAST + 1))):
        who()
    for tid in process.look().emulator:
        os.sched_setaffinity(tid, CPUS)


@two
def test_what_somebody_else_pinned_since_is_left_alone_and_the_rest_put_back(watcher, domain, process, capsys):
    killed(watcher, PIN % "")
    domain.pinVcpu(0, tuple(cpu == LAST for cpu in range(LAST + 1)))
    said = clean(capsys)
    assert f"Put back what a killed process had changed: emulator of '{NAME}'." in said
    assert f"somebody else has changed it since: vCPU 0 of '{NAME}': libvirt has it on CPU {LAST} now, and was told {FIRST}" in said
    assert os.sched_getaffinity(process.vcpus[0]) == {LAST}
    domain.pinVcpu(0, (True,) * (LAST + 1))


def test_a_torn_and_a_corrupt_line_keep_no_other_from_being_put_back(watcher, process, capsys):
    killed(watcher, PIN % "")
    path = left().path
    path.write_text("no line\n" + path.read_text() + '{"step": 2, "at')
    said = clean(capsys)
    assert f"vCPU 0 of '{NAME}'" in said and f"{path}: line 1 cannot be read" in said
    aside = path.with_name(path.name + ".corrupt")
    assert aside.exists()
    aside.unlink()


def test_a_guest_that_ended_since_needs_nothing(watcher, process, capsys):
    killed(watcher, PIN % "")
    change(rows=[row | {"start_ticks": row["start_ticks"] - 1} for row in left().steps[0].rows])  # so its number is another's now
    assert "nothing to put back" in clean(capsys) and os.sched_getaffinity(process.vcpus[0]) == {FIRST}
    for tid in affinities(process):
        os.sched_setaffinity(tid, CPUS)
    with Lab(watcher.uri, allow_changes=True) as lab:
        lab.plan({(NAME, 0): ALL, (NAME, "emulator"): ALL}).apply()
        lab._undo.clear()
        lab._journal.path.unlink()


def test_a_guest_that_libvirt_does_not_know_in_this_moment_is_kept_for_the_next_time(watcher, domain, process, capsys):
    """It knows none of this uuid, but the process runs. Where libvirt keeps no cpuset, the kernel's part is put back all the same."""
    killed(watcher, PIN % "")
    rows = [dict(row) for row in left().steps[0].rows]
    change(rows=[row | {"uuid": str(uuid.uuid4())} for row in rows])
    assert cli.main(["doctor", "--clean"]) == 1
    assert f"Not put back, and kept for the next time: emulator of '{NAME}': libvirt does not know '{NAME}' now" in capsys.readouterr().out
    assert len(left().steps[0].rows) == 2
    if watcher.uri.endswith("/session"):
        assert {frozenset(cpus) for cpus in affinities(process).values()} == {frozenset(CPUS)}
    change(rows=rows)
    assert "Put back" in clean(capsys) and domain.vcpuPinInfo()[0][: LAST + 1] == (True,) * (LAST + 1)


@two
@pytest.mark.parametrize("end", ["undo", "close"])
def test_the_last_of_two_labs_puts_the_original_back_though_the_first_was_killed(watcher, process, end):
    deed = f"lab.plan({{('{NAME}', 0): {FIRST}}}).apply(); print('done', flush=True); input()"
    first = subprocess.Popen([sys.executable, "-c", ONCE, watcher.uri, deed], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with Lab(watcher.uri, allow_changes=True) as second:
        assert first.stdout.readline() == "done\n"
        second.plan({(NAME, 0): LAST}).apply()
        first.communicate("\n")
        with Lab(watcher.uri):
            assert os.sched_getaffinity(process.vcpus[0]) == {LAST}
        getattr(second, end)()
        assert os.sched_getaffinity(process.vcpus[0]) == set(CPUS)


def test_what_a_lab_could_not_put_back_at_its_end_the_next_one_does_in_the_same_process(watcher, process, monkeypatch):
    def fails(_row):
        raise PinError("not now")

    lab = Lab(watcher.uri, allow_changes=True)
    lab.plan({(NAME, 0): FIRST}).apply()
    with monkeypatch.context() as patch:
        patch.setattr(Pinned, "put_back", fails)
        assert "not put back, the next Lab tries again: " in lab.close()
    assert os.sched_getaffinity(process.vcpus[0]) == {FIRST}
    with Lab(watcher.uri):
        assert os.sched_getaffinity(process.vcpus[0]) == set(CPUS)


def test_a_lab_with_nothing_to_undo_waits_for_nobody(watcher, monkeypatch):
    monkeypatch.setattr(journal, "PATIENCE_S", 0)
    lab = Lab(watcher.uri)
    with journal.locked():
        assert lab.undo() == 0 and lab.close() == "0 guests gone."


def test_shares_of_a_guest_are_put_back_too(watcher, domain, process, capsys):
    if not watcher.uri.endswith("/system"):
        pytest.skip("shares and quotas take qemu:///system")
    before = domain.schedulerParameters()
    killed(watcher, f"lab.schedinfo('{NAME}', cpu_shares=300, vcpu_quota=20_000)")
    assert domain.schedulerParameters()["cpu_shares"] == 300
    assert f"shares and quota of '{NAME}'" in clean(capsys) and domain.schedulerParameters() == before
