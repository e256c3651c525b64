"""What checkers of several lessons look at: recorded hosts, who may run where, guests of their own, and who was in the way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.course.exercise import Finding
from kvmlab.course.labs import Labs
from kvmlab.errors import CourseError
from kvmlab.host import cpulist
from kvmlab.host.host import Host

if TYPE_CHECKING:
    from kvmlab.guest.guest import Guest
    from kvmlab.guest.lab import GuestLab

Places = dict[tuple[str, int | str] | str, frozenset[int]]  # what lab.plan takes, with sets of CPUs
PARK = "x86_64-2n2s4c2t-offline"  # the recorded host for plans that this machine cannot carry out
QUIET = 0.1  # of a CPU: who measures beside more of somebody else measures that


def recorded(name: str) -> Host:
    """A recorded host of the repository that the notebooks stand in.

    Raises
    ------
    CourseError
        Where it is not found.
    """
    inside = f"tests/hosts/{name}.tar.xz"
    for folder in (Path.cwd(), *Path.cwd().parents, *Path(__file__).parents):
        if (folder / inside).exists():
            return Host.open(folder / inside)
    raise CourseError(f"{inside} is not found from {Path.cwd()} upwards: run the notebook from the folder notebooks/ that it came in.")


def own_lab(labs: Labs) -> GuestLab:
    """The Lab to measure with: the one that has most guests.

    Raises
    ------
    CourseError
        Where none is open.
    """
    if not labs.open:
        raise CourseError("No Lab is open: run the first cells of the notebook, or lab = Lab().")
    return max(labs.open, key=lambda lab: (len(lab.own), lab.accel == "kvm"))


@contextmanager
def own_guests(lab: GuestLab, *vcpus: int) -> Iterator[list[Guest]]:
    """Guests of so many vCPUs each, for as long as a look takes; the reader's keep their names and their work."""
    with ExitStack() as stack:
        guests = []
        for number, count in enumerate(vcpus, 1):
            guests.append(lab.start(f"check-{os.getpid()}-{number}", vcpus=count))
            stack.callback(guests[-1].destroy)
        yield guests


def somebody_else(others: float, cpus: object) -> Iterator[Finding]:
    """What is to be said where a measurement was not alone."""
    if others > QUIET:
        yield Finding(False, f"Somebody else took {others:.2f} of CPU {cpus} meanwhile: check once more when it is quiet.")


# ---- who may run where


def live(labs: Labs, *guests: str) -> Places:
    """Where the kernel lets the vCPUs and the emulator of these guests run, of each thread by itself."""
    found: Places = {}
    for guest in guests:
        process = labs.guest(guest).process.look()
        found |= {(guest, vcpu): frozenset(os.sched_getaffinity(tid)) for vcpu, tid in sorted(process.vcpus.items())}
        found[guest, "emulator"] = frozenset().union(*(os.sched_getaffinity(tid) for tid in process.emulator))
    return found


def planned(plan: Mapping, host: Host) -> Places:
    """A plan for another host than this, in the same words.

    Raises
    ------
    CourseError
        For what is no plan, and for CPUs that are not online there.
    """
    if not isinstance(plan, Mapping) or not plan or not all(isinstance(key, str) or _is_a_guests(key) for key in plan):
        raise CourseError(f"{plan!r:.60} is no plan: write such as {{('c1', 0): '1', ('c1', 'emulator'): '4-5'}}.")
    online = {int(cpu) for cpu in host.cpus().query("online").cpu}
    places = {key: frozenset(cpulist.parse(str(cpus))) for key, cpus in plan.items()}
    for key, cpus in places.items():
        if not cpus or not cpus <= online:
            raise CourseError(f"{words(key)}: '{cpulist.format(cpus)}' is not among the online CPUs {cpulist.format(online)} of that host.")
    return places


def _is_a_guests(key: object) -> bool:
    return isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str) and isinstance(key[1], int | str)


def words(key: tuple[str, int | str] | str) -> str:
    """Who a line of a plan means: "c1 vCPU 0", "c1 emulator", "pid 4711".

    >>> words(("c1", 0)), words(("c1", "emulator"))
    ('c1 vCPU 0', 'c1 emulator')
    """
    return key if isinstance(key, str) else f"{key[0]} {f'vCPU {key[1]}' if isinstance(key[1], int) else key[1]}"


def one_cpu(places: Places, *keys: tuple[str, int | str]) -> Iterator[Finding]:
    """Each of them may use one CPU and no other."""
    for key in keys:
        where = cpulist.format(places[key])
        only = len(places[key]) == 1
        yield Finding(only, f"{words(key)} may use CPU{'' if only else 's'} {where}{' only' if only else ': give it one of them'}.")
