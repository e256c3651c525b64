"""class Lab: the guests of kvmlab.guest, with what measures and shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmlab.columns import documents
from kvmlab.guest.lab import GuestLab

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.widgets import PinGrid


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

    def pin_widget(self) -> PinGrid:
        """A grid of switches, vCPU by host CPU, with where each vCPU really ran in the last second."""
        from kvmlab.widgets import PinGrid

        return PinGrid(self)
