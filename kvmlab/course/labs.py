"""class Labs: the open Labs of this process, as a checker looks at them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pandas as pd

from kvmlab.errors import GuestError

if TYPE_CHECKING:
    from kvmlab.guest.guest import Guest
    from kvmlab.guest.lab import GuestLab


class Labs:
    """All of them as one, for a reader has one for KVM, perhaps one for TCG, and need not say which."""

    def __init__(self) -> None:
        module = sys.modules.get("kvmlab.guest.lab")  # who has no Lab may have no libvirt, and there are exercises without guests
        self.open: tuple[GuestLab, ...] = module.open_labs() if module else ()

    def lab(self, guest: str) -> GuestLab:
        """The Lab that started this guest; of two with a guest of that name, the one that was opened last.

        Raises
        ------
        GuestError
            Where none has; checkers let it pass, and its words are what is missing.
        """
        for lab in reversed(self.open):
            if guest in lab.own:
                return lab
        there = [name for lab in self.open for name in lab.own]
        words = f"These do: {', '.join(there)}." if there else "None does." if self.open else "There is no open Lab."
        raise GuestError(f"No guest {guest!r} of yours runs. {words}")

    def guest(self, name: str) -> Guest:
        """A guest that a Lab of this process started, and that still runs.

        Raises
        ------
        GuestError
            Where there is none, and for one that ended or stopped on an exception.
        """
        guest = self.lab(name).own[name]
        guest.check()
        return guest

    def vcpus(self, *guests: str) -> pd.DataFrame:
        """The rows of ``lab.vcpus()`` of these guests, which all have to run."""
        frames = [frame[frame.pid == self.guest(name).process.pid] for name in guests for frame in [self.lab(name).vcpus()]]
        return pd.concat(frames, ignore_index=True)
