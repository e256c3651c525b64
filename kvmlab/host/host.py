"""class Host: what this machine is and runs, as frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmlab.columns import documents, frame
from kvmlab.host import threads, topology
from kvmlab.host.sysroot import SysRoot

if TYPE_CHECKING:
    import pandas as pd


class Host:
    """This Linux machine.

    Examples
    --------
    >>> Host().cpus()[["cpu", "socket", "core", "smt"]].head(1)
       cpu  socket  core  smt
    0    0       0     0    0
    """

    def __init__(self) -> None:
        self.root = SysRoot("/")

    def __repr__(self) -> str:
        return f"Host: {len(topology.online_cpus(self.root))} CPUs online"

    @documents("threads")
    def threads(self) -> pd.DataFrame:
        """One row a thread, as `ps -eL` lists them; threads that end while they are read are left out.

        Examples
        --------
        >>> list(Host().threads().query("tid == 2").comm)
        ['kthreadd']

        """
        return frame(threads.rows(self.root), "threads")

    @documents("cpus")
    def cpus(self) -> pd.DataFrame:
        """One row a host CPU that the kernel knows, offline ones too (their topology is NA).

        Examples
        --------
        >>> list(Host().cpus().columns[:4])
        ['cpu', 'online', 'node', 'socket']

        """
        return frame(topology.rows(self.root), "cpus")
