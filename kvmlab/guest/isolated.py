"""isolcpus for real: the Linux guest booted with it or without, and where its kernel then puts threads that are busy.

Sources: Documentation/admin-guide/kernel-parameters.txt (isolcpus), scheduler/sched-domains.rst: balancing works within scheduling
domains, and isolated CPUs are in none.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.columns import frame
from kvmlab.errors import GuestError, PlanError
from kvmlab.guest.linux import LinuxImage, Shape, boot, find
from kvmlab.host import cpulist
from kvmlab.host.host import Host

if TYPE_CHECKING:
    import pandas as pd

_CPUS = 4
# printf, for a name's line end would become part of it. What a thread is asked for while it ends is left out.
_SCRIPT = r"""
LOOP='printf busy > /proc/$$/comm; while :; do :; done'
keep() {
    to=/tmp/kept/$1; shift; mkdir -p $to; cd /
    cp --parents proc/cmdline sys/devices/system/cpu/online sys/devices/system/cpu/isolated $to
    for pid in "$@"; do echo proc/$pid/status; for file in stat status sched schedstat; do echo proc/$pid/task/$pid/$file; done; done |
        xargs cp --parents -t $to 2> /dev/null
}
look() { keep $1-1 $2; sleep .7; keep $1-2 $2; kill $2; }
keep rest $(cd /proc; echo [0-9]*)
cp --parents proc/irq/[0-9]*/*_affinity_list /tmp/kept/rest
cp -dR --parents sys/devices/system/cpu/cpu[0-9]* /tmp/kept/rest 2> /dev/null
for n in 1 2 3 4; do sh -c "$LOOP" & done
sleep .7; look floating "$(pidof busy)"
taskset MASK sh -c "sh -c '$LOOP' & sh -c '$LOOP' & wait" 2> /dev/null &
sleep .7; look pinned "$(pidof busy)"
cd /tmp/kept
for step in *; do tar c -C $step -f $step.tar proc sys; done
tar c *.tar | gzip -1
"""


@dataclass(frozen=True)
class Booted:
    """A Linux guest with four CPUs, as it was.

    Attributes
    ----------
    isolcpus : str
        What its kernel was told.
    host : Host
        The guest at rest, as any recorded machine: ``host.isolation()``, ``host.threads_per_cpu()``, ``host.threads(affinity=True)``.
    loops : DataFrame
        Busy loops in it, a row each ("loops" in columns.txt): four that were just started; then two, children of one process
        that ``taskset`` had put on two CPUs.
    """

    isolcpus: str
    host: Host
    loops: pd.DataFrame


def boot_isolated(isolcpus: str = "", on: str = "1-2", image: LinuxImage | None = None) -> Booted:
    """Boot the Linux guest with four CPUs under TCG, start busy loops in it and see where they run. Takes some seconds.

    Parameters
    ----------
    isolcpus : str
        The CPUs to isolate; none when empty.
    on : str
        The CPUs on which the last two loops are started.
    image : LinuxImage, optional
        The one of ``kvmlab build-linux-guest`` by default.

    Raises
    ------
    PlanError
        For CPUs that the guest does not have, or where none would be left.
    GuestError
        Where there is no Linux guest, with what to type, or it does not answer.

    Examples
    --------
    >>> boot_isolated("1,2").loops[["started_on", "cpu", "share"]]        # doctest: +SKIP
    """
    isolated, wanted = _checked("isolcpus", isolcpus), _checked("on", on)
    if len(isolated) == _CPUS or not wanted:
        what = "isolcpus leaves no CPU to run on" if wanted else "on names no CPU"
        raise PlanError(f"isolcpus={isolcpus!r}, on={on!r}: {what}. The guest has CPUs 0-{_CPUS - 1}: write such as '1-2'.")
    word = f"isolcpus={cpulist.format(isolated)}" if isolated else ""
    mask = f"{sum(1 << cpu for cpu in wanted):x}"
    archive = boot(image or find(), Shape(cores=_CPUS, kernel=word), _SCRIPT.replace("MASK", mask), seconds=120)
    hosts = _opened(archive)
    told = cpulist.format(isolated)
    rows = [*_loops(told, "", hosts, "floating"), *_loops(told, cpulist.format(wanted), hosts, "pinned")]
    hosts["rest"].name = f"a Linux guest with {word or 'nothing isolated'}"
    return Booted(told, hosts["rest"], frame(rows, "loops"))


def _checked(name: str, cpus: str) -> tuple[int, ...]:
    found = cpulist.parse(str(cpus))
    if strange := [cpu for cpu in found if cpu >= _CPUS]:
        raise PlanError(f"{name}={cpus!r}: the guest has CPUs 0-{_CPUS - 1}, and no CPU {strange[0]}.")
    return found


def _opened(archive: bytes) -> dict[str, Host]:
    """What the guest kept each time, as a machine of its own."""
    try:
        with tempfile.TemporaryDirectory(prefix="kvmlab-") as scratch, tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            return {member.name.removesuffix(".tar"): _host(Path(scratch, "step.tar"), tar.extractfile(member).read()) for member in tar}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise GuestError(f"The Linux guest sent a broken archive of {len(archive)} bytes: try again.") from error


def _host(place: Path, data: bytes) -> Host:
    place.write_bytes(data)
    return Host.open(place)


def _loops(isolcpus: str, started_on: str, hosts: dict[str, Host], step: str) -> list[tuple]:
    """The loops of one step, from two looks: a loop never sleeps, so what it did not run, it waited."""
    first, last = (_affinity(hosts[f"{step}-{look}"]) for look in (1, 2))
    rows = []
    for tid in last.index:
        ran, waited, moves = (last.loc[tid, name] - first.loc[tid, name] for name in ("run_s", "run_delay_s", "migrations"))
        place = (last.loc[tid, "cpu"], last.loc[tid, "allowed_cpus"])
        rows.append(
            (isolcpus, started_on or last.loc[tid, "allowed_cpus"], tid, *place, moves, ran / (ran + waited), waited / (ran + waited))
        )
    return rows


def _affinity(host: Host) -> pd.DataFrame:
    return host.affinity(*host.root.numbered("proc")).set_index("tid")
