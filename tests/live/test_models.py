"""What kvmlab computes from flags is what libvirt answers: compareCPU, compareHypervisorCPU and baselineCPU, for all its models.

libvirt compares with its own host only. What it says of another host H and a model M is asked through baselineCPU: the flags
that both have, written out, are all of M's exactly if M starts on H (x86Compute: M's flags are among H's). H goes in without
its vendor, which does not matter for starting and which baselineCPU would refuse to mix.
"""

import random
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import combinations

import pytest

from kvmlab import Host, Lab, models
from kvmlab.errors import CpuModelError
from kvmlab.guest import cpumap
from kvmlab.guest.connection import libvirt
from kvmlab.guest.host_cpu import Cpu
from tests.conftest import REPOSITORY, need

EXPAND, MIGRATABLE = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES, libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE


@pytest.fixture(scope="module")
def lab(live):
    with Lab(accel="tcg") as lab:
        need(None if lab.connection.getInfo()[0] == "x86_64" else "this machine is no x86_64")
        yield lab


@pytest.fixture(scope="module")
def libvirts(lab):
    return lab.connection


@pytest.fixture(scope="module")
def recorded():
    """One recorded host of each different CPU."""
    cpus = [Cpu.of_host(Host.open(path)) for path in sorted((REPOSITORY / "tests" / "hosts").glob("x86*.tar.xz"))]
    return list({(cpu.features, cpu.unknown): cpu for cpu in cpus}.values())


def model_xml(name: str) -> str:
    return f"<cpu><arch>x86_64</arch><model>{name}</model></cpu>"


def guest_xml(name: str) -> str:
    return f"<cpu mode='custom' match='exact'><model fallback='forbid'>{name}</model></cpu>"


def policies(xml: str) -> dict[str, str]:
    return {feature.get("name"): feature.get("policy", "require") for feature in ET.fromstring(xml).findall("feature")}


def required(xml: str) -> set[str]:
    return {name for name, policy in policies(xml).items() if policy == "require"}


def test_the_models_and_their_flags_are_libvirts_own(libvirts):
    known = cpumap.load().models("x86_64")
    assert list(known) == libvirts.getCPUModelNames("x86_64")
    assert list(cpumap.load().models("ppc64")) == libvirts.getCPUModelNames("ppc64")
    for name, model in known.items():
        assert required(libvirts.baselineCPU([model_xml(name)], EXPAND)) == model.features, name


def test_this_host_starts_what_compare_cpu_says(libvirts):
    answers = {name: libvirts.compareCPU(guest_xml(name)) > 0 for name in cpumap.load().models("x86_64")}
    own = Cpu.of_xml(ET.tostring(ET.fromstring(libvirts.getCapabilities()).find("host/cpu"), encoding="unicode"), "libvirt's")
    frame = models.will_start(None, own)
    assert dict(zip(frame["model"], frame["starts"], strict=True)) == answers
    seen = models.will_start(None, Host())
    sure = seen[seen["starts"].notna()]
    assert not sure.empty and dict(zip(sure["model"], sure["starts"], strict=True)).items() <= answers.items()
    assert (seen[seen["starts"].isna()]["unknown"] != "").all()


def test_this_host_is_described_much_as_libvirt_describes_it(libvirts):
    """Not to the last flag: a kernel may hide some that CPUID shows, and show some that it plays itself."""
    said = ET.fromstring(libvirts.getCapabilities()).find("host/cpu")
    theirs = Cpu.of_xml(ET.tostring(said, encoding="unicode"), "libvirt's")
    ours = Cpu.of_host(Host())
    assert said.findtext("vendor") in (None, ours.vendor) and ours.model in cpumap.load().models()
    both, differ = ours.features & theirs.features, (ours.features ^ theirs.features) - ours.unknown
    assert {"fpu", "tsc", "cx8", "sse", "sse2"} <= both and len(differ) < len(both)


@pytest.mark.parametrize("kind", ["kvm", "qemu"])
def test_what_the_hypervisor_starts_is_what_compare_hypervisor_cpu_says(libvirts, kind):
    try:
        capabilities = ET.fromstring(libvirts.getDomainCapabilities(None, "x86_64", None, kind))
    except libvirt.libvirtError as error:
        pytest.skip(f"no {kind} here: {error}")
    mode = capabilities.find("cpu/mode[@name='host-model']")
    frame = models.will_start(None, Cpu.of_xml(ET.tostring(mode, encoding="unicode"), kind))
    answers = [libvirts.compareHypervisorCPU(None, "x86_64", None, kind, guest_xml(name)) > 0 for name in frame["model"]]
    assert frame["starts"].tolist() == answers


def test_recorded_hosts_start_what_libvirt_says_of_their_flags(libvirts, recorded):
    assert len(recorded) >= 5
    frame, asked = models.will_start(None, recorded), 0
    for cpu in recorded:
        host = replace(cpu, vendor=None, described_as=cpu.model).xml
        for row in frame[frame["host"] == cpu.name].itertuples():
            both = required(libvirts.baselineCPU([host, model_xml(row.model)], EXPAND))
            assert (both >= cpumap.load().model(row.model).features) == (row.missing == row.unknown == ""), row
            asked += 1
    assert asked == len(recorded) * len(cpumap.load().models())


def agree(libvirts, cpus, migratable: bool) -> str | None:
    """The model that both name, None where both refuse."""
    try:
        theirs = libvirts.baselineCPU([cpu.xml for cpu in cpus], MIGRATABLE if migratable else 0)
    except libvirt.libvirtError:
        with pytest.raises(CpuModelError):
            models.baseline(cpus, migratable)
        return None
    ours = models.baseline(cpus, migratable)
    assert ours.model == ET.fromstring(theirs).findtext("model")
    assert dict.fromkeys(ours.add, "require") | dict.fromkeys(ours.remove, "disable") == policies(theirs)
    return ours.model


@pytest.mark.parametrize("migratable", [True, False])
def test_the_baseline_of_recorded_hosts_is_libvirts(libvirts, recorded, migratable):
    cpus = [*recorded, Cpu.of_host(Host())]
    named = [agree(libvirts, pair, migratable) for pair in combinations(cpus, 2)]
    assert len(set(named) - {None}) >= 2 and None in named  # Intel's, AMD's, and pairs of both
    agree(libvirts, [cpu for cpu in cpus if cpu.vendor == "Intel"], migratable)


def made_up(dice: random.Random, kind: int) -> list[Cpu]:
    """A few hosts: models; the same with flags that all have or some lack; described by a poorer model than they might be."""
    known = cpumap.load()
    names = [name for name, model in known.models().items() if model.vendor in (None, "Intel")]
    cpus = [Cpu.of_model(name) for name in dice.sample(names, dice.randint(2, 6))]
    flags = sorted(known.features())
    if kind == 1:
        more = set(dice.sample(flags, 30))
        cpus = [Cpu(cpu.name, "x86", "Intel", cpu.features | more, made_up=True) for cpu in cpus]
    elif kind == 2:
        less = [set(dice.sample(flags, 20)) - {"fpu", "pse", "vme"} for _ in cpus]
        cpus = [Cpu(cpu.name, "x86", "Intel", (cpu.features | {"fpu", "pse", "vme"}) - gone) for cpu, gone in zip(cpus, less, strict=True)]
    elif kind == 3:
        cpus = [Cpu(cpu.name, "x86", "Intel", cpu.features | known.model("Penryn").features, described_as="Conroe") for cpu in cpus]
    return cpus


@pytest.mark.parametrize("migratable", [True, False])
def test_the_baseline_of_made_up_hosts_is_libvirts(libvirts, migratable):
    dice = random.Random(5)
    seen = {agree(libvirts, made_up(dice, number % 4), migratable) for number in range(400)}
    assert len(seen) > 10 and None not in seen


@pytest.mark.parametrize("migratable", [True, False])
def test_the_baseline_of_a_model_alone_is_that_model_as_libvirt_has_it(libvirts, migratable):
    """With what was taken out of it turned off by name."""
    for name in cpumap.load().models():
        assert agree(libvirts, [Cpu.of_model(name), Cpu.of_model(name, "other")], migratable)


def test_a_guest_starts_with_the_baseline_of_this_hypervisor_and_a_model(lab, libvirts):
    """What TCG can do and Opteron_G1 has in common is a CPU that a real guest gets."""
    mode = ET.fromstring(libvirts.getDomainCapabilities(None, "x86_64", None, "qemu")).find("cpu/mode[@name='host-model']")
    answer = models.baseline([Cpu.of_xml(ET.tostring(mode, encoding="unicode"), "tcg"), Cpu.of_model("Opteron_G1")])
    lab.start("models-baseline", cpu=answer.xml)
    live_cpu = ET.fromstring(lab.domain("models-baseline").XMLDesc()).find("cpu")
    assert live_cpu.findtext("model") == answer.model == "Opteron_G1"
