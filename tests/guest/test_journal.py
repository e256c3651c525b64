"""The undo journal's files: written before, gone after, and what a reader makes of those that others, or a crash, left."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest

from kvmlab import cli, cpulist
from kvmlab.errors import PinError
from kvmlab.guest import journal, replay
from kvmlab.guest.journal import Journal
from kvmlab.guest.vcpus import ROOT
from kvmlab.host.threads import read_stat

ROW = {"what": "pin", "who": "tid 4711", "cpus": "0", "since": 1, "found": [[4711, 4711, 7, "0-1"]]}
OF_GUEST = {"guest": "c1", "uuid": "x", "pid": 4711, "start_ticks": 7, "uri": "test:///default"}
SHARES = OF_GUEST | {"what": "schedinfo", "wanted": {"cpu_shares": 3}, "known": {"cpu_shares": 100}}
OF_GUEST |= ROW | {"who": 0, "known": "0", "persistent": False, "defined": None}
CPUS = sorted(os.sched_getaffinity(0))
two = pytest.mark.skipif(len(CPUS) < 2, reason="one CPU: there is nowhere to go")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "kvmlab/journal"


@pytest.fixture
def dead(place):
    """Write a journal of a process that is gone."""
    place.mkdir(parents=True, mode=0o700)

    def write(text: str, name: str = f"99999999-1-x-{journal.machine()}-y.jsonl"):
        path = place / name
        path.write_text(text)
        return path

    return write


def line(step: int = 1, **changes) -> str:
    return json.dumps({"step": step, "at": float(step), "uptime_s": float(step), "boot": journal.boot_id(), "rows": [ROW]} | changes) + "\n"


def test_a_step_is_on_disk_when_begin_returns_and_the_file_goes_with_the_last(place):
    book = Journal()
    assert book.begin([]) is None and not place.exists()
    first, second = book.begin([ROW]), book.begin([ROW, ROW])
    assert book.path.parent == place and book.path.stat().st_mode & 0o777 == 0o600 and place.stat().st_mode & 0o777 == 0o700
    assert [(step.number, len(step.rows)) for step in journal.read(book.path).steps] == [(1, 1), (2, 2)]
    book.end(second)
    assert [step.number for step in journal.read(book.path).steps] == [1]
    book.end(None)
    book.end(first)
    assert os.listdir(place) == []
    assert book.begin([ROW]) == 3 and len(os.listdir(place)) == 1


def test_the_journal_of_a_living_process_is_not_touched(place):
    Journal().begin([ROW])
    assert journal.left_behind() == [] == replay.clean() and len(os.listdir(place)) == 1


def test_the_journal_of_a_process_that_was_killed_is_found(place):
    code = "import os; from kvmlab.guest.journal import Journal; Journal().begin([{'what': 'pin'}]); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (left,) = journal.left_behind()
    assert left.steps[0].rows == ({"what": "pin", "boot": journal.boot_id()},) and not left.strange


def test_a_torn_last_line_is_a_change_that_did_not_happen(dead):
    path = dead(line(1) + line(2)[:40])
    left = journal.read(path)
    assert [step.number for step in left.steps] == [1] and not left.strange
    assert replay.clean() == [] and not path.exists()


def test_nothing_but_a_torn_line_goes_without_a_word(dead):
    path = dead(line(1)[:-1])
    assert replay.clean() == [] and not path.exists()


@pytest.mark.parametrize(
    "strange",
    [
        *("{}", "[]", "null", "7", "{", '"step"', "\x00\x01", '{"step": 1}', "[" * 100_000, ""),
        *(line(2, **wrong)[:-1] for wrong in ({"rows": None}, {"at": "x"}, {"at": 10**400}, {"uptime_s": float("nan")}, {"boot": []})),
        *(line(2)[:-1].replace('"step": 2', f'"step": {wrong}') for wrong in ("Infinity", '"2"', "null")),
    ],
    ids=lambda text: text[:12],
)
def test_a_corrupt_line_is_named_the_rest_is_read_and_the_file_kept_aside(dead, strange):
    path = dead(line(1) + strange + "\n" + line(3))
    assert [step.number for step in journal.read(path).steps] == [1, 3]
    (said,) = replay.clean()
    assert f"{path}: line 2 cannot be read" in said and f"kept as {path}.corrupt" in said
    assert not path.exists() and path.with_name(path.name + ".corrupt").read_text() == line(1) + strange + "\n" + line(3)
    assert replay.clean() == []


@pytest.mark.parametrize(
    "row",
    [
        {},
        ROW | {"what": "spin"},
        ROW | {"cpus": "x"},
        ROW | {"found": [[1, 2]]},
        ROW | {"found": [["a", 1, 1, "0"]]},
        ROW | {"since": None, "found": 7},
        ROW | {"guest": "c1"},
        "row",
        *(ROW | {"cpus": wrong} for wrong in (5, None, "", [0])),
        *(ROW | {"who": wrong} for wrong in (7, None, True, ["tid 1"], "c1")),
        *(ROW | {"found": [wrong]} for wrong in (["4711", 4711, 7, "0"], [4711, 4711, 7, 0], [4711, 4711, 7, ""])),
        ROW | {"since": float("inf")},
        *(OF_GUEST | {"who": wrong} for wrong in (-1, 0.0, True, None, "emu", "tid 1")),
        *(OF_GUEST | {name: 5} for name in ("guest", "uri", "uuid", "known", "persistent", "defined")),
        OF_GUEST | {"pid": "1"},
        *(SHARES | {name: wrong} for name in ("wanted", "known") for wrong in (5, {"cpu_shares": "1"}, {"cpu_shares": 1 << 70})),
        *(SHARES | wrong for wrong in ({"known": {}}, {"pid": None}, {"guest": None})),
    ],
)
def test_json_that_is_no_row_of_ours_is_as_corrupt(dead, row):
    path = dead(line(1) + line(2, rows=[row]))
    assert "line 2 cannot be read" in replay.clean()[0] and not path.exists()


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


def moved(pid: int, before: list[int], cpus: list[int]) -> dict:
    """The row of one that moved a process, which now is there."""
    os.sched_setaffinity(pid, cpus)
    found = [[pid, pid, read_stat(ROOT, pid, pid).start_ticks, cpulist.format(before)]]
    return ROW | {"who": f"tid {pid}", "cpus": cpulist.format(cpus), "found": found}


@two
@pytest.mark.parametrize("files", [1, 2])
def test_a_clock_that_was_set_back_loses_no_original(dead, child, files):
    first, then = moved(child, CPUS, CPUS[:1]), moved(child, CPUS[:1], CPUS[-1:])
    lines = line(1, at=9e9, rows=[first]), line(2, at=1e9, rows=[then])
    for number in range(files):
        dead("".join(lines[number::files]), f"9999999{number}-1-x-{journal.machine()}-y.jsonl")
    assert len(journal.left_behind()) == files and replay.clean() == [f"Put back what a killed process had changed: tid {child}."]
    assert os.sched_getaffinity(child) == set(CPUS)


@two
def test_what_is_left_alone_is_tried_again_while_another_process_may_put_it_back(dead, child):
    """One moved it, another moved it on; the first is killed, and the other goes back to what it found."""
    other = Journal()
    path = dead(line(1, rows=[moved(child, CPUS, CPUS[:1]), ROW]))
    step = other.begin([moved(child, CPUS[:1], CPUS[-1:])])
    for _ in range(2):
        (said,) = replay.clean()
        assert said.startswith(f"Not put back yet, for another process of yours may have changed it since: tid {child}: thread {child} may")
        assert [len(step.rows) for step in journal.read(path).steps] == [1] and os.sched_getaffinity(child) == set(CPUS[-1:])
    os.sched_setaffinity(child, CPUS[:1])
    other.end(step)
    assert "Put back" in replay.clean()[0] and os.sched_getaffinity(child) == set(CPUS) and not path.exists()


@two
def test_what_is_left_alone_goes_with_its_journal_when_nobody_else_runs(dead, child):
    path = dead(line(1, rows=[moved(child, CPUS, CPUS[:1])]))
    os.sched_setaffinity(child, CPUS[-1:])
    assert "Left alone, for somebody else" in replay.clean()[0] and not path.exists()


def test_the_journal_of_another_machine_is_never_touched(dead):
    """A home may be shared: processes of other machines are not seen here."""
    path = dead(line(1) + "{\n", "99999999-1-x-another0-y.jsonl")
    assert replay.clean() == [] and path.read_text() == line(1) + "{\n"


def test_what_is_handed_over_is_left_behind_though_its_process_runs(place):
    book = Journal()
    book.begin([ROW])
    book.hand_over()
    (left,) = journal.left_behind()
    assert left.steps[0].rows[0]["who"] == ROW["who"] and book.path is None
    book.begin([ROW])
    assert len(journal.left_behind()) == 1 and len(os.listdir(place)) == 2


def test_a_libvirt_that_does_not_answer_keeps_the_journal_for_the_next_time(dead):
    row = OF_GUEST | {"pid": os.getpid(), "start_ticks": -1, "persistent": True}
    path = dead(line(1) + line(2, rows=[row | {"uri": "qemu+unix:///system?socket=/nowhere"}]) + '{"torn')
    (said,) = replay.clean()
    assert "Not put back, and kept for the next time: libvirt does not answer" in said
    assert [step.number for step in journal.read(path).steps] == [2] and not journal.read(path).strange


def test_bytes_that_are_no_text(dead):
    path = dead("")
    path.write_bytes(b"\xff\xfe\n" + line(2).encode())
    left = journal.read(path)
    assert left.strange == (1,) and [step.number for step in left.steps] == [2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_the_journal_of_another_user_is_never_touched(dead):
    path = dead(line(1) + "{\n")
    os.chown(path, 65534, 65534)
    assert replay.clean() == [] and path.read_text() == line(1) + "{\n"


def test_a_link_is_not_followed(dead, tmp_path):
    target = tmp_path / "elsewhere"
    target.write_text(line(1))
    dead("").unlink()
    (journal.folder() / f"99999999-1-x-{journal.machine()}-y.jsonl").symlink_to(target)
    assert replay.clean() == [] and target.exists()


def test_a_state_folder_of_somebody_else_is_not_used(monkeypatch, tmp_path):
    usual = "/var/lib/kvmlab/journal" if os.geteuid() == 0 else os.path.expanduser("~/.local/state/kvmlab/journal")
    for strange in ("relative", str(tmp_path / "missing"), "/proc/1" if os.geteuid() else "/nowhere"):
        monkeypatch.setenv("XDG_STATE_HOME", strange)
        assert str(journal.folder()) == usual


def test_a_folder_that_others_may_write_to_takes_no_journal(place):
    place.mkdir(parents=True)
    place.chmod(0o777)
    with pytest.raises(PinError, match="others may write there"):
        Journal().begin([ROW])


def test_a_disk_that_is_full_leaves_no_half_a_line(place, monkeypatch):
    book = Journal()
    book.begin([ROW])
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:10]))
    with pytest.raises(PinError, match=r"Nothing was changed: the undo journal in .* no space"):
        book.begin([ROW])
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(place.parent.parent))
    assert book.begin([ROW]) == 3
    assert [step.number for step in journal.read(book.path).steps] == [1, 3] and not journal.read(book.path).strange


def test_a_failing_sync_is_an_error_before_the_change(monkeypatch):
    def fails(_file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(PinError, match="Input/output error"):
        Journal().begin([ROW])


def test_the_lock_keeps_others_out_and_says_so_when_it_takes_too_long(place, monkeypatch):
    monkeypatch.setattr(journal, "PATIENCE_S", 0.05)
    with journal.locked():
        raised = []

        def other():
            with (
                pytest.raises(PinError, match=r"Nothing was changed: another process .*lock \(fuser names it\)") as caught,
                journal.locked(),
            ):
                pass
            raised.append(caught.value)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(raised) == 1
        with open(place / "lock", "rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with journal.locked():
        pass


def test_without_a_folder_nothing_is_locked_and_nothing_of_others_can_be_changed(monkeypatch, tmp_path):
    (tmp_path / "kvmlab").write_text("a file where the folder should be")
    with journal.locked():
        pass
    with pytest.raises(PinError, match="cannot be written"):
        Journal().begin([ROW])


def test_the_terminal_says_that_there_is_nothing(capsys):
    assert cli.main(["doctor", "--clean"]) == 0 and "nothing to put back" in capsys.readouterr().out
    assert cli.main(["doctor", "--clean", "--json"]) == 1 and "leave --host and --json out" in capsys.readouterr().err
