"""POWER guests on a machine of another architecture. Oracles: QEMU's list of its CPUs, libvirt's list of models, virsh."""

import re
import shutil
import subprocess

import pytest

from kvmlab import KvmlabError
from kvmlab.guest import cpumap, power
from kvmlab.guest.microguest.page import wait_until
from tests.conftest import need


@pytest.fixture(scope="module")
def lab(live):
    from kvmlab import Lab

    with Lab(accel="tcg") as lab:
        yield lab


@pytest.fixture(scope="module")
def emulator():
    need(None if shutil.which("qemu-system-ppc64") else "no POWER emulator: apt install qemu-system-ppc")
    return "qemu-system-ppc64"


def running(lab) -> list[str]:
    return subprocess.run(["virsh", "-c", lab.uri, "list", "--name"], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("model", ["POWER8", "POWER9"])
def test_a_power_guest_has_the_cpu_that_was_asked(lab, emulator, model):
    with power.start(lab, "hx-power", model) as guest:
        assert "hx-power" in running(lab)
        cpu = guest.cpu()
    assert "hx-power" not in running(lab)
    helped = subprocess.run([emulator, "-machine", "pseries", "-cpu", "help"], capture_output=True, text=True).stdout
    versions = dict(re.findall(r"PowerPC (\S+)\s+PVR ([0-9a-f]{8})", helped))
    meant = re.search(rf"PowerPC {model.lower()}\s+\(alias for (\S+)\)", helped)[1]
    assert (cpu.qemu_type, cpu.pvr) == (f"{meant}-powerpc64-cpu", int(versions[meant], 16))
    assert (cpu.asked, cpu.model) == (model, model)


@pytest.mark.parametrize(
    "model, words",
    [
        ("POWER99", r"There is no CPU model 'POWER99' of ppc64\. Nearest: POWER9"),
        ("Westmere", "CPU model 'Westmere' is one of x86_64; this guest is ppc64"),
        ("POWERPC_e5500", "CPU model POWERPC_e5500 is not supported by hypervisor"),  # libvirt knows it, a pseries machine cannot have it
    ],
)
def test_a_model_that_cannot_be_is_refused_and_leaves_nothing(lab, emulator, model, words):
    with pytest.raises(KvmlabError, match=words):
        power.start(lab, "hx-power", model)
    assert "hx-power" not in running(lab)


def test_a_guest_goes_with_its_lab_and_says_so_afterwards(emulator, live, monkeypatch):
    from kvmlab import Lab

    with Lab(accel="tcg") as lab:
        guest = power.start(lab, "hx-power", "POWER8")
        with pytest.raises(KvmlabError, match="already exists"):
            power.start(lab, "hx-power", "POWER9")
        with monkeypatch.context() as changed, pytest.raises(KvmlabError, match="this QEMU names no PVR"):
            changed.setattr(power, "_PVR", re.compile("no such register"))
            guest.cpu()
        guest.destroy()
        with pytest.raises(KvmlabError, match="there is no such guest any more"):
            guest.cpu()
        guest.destroy()  # one that is gone stays gone
        last = power.start(lab, "hx-power", "POWER8")  # held on to: it goes all the same
    with Lab(accel="tcg") as other:
        assert wait_until(lambda: "hx-power" not in running(other), 10)
    with pytest.raises(KvmlabError, match="This Lab is closed"):
        last.cpu()


def test_a_missing_emulator_is_told_with_its_package(lab, monkeypatch):
    """An architecture whose emulator nobody here installs stands in for a POWER that is missing; the refusal is libvirt's own."""
    monkeypatch.setattr(power, "ARCH", "sparc64")
    monkeypatch.setattr(power, "_MACHINE", "sun4u")
    with pytest.raises(KvmlabError, match=r"No POWER guest can run here: libvirt says: .*sparc64.*Install .*qemu-system-ppc"):
        power._need_emulator(lab.connection)


def test_every_models_version_register_tells_its_name():
    models = cpumap.load().models("ppc64")
    for name, model in models.items():
        assert [power.model_of(known.value | 0x0201) for known in model.pvrs] == [name] * len(model.pvrs)
    assert power.model_of(0) is None
