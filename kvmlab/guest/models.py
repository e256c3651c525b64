"""Which CPU models start on which hosts, between which hosts a guest can move, and what a park of hosts has in common.

Computed from flags: those of live and recorded hosts (/proc/cpuinfo) against libvirt's cpu_map, by libvirt's own rules, which are
those of `virsh cpu-compare` and `virsh cpu-baseline` (src/cpu/cpu_x86.c: x86Compute, x86Decode, virCPUx86Baseline). No libvirt is asked.

What this cannot see: flags that /proc/cpuinfo never shows, those that a kernel older than the flag does not know yet, and what
KVM and QEMU themselves lack. For the last, ask libvirt on the host (`virsh hypervisor-cpu-compare`), or hand over what it says there of
the CPU: ``Cpu.of_xml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kvmlab.columns import documents, frame
from kvmlab.errors import CpuModelError
from kvmlab.guest import cpumap
from kvmlab.guest.cpu_xml import cpu_xml
from kvmlab.guest.flag_names import shown_as
from kvmlab.guest.host_cpu import Cpu, movable
from kvmlab.host.host import Host

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Baseline", "Cpu", "baseline", "will_migrate", "will_start"]

Hosts = Host | Cpu | Iterable[Host | Cpu] | Mapping[str, Host | Cpu]
_NO_FLAGS = "models of Arm, POWER and s390x are not made of flags: only the machine itself can tell"
# QEMU does not know these: libvirt's QEMU driver leaves them out of all CPUs (virQEMUCapsCPUFilterFeatures).
_NOT_QEMUS = frozenset(["cmt", "mbm_total", "mbm_local", "osxsave", "ospke"])
_VENDORS = "no model runs on both: their vendors or architectures differ, or nothing is left"


@documents("will_start")
def will_start(models: Iterable[str] | None, hosts: Hosts) -> pd.DataFrame:
    """Whether a guest of each CPU model starts on each host: one row a model and host, in libvirt's order of models.

    It starts where the host has all flags of the model, as `virsh cpu-compare` has it; the vendor does not matter for that.

    Parameters
    ----------
    models : names, optional
        None: all that libvirt knows for the host's architecture.
    hosts : Host, Cpu, several of them, or a mapping of name to them
        Live and recorded hosts; ``Cpu.of_model("Westmere")`` stands for a made-up one.

    Raises
    ------
    CpuModelError
        For an unknown model, one of another architecture, a host without flags, and two hosts of one name.

    Examples
    --------
    >>> will_start(["Westmere"], Cpu.of_model("SandyBridge"))["starts"].tolist()
    [True]

    """
    cpus = _cpus(hosts)
    wanted = None if models is None else [models] if isinstance(models, str) else list(models)
    rows = [_start_row(model, cpu) for cpu in cpus for model in _models(wanted, cpu)]
    reasons = {}
    if any(cpu.arch != "x86" for cpu in cpus):
        reasons = dict.fromkeys(("starts", "missing", "unknown"), _NO_FLAGS)
    if any(row[2] is None and row[4] for row in rows):
        reasons["starts"] = "/proc/cpuinfo never shows the flags that are named as unknown"
    if any(row[5] is None for row in rows):
        reasons["vendor"] = "the model is of no vendor"
    if any(row[6] is None for row in rows):
        reasons["host_vendor"] = "the host's /proc/cpuinfo names none, or it is made up from a model of no vendor"
    return _frame(rows, "will_start", reasons, cpus)


def _models(wanted: Sequence[str] | None, cpu: Cpu) -> list[cpumap.Model]:
    if wanted is None:
        return list(cpumap.load().models(cpu.arch).values())
    known = cpumap.load()
    if cpu.arch != "x86":  # its flags are not compared: a model of another architecture is just a row
        return [known.models(cpu.arch).get(name) or known.model(name) for name in wanted]
    return [known.model(name, cpu.arch) for name in wanted]


def _start_row(model: cpumap.Model, cpu: Cpu) -> tuple:
    if cpu.arch != "x86":
        return model.name, cpu.name, None, None, None, model.vendor, cpu.vendor
    absent = model.features - cpu.features
    missing, unknown = absent - cpu.unknown, absent & cpu.unknown
    starts = False if missing else None if unknown else True
    return model.name, cpu.name, starts, _words(missing), _words(unknown), model.vendor, cpu.vendor


def _words(features: Iterable[str]) -> str:
    """Flags as the kernel names them; by libvirt's name where it has none."""
    return ", ".join(sorted({word for feature in features for word in shown_as(feature) or (feature,)}))


@documents("will_migrate")
def will_migrate(hosts: Hosts) -> pd.DataFrame:
    """Whether a guest that has all that its host can give it (host-model) can move to another host: one row an ordered pair.

    For a guest of a named model ask `will_start` of the hosts that it is to move to.

    Missing is each flag of the source that a guest can have and that the destination lacks. Flags that never reach a guest
    (ht, monitor, dca, ...), that KVM gives on any host (x2apic, arat, ...) or that libvirt leaves out of what migrates (invtsc)
    do not count. Nothing is said of flags that /proc/cpuinfo does not show.

    Parameters
    ----------
    hosts : Host, Cpu, several of them, or a mapping of name to them
        Live and recorded hosts.

    Raises
    ------
    CpuModelError
        For a host without flags, and two hosts of one name.

    Examples
    --------
    >>> old, new = Cpu.of_model("Westmere"), Cpu.of_model("SandyBridge")                 # doctest: +SKIP
    >>> will_migrate([old, new])[["source", "destination", "moves", "missing", "best_model"]]  # doctest: +SKIP
            source  destination  moves                        missing best_model
    0     Westmere  SandyBridge   True                                  Westmere
    1  SandyBridge     Westmere  False  avx, pclmulqdq, rdtscp, xsave   Westmere

    """
    cpus = _cpus(hosts)
    rows = [_move_row(source, destination) for source in cpus for destination in cpus if source is not destination]
    reasons = dict.fromkeys(("missing", "best_model"), _VENDORS) if any(row[4] is None for row in rows) else {}
    if any(row[5] is None for row in rows):
        reasons["why"] = "it moves, or nobody can tell"
    if any(row[2] is None for row in rows):
        reasons |= {"moves": _NO_FLAGS, "missing": _NO_FLAGS}
    return _frame(rows, "will_migrate", reasons, cpus)


def _move_row(source: Cpu, destination: Cpu) -> tuple:
    names = source.name, destination.name
    if source.arch != destination.arch:
        return *names, False, None, None, f"{source.arch} to {destination.arch}: another architecture"
    if source.arch != "x86":
        return *names, None, None, None, None
    if source.vendor != destination.vendor:
        return *names, False, None, None, f"{source.vendor or 'no vendor'} to {destination.vendor or 'no vendor'}: another vendor"
    missing = movable(source.features) - destination.features - destination.unknown
    return *names, not missing, _words(missing), _best_model(source, destination), "flags are missing" if missing else None


def _best_model(source: Cpu, destination: Cpu) -> str | None:
    """The model of most flags that starts on both, of those that libvirt itself chooses for guests."""
    common = source.features & destination.features
    fit = [model for model in cpumap.load().models().values() if model.decode_guest and model.vendor in (None, source.vendor)]
    running = [model for model in fit if model.features <= common]
    return max(running, key=lambda model: len(model.features)).name if running else None


@dataclass(frozen=True)
class Baseline:
    """What a park of hosts has in common, as a model and the flags that are beside it (in libvirt's names)."""

    hosts: tuple[str, ...]
    model: str
    vendor: str | None
    add: tuple[str, ...]
    remove: tuple[str, ...]

    @property
    def xml(self) -> str:
        """The <cpu> element of a guest that runs on each of the hosts and can move between them."""
        return cpu_xml(self.model, match="exact", add=self.add, remove=self.remove)

    def __str__(self) -> str:
        words = f"{len(self.hosts)} hosts have in common: {self.model}"
        words += f", with {' '.join(self.add)}" if self.add else ""
        return words + (f", without {' '.join(self.remove)}" if self.remove else "") + "."


def baseline(hosts: Hosts, migratable: bool = True) -> Baseline:
    """The richest CPU that every one of the hosts has: what a guest needs that is to move among them.

    The answer is libvirt's, of `virsh cpu-baseline --migratable` over the hosts' own <cpu> elements; of a host that is known by its
    /proc/cpuinfo alone, without the flags that are never shown there. What KVM then gives a guest of it, ``lab.asked_got`` tells.

    Parameters
    ----------
    hosts : Host, Cpu, several of them, or a mapping of name to them
        Live and recorded hosts.
    migratable : bool
        Leave out flags that keep a guest from moving, such as invtsc.

    Raises
    ------
    CpuModelError
        For hosts of different vendors or architectures, which no CPU of a guest bridges, for hosts that have nothing in common,
        and for those whose CPU libvirt does not describe by flags (Arm, POWER, s390x).

    Examples
    --------
    >>> baseline([Cpu.of_model("Westmere"), Cpu.of_model("Nehalem")]).xml
    "<cpu mode='custom' match='exact'><model>Nehalem</model></cpu>"
    """
    cpus = _cpus(hosts)
    _refuse_unlike(cpus)
    common = frozenset.intersection(*(cpu.features for cpu in cpus)) - _NOT_QEMUS
    if not common:
        raise CpuModelError(f"These hosts have no flag in common: {', '.join(cpu.name for cpu in cpus)}.")
    vendor = next((cpu.vendor for cpu in cpus if cpu.vendor), None)
    best = _nearest_guest(common, vendor, {cpu.model for cpu in cpus if cpu.model})
    known = cpumap.load().features()
    kept = [flag for flag in known if flag in best.add and (known[flag].migratable or not migratable)]
    removed = [flag for flag in known if flag in best.remove and (known[flag].migratable or not migratable)]
    return Baseline(tuple(cpu.name for cpu in cpus), best.model.name, vendor, tuple(kept), tuple(removed))


def _refuse_unlike(cpus: Sequence[Cpu]) -> None:
    if not cpus:
        raise CpuModelError("A baseline of no host at all: pass at least one, such as baseline([Host()]).")
    if other := [cpu for cpu in cpus if cpu.arch != "x86"]:
        raise CpuModelError(f"'{other[0].name}' is {other[0].arch}: only x86 hosts have a baseline of flags. Leave it out.")
    first = next((cpu for cpu in cpus if cpu.vendor), cpus[0])
    if other := [cpu for cpu in cpus if cpu.vendor not in (None, first.vendor)]:
        raise CpuModelError(
            f"'{first.name}' is {first.vendor}, '{other[0].name}' is {other[0].vendor}: guests do not move live between vendors, "
            f"and libvirt gives no baseline. Ask for each vendor's hosts by themselves."
        )


class _Choice(NamedTuple):
    model: cpumap.Model
    add: frozenset[str]
    remove: frozenset[str]


def _nearest_guest(features: frozenset[str], vendor: str | None, preferred: set[str]) -> _Choice:
    """libvirt's x86Decode for a guest: newest models first, and another one only where it is nearer."""
    best: _Choice | None = None
    for model in reversed(cpumap.load().models().values()):
        if not model.decode_guest or (vendor and model.vendor not in (None, vendor)):
            continue
        choice = _Choice(model, features - model.features, (model.features - features) | (model.removed - features))
        if preferred == {model.name}:
            return choice
        if best is None or _nearer(choice, best, model.name in preferred):
            best = choice
    if best is None:
        raise CpuModelError("libvirt has no CPU model for these flags: look at its cpu_map.")
    return best


def _nearer(choice: _Choice, best: _Choice, preferred: bool) -> bool:
    """libvirt's virCPUx86CompareCandidateFeatureList: fewer flags beside the model; each that is turned off costs more."""
    (total, off), (best_total, best_off) = _cost(choice), _cost(best)
    return total < best_total or (total == best_total and off < best_off) or (preferred and off < best_off)


def _cost(choice: _Choice) -> tuple[int, int]:
    """libvirt's loop stops half-way through the flags to be turned off; the others count as if turned on."""
    counted = (len(choice.remove) + 1) // 2
    off = sum(range(2, 2 + counted))
    return len(choice.add) + len(choice.remove) - counted + off, off


def _cpus(hosts: Hosts) -> list[Cpu]:
    if isinstance(hosts, Host | Cpu):
        hosts = [hosts]
    if isinstance(hosts, Mapping):
        return [_cpu(host, name) for name, host in hosts.items()]
    cpus = [_cpu(host, None) for host in hosts]
    names = [cpu.name for cpu in cpus]
    if twice := [name for name in names if names.count(name) > 1]:
        raise CpuModelError(f"Two hosts are called '{twice[0]}': give them names, as in {{'first': host, 'second': host}}.")
    return cpus


def _cpu(host: Host | Cpu, name: str | None) -> Cpu:
    if isinstance(host, Cpu):
        return host.named(name or host.name)
    if isinstance(host, Host):
        return Cpu.of_host(host, name)
    raise CpuModelError(f"{host!r} is no host: pass Host(), Host.open(path), or Cpu.of_model(name) for a made-up one.")


def _frame(rows: list[tuple], kind: str, reasons: dict[str, str], cpus: Sequence[Cpu]) -> pd.DataFrame:
    """The frame, which also says which of its hosts are made up."""
    result = frame(rows, kind, reasons)
    result.attrs["made_up"] = [cpu.name for cpu in cpus if cpu.made_up]
    return result
