"""class Host: what a Linux machine is and runs, as frames; this machine, or a recorded one."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kvmlab.columns import FRAMES, documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.host import affinity, caches, cputime, flags, isolation, kvm, numa, support, threads, topology
from kvmlab.host.cpusets import online_cpus
from kvmlab.host.recording import Recording
from kvmlab.host.sysroot import SysRoot

if TYPE_CHECKING:
    import pandas as pd

_RECORDED = "Host.open('big.tar.xz') reads a recorded one anywhere; on Linux, kvmlab record makes it."


class Host:
    """This Linux machine; ``Host.open`` gives a recorded one.

    Each frame's ``attrs["host"]`` says whose it is, and ``attrs["unavailable"]`` why a column has no value.

    Examples
    --------
    >>> Host().cpus()[["cpu", "socket", "core", "smt"]].head(1)
       cpu  socket  core  smt
    0    0       0     0    0
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise KvmlabError(f"Host() reads /proc and /sys of a Linux machine, and this is {platform.system()}. {_RECORDED}")
        self.root = SysRoot("/")
        self.name = "this machine"

    @classmethod
    def open(cls, path: str | os.PathLike) -> Host:
        """A recorded machine: a folder or a tar archive (.gz, .bz2, .xz) that holds proc/ and sys/ at any depth.

        Recordings by `record`, and those that lscpu's and hwloc's gather scripts make.

        Raises
        ------
        RecordingError
            For what is no such recording, is damaged, too large, or reaches outside of itself. Nothing is written.

        Examples
        --------
        >>> Host.open("big.tar.xz").cpus()                        # doctest: +SKIP
        """
        host = cls.__new__(cls)
        host.root = Recording(path)
        host.name = os.path.basename(os.fspath(path).rstrip("/"))
        return host

    def __repr__(self) -> str:
        return f"Host: {self.name}, {len(online_cpus(self.root))} CPUs online"

    @documents("support")
    def support(self) -> pd.DataFrame:
        """What KVM needs and what it will find here: one row a check. On this machine it also times guest code (some 20 ms).

        In a recording, what only the machine itself can tell is as it was when it was recorded, or unknown.

        Examples
        --------
        >>> Host().support().query("status == 'fail'")[["check", "found", "advice"]]        # doctest: +SKIP

        """
        return self._frame("support", support.rows)

    @documents("flags")
    def flags(self) -> pd.DataFrame:
        """One row a CPU flag, with the host CPUs that have it: where CPUs differ, it shows here.

        Examples
        --------
        >>> Host().flags().query("group == 'virtualization'")                               # doctest: +SKIP

        """
        return self._frame("flags", flags.rows)

    @documents("kvm")
    def kvm(self) -> pd.DataFrame:
        """One row a parameter of KVM's kernel modules.

        Examples
        --------
        >>> Host().kvm().query("parameter == 'halt_poll_ns'")                               # doctest: +SKIP

        """
        return self._frame("kvm", kvm.rows)

    @documents("cpus")
    def cpus(self) -> pd.DataFrame:
        """One row a host CPU that the kernel knows, offline ones too (their topology is NA).

        Examples
        --------
        >>> list(Host().cpus().columns[:4])
        ['cpu', 'online', 'node', 'socket']

        """
        return self._frame("cpus", topology.rows)

    @documents("caches")
    def caches(self) -> pd.DataFrame:
        """One row a cache of the online host CPUs.

        Examples
        --------
        >>> Host().caches().query("level == 3")[["size_kib", "cpus"]]                       # doctest: +SKIP

        """
        return self._frame("caches", caches.rows)

    @documents("nodes")
    def nodes(self) -> pd.DataFrame:
        """One row a NUMA node, those without CPUs or without memory too.

        Examples
        --------
        >>> Host().nodes()[["node", "cpus", "mem_free_kib"]]                                # doctest: +SKIP

        """
        return self._frame("nodes", numa.rows)

    def distances(self) -> pd.DataFrame:
        """How far each NUMA node's memory is: a row for the node that asks, a column for the node that has it; 10 is its own.

        Source: nodeN/distance. Int64, NA where the kernel does not say.

        Examples
        --------
        >>> Host().distances().loc[0, 0]                                                    # doctest: +SKIP
        10
        """
        import pandas as pd

        nodes, rows = numa.distances(self.root)
        result = pd.DataFrame(rows, index=pd.Index(nodes, name="node"), columns=pd.Index(nodes, name="to"), dtype="Int64")
        result.attrs = {"unavailable": {}, "host": self.name}
        return result

    @documents("threads")
    def threads(self, affinity: bool = False) -> pd.DataFrame:
        """One row a thread, as `ps -eL` lists them; threads that end while they are read are left out.

        Parameters
        ----------
        affinity : bool
            Also read the CPUs that each thread may use: one more file a thread.

        Examples
        --------
        >>> Host().threads().query("tid == 1").ppid.tolist()
        [0]

        """
        reasons = {} if affinity else {"allowed_cpus": "not asked for: threads(affinity=True)"}
        if not self.root.live:
            reasons |= {"args": "command lines are not recorded"}
        return self._frame("threads", threads.rows, affinity, unavailable=reasons)

    @documents("threads_per_cpu")
    def threads_per_cpu(self) -> pd.DataFrame:
        """How many threads of each kind last ran on each host CPU.

        Examples
        --------
        >>> Host().threads_per_cpu().query("kind == 'migration'")                           # doctest: +SKIP

        """
        return self._frame("threads_per_cpu", lambda root: threads.per_cpu_rows(threads.rows(root)))

    @documents("affinity")
    def affinity(self, *ids: int) -> pd.DataFrame:
        """Where threads may run, where they are, and how often they moved: one row a thread.

        ``attrs["migrations"]`` says by what they were counted. ``measure.follow(lambda: host.affinity(pid))`` repeats it, and
        ``measure.thread_moves`` counts what changed, also where the kernel counts no migrations.

        Parameters
        ----------
        *ids : int
            A process, for all of its threads, or a thread, for itself alone. Of several, those that ended are left out.

        Raises
        ------
        ThreadError
            For what is no number of a process or thread, or where there is none of them.

        Examples
        --------
        >>> Host().affinity(1)[["comm", "cpu", "allowed_cpus", "movable", "migrations"]]    # doctest: +SKIP

        """
        result = self._frame("affinity", affinity.rows, ids, unavailable=affinity.unavailable(self.root))
        result.attrs["migrations"] = affinity.COUNTED if result["migrations"].notna().any() else affinity.NOT_COUNTED
        return result

    @documents("cpu_times")
    def cpu_times(self) -> pd.DataFrame:
        """One row an online host CPU: what it did with its time since boot. ``measure.follow(host.cpu_times)`` repeats it.

        Examples
        --------
        >>> bool((Host().cpu_times()["idle_s"] > 0).all())
        True

        """
        return self._frame("cpu_times", cputime.rows)

    @documents("isolation")
    def isolation(self) -> pd.DataFrame:
        """One row a host CPU: what is kept away from it, and which interrupts go there.

        Examples
        --------
        >>> Host().isolation()[["cpu", "isolcpus", "irqs"]]                                 # doctest: +SKIP

        """
        return self._frame("isolation", isolation.rows)

    def record(self, path: str | os.PathLike) -> dict:
        """Write what the frames above need into one small archive, without names, serial numbers, addresses and command lines.

        Parameters
        ----------
        path : str
            Ends in .tar, .tar.gz, .tar.bz2 or .tar.xz. A file that is there is replaced once the new one is complete.

        Returns
        -------
        dict
            The manifest that is also in the archive: how many files, what was scrubbed, what could not be read.

        Raises
        ------
        RecordingError
            For another ending, or a place that cannot be written to.

        Examples
        --------
        >>> Host().record("me.tar.xz")["scrubbed"]                                          # doctest: +SKIP
        """
        from kvmlab.host.recorder import record

        return record(self, path)

    def _frame(self, kind: str, rows: Callable[..., Iterable[tuple]], *how, unavailable: dict[str, str] | None = None) -> pd.DataFrame:
        self.root.refused.clear()
        result = frame(rows(self.root, *how), kind, unavailable)
        reasons = result.attrs["unavailable"]
        if not self.root.live:
            reasons |= {column: why.replace("this machine gives none", "not in this recording") for column, why in reasons.items()}
            reasons |= {} if len(result) else {column: f"nothing of this is in {self.name}" for column in result}
        reasons |= _refusals(self.root.refused, kind, result)
        result.attrs["host"] = self.name
        return result


def _refusals(refused: set[str], kind: str, result: pd.DataFrame) -> dict[str, str]:
    """The reason of each column whose source names a file that may not be read."""
    found = {}
    for path in sorted(refused, reverse=True):
        name = path.rpartition("/")[2]
        for column in FRAMES[kind]:
            if name in re.split(r"[^\w.]+", column.source) and result[column.name].isna().any():
                found[column.name] = f"no permission to read /{path}"
    return found
