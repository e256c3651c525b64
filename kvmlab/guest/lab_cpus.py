"""What a Lab says of CPU models: which there are, what libvirt makes of them, and what a guest got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kvmlab.columns import documents
from kvmlab.guest import cpu_models, cpu_table, cpu_xml, cpumap
from kvmlab.guest.connection import explained, libvirt

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.guest import Guest

ARCH = "x86_64"  # of the lab guest


class CpuModels:
    """The part of a Lab that knows CPU models."""

    connection: libvirt.virConnect
    accel: str

    @documents("cpu_models")
    def cpu_models(self, arch: str = ARCH) -> pd.DataFrame:
        """One row a CPU model that libvirt knows of an architecture: "x86_64", "ppc64", "aarch64" or "s390x".

        `kvm` and `tcg` are libvirt's word for whether all of its flags can be had here; one that is not usable may start all
        the same, and lack some: see `kvm_missing`, `tcg_missing`. An architecture of which libvirt has no list (aarch64 and s390x
        without their emulators) has no rows, and the frame's ``attrs["unavailable"]["model"]`` says so.

        Raises
        ------
        CpuModelError
            For an unknown architecture.

        Examples
        --------
        >>> lab.cpu_models().query("kvm").model.tolist()                                     # doctest: +SKIP

        """
        return cpu_models.models(self.connection, arch)

    def cpu_xml(
        self,
        model: str,
        match: str | None = None,
        fallback: str | None = None,
        check: str | None = None,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
    ) -> str:
        """libvirt's <cpu> element for a CPU model. ``start(cpu=...)`` takes it.

        Parameters
        ----------
        model : str
            The name of a model, or "host-passthrough" (the host's own CPU), "host-model" (the nearest model, with what is
            missing added), "maximum" (all that the accelerator can do).
        match : "minimum", "exact" or "strict", optional
            Of a named model: may the guest see more ("minimum": all that the host has), exactly it ("exact", the default), and
            not start where the host has more ("strict").
        fallback : "allow" or "forbid", optional
            What libvirt may do about a model that the hypervisor does not know: take the nearest, or refuse.
        check : "none", "partial" or "full", optional
            What is compared at the start: nothing, the model with the host, all that the guest really got.
        add, remove : names of flags
            Flags to be had beyond the model, and flags of it to be left out, by libvirt's names.

        Raises
        ------
        GuestError
            For a model or flag that libvirt does not know, with the nearest that it does, and for other words.

        Examples
        --------
        >>> lab.cpu_xml("Westmere", match="exact", fallback="allow")                         # doctest: +SKIP
        "<cpu mode='custom' match='exact'><model fallback='allow'>Westmere</model></cpu>"
        """
        return self._known_cpu(cpu_xml.cpu_xml(model, match, fallback, check, add, remove))

    def _known_cpu(self, cpu: str) -> str:
        """The <cpu> element of a model's name or of XML, once libvirt knows all its names."""
        element = cpu_xml.given(cpu)
        flags = cpumap.load().features(ARCH) if "<feature" in element else ()
        with explained("Asking for the CPU models"):
            cpu_xml.check_names(element, ARCH, cpu_models.known_names(self.connection), flags)
        return element

    @documents("cpu_expansion")
    def cpu_expansion(self, cpu: str) -> pd.DataFrame:
        """One row a feature of what libvirt makes of a CPU here, under this Lab's accelerator: what a guest gets, and cannot get.

        Parameters
        ----------
        cpu : str
            As for ``start``.

        Raises
        ------
        GuestError
            For what libvirt cannot expand: it says why.

        Examples
        --------
        >>> lab.cpu_expansion("host-model").query("not possible").feature.tolist()           # doctest: +SKIP

        """
        return cpu_models.expand(self.connection, self._known_cpu(cpu), self.accel)

    @documents("asked_got")
    def asked_got(self, guest: Guest) -> pd.DataFrame:
        """One row a CPU feature that a guest of this Lab was asked to have, or has by its own CPUID.

        Of host-passthrough all features that libvirt sees in the host count as asked; of maximum there is no list: `asked` is NA.

        Examples
        --------
        >>> lab.asked_got(c1).query("verdict == 'dropped'")[["feature", "why"]]              # doctest: +SKIP

        """
        return cpu_table.asked_got(self.connection, guest)

    @documents("cpu_trials")
    def cpu_trials(
        self,
        models: Iterable[str],
        match: Sequence[str | None] = (None,),
        check: Sequence[str | None] = (None,),
        fallback: Sequence[str | None] = (None,),
    ) -> pd.DataFrame:
        """Start a guest with each model in each way of asking for it; one row a trial. They end together.

        Parameters
        ----------
        models : names
            Of models, "host-model", "host-passthrough", "maximum"; those three are tried once a `check`.
        match, check, fallback : lists
            What to try of each, as ``cpu_xml`` has it; None leaves it to libvirt.

        Raises
        ------
        GuestError
            For words that are none of ``cpu_xml``'s. A guest that does not start is a row, with libvirt's words.

        Examples
        --------
        >>> lab.cpu_trials(["qemu64", "Westmere"], check=["none", "full"])                   # doctest: +SKIP

        """
        return cpu_table.trials(self, models, match, check, fallback)
