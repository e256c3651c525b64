"""Exercises of 00_start_here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kvmlab import measure
from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs
from kvmlab.host.host import Host
from kvmlab.wording import count


@exercise(
    "00.1",
    "The thread of c1's vCPU 1",
    hints=(
        "Each row of lab.vcpus() is a vCPU; its column tid is the thread.",
        "ps -L -p PID -o lwp,comm lists the threads of a process, and c1.process.pid is c1's. QEMU names a vCPU's thread 'CPU n/...'.",
    ),
    wants="a thread's number (tid)",
)
def thread(labs: Labs, answer: int) -> Iterator[Finding]:
    tid = int(answer)
    pid = labs.guest("c1").process.pid
    comm = Path(f"/proc/{pid}/task/{tid}/comm")
    yield Finding(comm.exists(), f"Thread {tid} is {'one' if comm.exists() else 'none'} of c1's process {pid}.")
    if comm.exists():
        name = comm.read_text().strip()
        yield Finding(name.startswith("CPU 1/"), f"The kernel knows it as '{name}'.")


@exercise(
    "00.2",
    "A recording of this machine",
    hints=(
        "host.record('me.tar.xz') writes one, and says where.",
        "The answer is where the file is: 'me.tar.xz', if you did not say otherwise.",
    ),
    wants="the path of a recording, such as 'me.tar.xz'",
)
def recording(labs: Labs, answer: str) -> Iterator[Finding]:
    here, there = Host(), Host.open(os.fspath(answer))
    ours, theirs = len(here.cpus()), len(there.cpus())
    yield Finding(ours == theirs, f"It has {theirs} CPUs, and this machine {ours}.")
    same = here.cpus()[["socket", "die", "core", "smt"]].equals(there.cpus()[["socket", "die", "core", "smt"]])
    yield Finding(same, f"They sit {'in the same' if same else 'in other'} sockets, dies and cores.")
    differ = sorted(set(here.flags().flag) ^ set(there.flags().flag))
    yield Finding(not differ, f"Their flags {f'differ in {len(differ)}, such as {differ[0]}' if differ else 'are the same'}.")


@exercise(
    "00.3",
    "What a recording does not tell of threads",
    hints=(
        "recorded = Host.open('me.tar.xz').threads() has the columns of host.threads(). Count what is missing: recorded.isna().sum()",
        "recorded.attrs['unavailable'] says, column by column, why there are values missing. One of them is there on this machine.",
    ),
    wants="the name of a column of host.threads()",
)
def left_out(labs: Labs, answer: str) -> Iterator[Finding]:
    here = Host().threads()
    if answer not in here.columns:
        raise LookupError
    with tempfile.TemporaryDirectory() as folder:
        Host().record(path := Path(folder, "me.tar.xz"))
        there = Host.open(path).threads()
    live, kept = (float(frame[answer].isna().mean()) for frame in (here, there))
    yield Finding(live < 0.1, f"This machine lacks {answer!r} of {100 * live:.0f} % of {len(here)} threads.")
    yield Finding(kept > live + 0.1, f"A recording of it lacks it of {100 * kept:.0f} % of {len(there)}.")


@exercise(
    "00.4",
    "Three vCPUs, of which only the last works",
    hints=(
        "lab.start('three', vcpus=3) starts it, and its vCPUs are numbered from 0.",
        "three.work('spin', vcpus=2) is for vCPU 2 alone; the others stay idle, as they were at the start.",
    ),
)
def only_the_last(labs: Labs, answer: None) -> Iterator[Finding]:
    guest = labs.guest("three")
    yield Finding(guest.vcpus == 3, f"'three' has {count(guest.vcpus, 'vCPU')}.")
    book = measure.ledger(measure.sample(guest, 0.5, hz=20))
    for row in book.itertuples():  # what it waited it would have run, had this machine fewer others
        wanted = (row.run_s + row.run_delay_s) / row.seconds
        last = row.vcpu == 2
        yield Finding(
            wanted > 0.5 if last else wanted < 0.2, f"vCPU {row.vcpu} wanted a host CPU for {100 * wanted:.0f} % of half a second."
        )
