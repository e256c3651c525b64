"""Exercises of 06_affinity."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from kvmlab.course import look
from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs
from kvmlab.errors import CourseError, KvmlabError
from kvmlab.host import cpulist
from kvmlab.host.host import Host

if TYPE_CHECKING:
    import pandas as pd

_BIG = "x86_64-4n4s16c2t"
_MOST = 6  # processes that the slider has
_BY_RULE = 4, 25.0  # loops on the one CPU that is left, and what each gets, where no Linux guest can be booted
_GREP_S = 5


@exercise(
    "06.1",
    "A pattern that finds CPU 1 only",
    hints=(
        "ps writes the number at the right of its column: '  1'. The whole line has to be what you look for.",
        "^ is where a line begins, and $ where it ends; ' *' are spaces, as many as there are.",
    ),
    wants="a pattern for grep",
)
def pattern(labs: Labs, answer: str) -> Iterator[Finding]:
    if not isinstance(answer, str):
        raise TypeError
    psr = [int(cpu) for cpu in look.recorded(_BIG).threads().cpu]
    lines = ["PSR", *(f"{cpu:3d}" for cpu in psr)]
    kept = _grep(answer, lines)
    right, others = [line for line in kept if line == "  1"], sorted({line for line in kept if line != "  1"})
    yield Finding(len(right) == psr.count(1), f"It keeps {len(right)} of the {psr.count(1)} threads on CPU 1.")
    more = f"It also keeps {', '.join(line.strip() for line in others[:5])}{', ...' if len(others) > 5 else ''}"
    yield Finding(not others, f"{more if others else 'It keeps nothing else'}.")


def _grep(wanted: str, lines: list[str]) -> list[str]:
    """What grep itself keeps; where there is none, what Python does."""
    if not shutil.which("grep"):
        return [line for line in lines if re.search(wanted, line)]
    text = "\n".join(lines) + "\n"
    run = subprocess.run(["grep", "-e", wanted], input=text, capture_output=True, text=True, timeout=_GREP_S)
    if run.returncode > 1:
        raise CourseError(f"grep says: {run.stderr.strip()}")
    return run.stdout.splitlines()


@exercise(
    "06.2",
    "A busy process of yours, bound to one CPU",
    hints=(
        "start(1) starts one that is busy until it has used 300 s of CPU time; its pid is the answer.",
        "os.sched_setaffinity(pid, {cpu}), taskset -pc CPU PID, or a plan of {f'pid {pid}': cpu}: each of them binds it.",
    ),
    wants="the number of a process (pid)",
)
def bound(labs: Labs, answer: int) -> Iterator[Finding]:
    yield from busy_process(int(answer))
    threads = Host().affinity(int(answer))
    allowed = frozenset().union(*(cpulist.parse(cpus) for cpus in threads.allowed_cpus))
    told = f"The kernel lets it use CPU{'s' * (len(allowed) > 1)} {cpulist.format(allowed)}"
    yield Finding(len(allowed) == 1, f"{told}{' only' if len(allowed) == 1 else ''}.")


def busy_process(pid: int) -> Iterator[Finding]:
    """It is a process of the reader's that wants a CPU."""
    threads = Host().threads()
    mine = threads[threads.pid == pid]
    if mine.empty or pid == os.getpid():
        raise CourseError(f"{pid} is {'this Python itself' if len(mine) else 'no process, or it has ended'}: start one that is busy.")
    owner = os.stat(f"/proc/{pid}").st_uid
    yield Finding(owner == os.geteuid(), f"Process {pid}, '{mine.comm.iloc[0]}', is {'yours' if owner == os.geteuid() else 'not yours'}.")
    ready = mine.state.eq("R").any()
    yield Finding(bool(ready), f"It is {'ready or running' if ready else f'asleep (state {mine.state.iloc[0]}): it wants no CPU'}.")


@exercise(
    "06.3",
    "Two ways to give one process a CPU, while others share",
    hints=(
        "All pinned ones are on the same CPU. Who is free goes where there is room.",
        "How many may be free, so that one is alone on the other CPU? And how many have to be pinned, so that somebody shares?",
    ),
    wants="two pairs (processes, pinned), such as [(2, 1), (6, 3)]",
)
def alone(labs: Labs, answer) -> Iterator[Finding]:
    ways = {(int(processes), int(pinned)) for processes, pinned in answer}
    yield Finding(len(ways) >= 2, f"{len(ways)} different way{'s' * (len(ways) != 1)}.")
    for processes, pinned in sorted(ways):
        if not 0 <= pinned <= processes <= _MOST or not processes:
            raise CourseError(f"({processes}, {pinned}): the slider has 1 to {_MOST} processes, and no more of them can be pinned.")
        runs = _runs(processes, pinned)
        ok = max(runs) == 1 and min(runs) < 1
        told = ", ".join(f"{100 * float(run):.0f} %" for run in runs)
        yield Finding(ok, f"{processes} processes, {pinned} of them pinned, get by the model: {told}.")


def _runs(processes: int, pinned: int) -> list:
    """What each gets of two CPUs, by the model of lesson 04; first those that are pinned."""
    from kvmlab.measure import fairshare

    cpus = [frozenset({1})] * pinned + [frozenset({0, 1})] * (processes - pinned)
    return [share.run for share in fairshare.shares([fairshare.Task(str(n), where) for n, where in enumerate(cpus)], grouped=False)]


@exercise(
    "06.4",
    "Four loops, with CPUs 1 to 3 isolated",
    hints=(
        "Whoever is not told otherwise runs on the CPUs that are not isolated: which are left of 0-3?",
        "boot_isolated('1-3', on='2-3').loops is what the checker looks at; cpu and share have the answer.",
    ),
    wants="(loops on CPU 0, percent of a CPU that each of them gets)",
)
def isolated(labs: Labs, answer) -> Iterator[Finding]:
    loops, percent = int(answer[0]), float(answer[1])
    (count, part), how = _isolated_loops()
    yield Finding(loops == count, f"{loops} loops on CPU 0 {'is right' if loops == count else 'it is not'}, {how}.")
    close = abs(percent - part) < 5
    yield Finding(
        close, f"{percent:.0f} % for each {'is right' if close else 'is too much' if percent > part else 'is too little'}, {how}."
    )


@cache
def _isolated_loops() -> tuple[tuple[int, float], str]:
    """How many loops were on CPU 0 and what share of a CPU each had there; booted once, for it takes some seconds."""
    try:
        loops = _boot()
    except KvmlabError:
        return _BY_RULE, "by the rule, for no Linux guest could be booted here"
    on_0 = loops[loops.cpu == 0]
    return (len(on_0), 100 * float(on_0.share.mean())), "as booted just now"


def _boot() -> pd.DataFrame:
    from kvmlab.guest.isolated import boot_isolated

    return boot_isolated("1-3", on="2-3").loops


@exercise(
    "06.5",
    "The thread that moved most often",
    hints=(
        "everyone has a column migrations: the kernel's own count since the thread was started.",
        "everyone.sort_values('migrations') has it at the end. It is likely one that wakes up very often.",
    ),
    wants="the number of a thread (tid)",
)
def restless(labs: Labs, answer: int) -> Iterator[Finding]:
    host = Host()
    everyone = host.affinity(*host.threads().tid).dropna(subset=["migrations"]).set_index("tid")
    if int(answer) not in host.threads().tid.to_numpy():
        raise CourseError(f"There is no thread {int(answer)}: it may have ended.")
    if everyone.empty:
        yield from _counts_nothing(host, int(answer))
        return
    counts = everyone.migrations
    mine = int(counts.get(int(answer), 0))
    more = int((counts > 1.2 * mine + 10).sum())  # they go on moving while you look
    told = f"{everyone.comm.get(int(answer), 'It')} moved {mine} times since it was started"
    yield Finding(not more, f"{told}; {f'{more} threads have moved much more often' if more else 'none has moved much more often'}.")


def _counts_nothing(host: Host, tid: int) -> Iterator[Finding]:
    one = host.affinity(tid).iloc[-1]
    yield Finding(bool(one.movable), "This kernel does not count moves (CONFIG_SCHED_DEBUG): any thread counts that can be moved.")
