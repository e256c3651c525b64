"""class Lab: the guests of kvmlab.guest, with what measures and shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmlab.columns import documents
from kvmlab.guest import two_hosts
from kvmlab.guest.lab import GuestLab
from kvmlab.guest.two_hosts import HostGuests

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from kvmlab.guest.guest import Guest
    from kvmlab.guest.migration import Move
    from kvmlab.widgets import PinCanvas

_MOVE_S = 3  # a move is shown, where somebody may be looking


class Lab(GuestLab):
    """A libvirt to start guests on, watch them, place them, and leave as it was found.

    Parameters
    ----------
    uri : str, optional
        libvirt's own default for you: qemu:///session for a user, qemu:///system for root (for whom the daemon is started
        where none listens).
    accel : {"auto", "kvm", "tcg"}
        What runs the lab guest. "auto" measures /dev/kvm first and takes KVM only where it runs the lab guest well.
    allow_changes : bool
        Also allow changes to guests that this Lab did not start.

    Raises
    ------
    ConnectError
        When libvirt does not answer; it says what to install or to type.

    Examples
    --------
    >>> with Lab() as lab:                                    # doctest: +SKIP
    ...     c1 = lab.start("c1", vcpus=2)
    ...     lab.plan({("c1", 0): "1"}).apply()
    """

    @documents("vcpus")
    def sample(self, seconds: float = 5, hz: float = 10, progress: bool | None = None) -> pd.DataFrame:
        """``lab.vcpus()`` again and again: `hz` times a second, for `seconds`. Ctrl-C ends it early and keeps what was sampled.

        ``attrs["missed"]`` counts the ticks that were skipped because the machine was too busy to keep up;
        ``measure.Sampler`` does the same in the background. `progress` shows how far it has come, in a terminal or notebook;
        by default for what takes longer than 2 s.

        """
        from kvmlab import measure

        return measure.sample(self, seconds, hz, progress)

    @documents("ratios")
    def overcommit(self, seconds: float = 1) -> pd.DataFrame:
        """How many vCPUs of running guests, started by this Lab or not, there are for the host CPUs that they may use.

        One row for the whole host, one for each NUMA node where there are several, and one for each other set of CPUs that
        vCPUs are pinned to. A vCPU that may use more than a set is not counted there, and may take of its CPUs all the same.

        Parameters
        ----------
        seconds : float
            How long to watch what the vCPUs ask for.

        Raises
        ------
        KvmlabError
            For a time that is none, or longer than an hour.

        Examples
        --------
        >>> lab.overcommit()[["set", "vcpus", "online", "ratio", "slack"]]    # doctest: +SKIP

        """
        from kvmlab.guest import ratios

        return self._frame(list(ratios.of_this_host(self, seconds)), "ratios", ratios.UNAVAILABLE)

    def pin_widget(self) -> PinCanvas:
        """A picture to place threads in: a row a thread, a column a host CPU, and where each really ran in the last seconds."""
        from kvmlab.widgets import PinCanvas

        return PinCanvas(self)


class HostLab(HostGuests, Lab):
    """The Lab of one of two hosts: a Lab whose guests can move."""

    def migrate(self, name: str, to: HostLab, *, cpu: str | None = None, xml: str | None = None, progress: bool | None = None) -> Move:
        """Move a running guest to the other host, live. Ctrl-C aborts that, and the guest stays where it is.

        Parameters
        ----------
        name : str
            A guest of this Lab.
        to : Lab
            The other one of the same ``TwoHosts()``.
        cpu : str, optional
            The CPU that the destination shall give it, as for ``start``; its own by default. libvirt refuses another one.
        xml : str, optional
            All of the domain XML that the destination shall run it by: a changed ``lab.xml(name)``.
        progress : bool, optional
            Show how far it has come; by default in a terminal or notebook.

        Returns
        -------
        Move
            ``.guest`` is the guest, on the other host now; ``.result`` a frame of one row: how long it took, how long the guest
            stood still, what was copied; ``.samples`` its turns all the while, for ``plots.migration``.

        Raises
        ------
        GuestError
            When libvirt refuses, with its words, or the move breaks off: the guest still runs here then.

        Examples
        --------
        >>> with TwoHosts() as (a, b):                        # doctest: +SKIP
        ...     c1 = a.start("c1", vcpus=2)
        ...     c1.work("spin")
        ...     print(a.migrate("c1", b))
        ...     c1.counters()
        """
        from kvmlab.guest import migration
        from kvmlab.measure.progress import Progress

        with Progress(_MOVE_S, progress) as bar:
            return migration.migrate(self, name, to, cpu, xml, bar.tell)

    def save(self, name: str, path: str | Path | None = None, *, xml: str | None = None) -> Path:
        """Stop a guest and write it to a file, from which ``restore`` brings it back on either host; the file's path.

        Parameters
        ----------
        name : str
            A guest of this Lab.
        path : str, optional
            Where; the user that QEMU runs as must be able to write there. By default a place that goes with the ``TwoHosts``.
        xml : str, optional
            The domain XML to be written with it: a changed ``lab.xml(name)``. libvirt refuses another CPU.

        Raises
        ------
        GuestError
            When libvirt refuses; the guest still runs then.

        Examples
        --------
        >>> path = a.save("c1")                               # doctest: +SKIP
        """
        from kvmlab.guest import migration

        return migration.save(self, name, path, xml)

    def restore(self, path: str | Path, *, cpu: str | None = None, xml: str | None = None) -> Guest:
        """Bring a saved guest back here; it goes on where it was.

        Parameters
        ----------
        path : str
            What ``save`` returned.
        cpu, xml : str, optional
            As for ``migrate``.

        Raises
        ------
        GuestError
            When libvirt refuses; the file stays.

        Examples
        --------
        >>> b.restore(path).counters()                        # doctest: +SKIP
        """
        from kvmlab.guest import migration

        return migration.restore(self, path, cpu, xml)


class TwoHosts(two_hosts.TwoHosts):
    """Two "hosts" on this machine: two Labs on two private libvirt daemons, between which running guests move.

    No root is needed; started by root, the daemons and their guests belong to an unprivileged user. Their files are in one
    folder in /tmp, and all of it is gone when the with-block ends or this Python process does, however it does.

    Parameters
    ----------
    accel : {"auto", "kvm", "tcg"}
        As for ``Lab``, on both hosts; "auto" takes KVM only where the user that QEMU runs as may open /dev/kvm.

    Raises
    ------
    ConnectError
        When a daemon does not start; it says what that said.

    Examples
    --------
    >>> with TwoHosts() as (a, b):                            # doctest: +SKIP
    ...     a.start("c1").work("spin")
    ...     moved = a.migrate("c1", b)
    ...     plots.migration(moved.samples)

    Without a with-block: ``a, b = hosts = TwoHosts()``, and ``hosts.close()`` at the end.
    """

    lab_class = HostLab
