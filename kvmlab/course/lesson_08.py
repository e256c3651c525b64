"""Exercises of 08_tuning_report: on the host that kvmlab.course.mess has made noisy."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pandas as pd

from kvmlab.course import look, mess
from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs
from kvmlab.errors import CourseError
from kvmlab.host import cpulist
from kvmlab.host.host import Host

_LOOK_S, _BUSY = 0.5, 0.05  # of the time: who runs more than this, in whatever crowd, is in the way
_STOPS_S = 2.0  # a signal is seen once its thread has a CPU


@exercise(
    "08.1",
    "c1's vCPUs on a CPU each",
    hints=(
        "c1's vCPUs wait for each other's lock: they must be able to run at the same time.",
        "lab.plan({('c1', 0): '0', ('c1', 1): '1'}).apply(), with CPUs of this machine.",
    ),
)
def apart(labs: Labs, answer) -> Iterator[Finding]:
    places = look.live(labs, "c1")
    yield from look.one_cpu(places, ("c1", 0), ("c1", 1))
    shared = places["c1", 0] & places["c1", 1]
    told = f"both of them may use CPU {cpulist.format(shared)}, and are in each other's way there" if shared else "they never share one"
    yield Finding(not shared, f"Of their CPUs, {told}.")


@exercise(
    "08.2",
    "The process that has taken c1's CPU",
    hints=(
        "host.threads() twice, half a second apart: whose user_s has risen most, of those whose kind is not 'vcpu'?",
        "Is it busy, and may it use one CPU only? host.affinity(pid) says where it may run.",
    ),
    wants="the number of a process",
)
def stranger(labs: Labs, answer: int) -> Iterator[Finding]:
    pid, made = int(answer), mess.current()
    threads = Host().threads()
    mine = threads[threads.pid == pid]
    if mine.empty:
        yield Finding(False, f"There is no process {pid}.")
        return
    guests = set(made.lab.guests().pid)
    yield Finding(pid not in guests, f"Process {pid} ({mine.comm.iloc[0]}) is {'the QEMU of a guest' if pid in guests else 'no guest'}.")
    took = _took(pid, mine)
    yield Finding(took > _BUSY, f"It ran for {100 * took:.0f} % of the time just now.")
    yield Finding(pid == made.stranger, "It is the one that was put there." if pid == made.stranger else "Nobody put it there to be found.")


def _took(pid: int, before: pd.DataFrame) -> float:
    """The part of a CPU that a process takes, by looking twice."""
    time.sleep(_LOOK_S)
    after = Host().threads()
    after = after[after.pid == pid]
    return float((after.user_s + after.kernel_s).sum() - (before.user_s + before.kernel_s).sum()) / _LOOK_S


@exercise(
    "08.3",
    "The process leaves the CPU to the others, and can go on later",
    hints=(
        "There is no CPU to move it to, and its work is not yours to end. But it can be stopped, and go on another time.",
        "kill -STOP PID in a terminal, or os.kill(pid, signal.SIGSTOP), with the number of 08.2. SIGCONT lets it go on.",
    ),
)
def paused(labs: Labs, answer) -> Iterator[Finding]:
    pid = mess.current().stranger
    state = _settled(pid)
    if not state or state == ["Z"]:
        yield Finding(False, "The process has ended, and its work is lost. Run mess = noisy_host(lab, crowded=other) again.")
        return
    stopped = set(state) == {"T"}
    yield Finding(stopped, f"The process that was put there is {'stopped, and SIGCONT lets it go on' if stopped else 'still running'}.")


def _settled(pid: int) -> list[str]:
    """The states of its threads, once all are stopped or have had the time to."""
    end = time.monotonic() + _STOPS_S
    while True:
        threads = Host().threads()
        state = threads[threads.pid == pid].state.tolist()
        if set(state) <= {"T", "Z"} or time.monotonic() > end:
            return state
        time.sleep(0.1)


@exercise(
    "08.4",
    "c2 may have what it wants",
    hints=(
        "c2's CPU is not full, and c2 waits all the same: lab.schedinfo('c2') says why.",
        "lab.schedinfo('c2', vcpu_quota=-1) takes the quota off; so does virsh schedinfo c2 --live --set vcpu_quota=-1.",
    ),
)
def quota(labs: Labs, answer) -> Iterator[Finding]:
    row = labs.lab("c2").schedinfo("c2")
    if row.cpu_shares.isna()[0]:
        yield Finding(True, f"Nobody could limit it, nor need you lift it: {row.attrs['unavailable']['quota']}.")
        return
    limit = None if row.quota.isna()[0] else float(row.quota[0])
    enough = limit is None or limit >= mess.WANTS_PCT / 100
    yield Finding(
        enough, f"c2 may use {'all of a CPU' if limit is None else f'{100 * limit:.0f} % of a CPU'}; it wants {mess.WANTS_PCT} %."
    )


@exercise(
    "08.5",
    "The proof: a comparison of before and after",
    hints=(
        'mine_after = report.run("small/guests_now.ipynb", f"{place}/mine-after", looks), after everything is mended.',
        "report.compare(mine_before.path, mine_after.path): the earlier one first.",
    ),
    wants="what report.compare returned",
)
def proof(labs: Labs, answer) -> Iterator[Finding]:
    frame = getattr(answer, "frame", None)
    if not isinstance(frame, pd.DataFrame) or "differs" not in frame:
        raise CourseError(f"{answer!r:.60} is no comparison: it is what report.compare returns.")
    of_c1 = frame[frame.what.str.contains("guest c1,")]
    placed = of_c1[of_c1.differs & (of_c1.column == "allowed_cpus")].drop_duplicates("what")
    words = "; ".join(f"{row.what} from CPU {row.a} to {row.b}" for row in placed.itertuples())
    yield Finding(len(placed) > 0, f"A place of c1 differs: {words}." if words else "No place of c1 differs between the two reports.")
    got = of_c1[(of_c1.column == "run_pct") & of_c1.a.notna() & of_c1.b.notna()]
    words = "; ".join(f"{row.what} from {row.a} to {row.b} %, {_beyond(row)}" for row in got.itertuples())
    yield Finding(len(got) > 0, f"What c1's vCPUs ran: {words}." if words else "What c1's vCPUs ran was not measured in both.")


def _beyond(row: tuple) -> str:
    return "beyond noise" if row.differs else "within the noise that there was"
