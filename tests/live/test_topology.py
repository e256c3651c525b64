"""The topology of running guests: asked of libvirt, given by QEMU, seen by CPUID, and the threads behind it."""

import subprocess
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvmlab import Host, KvmlabError, Lab, measure
from kvmlab.guest import cpuid
from kvmlab.guest.microguest.page import WORK, wait_until


@pytest.fixture(scope="module")
def shared(live):
    with Lab() as lab:
        yield lab


def test_the_three_views_of_a_vcpu_are_one(shared):
    guest = shared.start("kt-a", topology="2x2x3x2", cpu="Westmere")
    numbers = shared.numbers("kt-a")
    assert (numbers["asked"] == numbers["qemu"]).all() and (numbers["asked"] == numbers["seen"]).all()
    assert numbers["apic_id"].tolist()[:8] == [0, 1, 2, 3, 4, 5, 8, 9]  # three cores take two bits
    assert numbers["apic_id"].tolist() == [guest.cpuid(1, vcpu=vcpu)[1] >> 24 for vcpu in range(24)]
    assert numbers["tid"].tolist() == shared.vcpus().query("guest == 'kt-a'")["tid"].tolist()
    assert numbers["node"].isna().all() and "no NUMA cells" in numbers.attrs["unavailable"]["node"]


def test_a_guest_that_is_only_watched_is_not_tainted(shared, tcg_lab):
    tcg_lab.start("kt-theirs", vcpus=2)
    numbers = shared.numbers("kt-theirs")
    assert numbers["asked"].tolist() == ["0:0:0:0", "1:0:0:0"] and numbers["tid"].notna().all()
    unavailable = numbers.attrs["unavailable"]
    assert numbers[["qemu", "node", "seen", "apic_id"]].isna().all(axis=None) and "only watches" in unavailable["qemu"]
    said = subprocess.run(["virsh", "-c", shared.uri, "dominfo", "kt-theirs"], capture_output=True, text=True, check=True).stdout
    assert "tainted" not in said
    tcg_lab.numbers("kt-theirs")
    said = subprocess.run(["virsh", "-c", shared.uri, "dominfo", "kt-theirs"], capture_output=True, text=True, check=True).stdout
    assert "custom monitor" in said, "its own guest may be asked, and dominfo tells of it"


def test_works_reach_the_vcpus_they_name_where_apic_ids_have_gaps(shared):
    guest = shared.start("kt-b", topology="2x1x3x1")
    guest.work("ipi", vcpus=0, parameter=5)
    guest.work("ping-pong", vcpus=(2, 3))
    assert shared.vcpus().query("guest == 'kt-b'")["work"].tolist() == ["ipi", "idle", "ping-pong", "ping-pong", "idle", "idle"]
    assert wait_until(lambda: guest.page.interrupts(5) > 0 and all(guest.page.turns(vcpu)[WORK["ping-pong"]] > 10 for vcpu in (2, 3)), 10)
    assert guest.page.interrupts(4) == 0


def test_cells_are_what_qemu_has(shared):
    shared.start("kt-c", vcpus=4, cells=["0,2", "1,3", ""], distances=[[10, 15, 31], [15, 10, 31], [31, 31, 10]])
    assert shared.numbers("kt-c")["node"].tolist() == [0, 1, 0, 1]
    numa = ET.fromstring(shared.domain("kt-c").XMLDesc()).find("cpu/numa")
    assert [cell.get("cpus") for cell in numa] == ["0,2", "1,3", None]
    assert [[int(sibling.get("value")) for sibling in cell.iter("sibling")] for cell in numa] == [[10, 15, 31], [15, 10, 31], [31, 31, 10]]


def test_a_guest_like_its_host_is_pinned_to_what_it_mirrors(shared):
    online = Host().cpus().query("online")["cpu"].tolist()
    pins = ",".join(map(str, online[:2]))
    guest = shared.start("kt-d", topology="host-like", pins=pins)
    assert measure.compare_topology(Host().cpus().query("cpu in @online[:2]"), guest.topology())["same"].all()
    assert sorted(shared.vcpus().query("guest == 'kt-d'")["allowed_cpus"].astype(int)) == online[:2]
    assert shared.undo() == 0
    shared.start("kt-p", pins=",".join(map(str, online[1::-1])))
    assert shared.vcpus().query("guest == 'kt-p'")["allowed_cpus"].astype(int).tolist() == online[1::-1]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"vcpus": 6, "topology": "2x1x2x2"}, r"2 sockets x 1 die x 2 cores x 2 threads = 8 vCPUs, not 6"),
        ({"topology": "9x1x4x2"}, r"1 to 64"),
        ({"topology": "host-unlike"}, r"sockets x dies x cores x threads"),
        ({"topology": "host-like", "vcpus": 5000}, r"online CPUs to be like"),
        ({"vcpus": 2, "cells": ["0"]}, r"vCPU 1 is in no NUMA cell"),
        ({"vcpus": 2, "distances": [[10]]}, r"without cells"),
        ({"vcpus": 2, "pins": "0"}, r"1 host CPUs for 2 vCPUs"),
        ({"vcpus": 1, "pins": "6000"}, r"CPU 6000 is not among the online CPUs"),
        ({"vcpus": 1, "pins": 0}, r"write a list of host CPUs"),
        ({"cpu": "Westmare"}, r"Nearest: Westmere"),
        ({"cpu": "POWER9"}, r"ppc64"),
        ({"cpu": "<cpu><model>Westmere</model>"}, r"no XML"),
        ({"cpu": "<cpu mode='custom'><model>Westmere</model><feature name='ssse33' policy='require'/></cpu>"}, r"ssse3"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(shared, wrong, words):
    with pytest.raises(KvmlabError, match=words):
        shared.start("kt-x", **wrong)
    assert "kt-x" not in shared.guests()["guest"].tolist()


AMD = ["1x1x1x1", "1x1x1x2", "1x1x4x1", "1x1x4x2", "1x2x2x1", "1x2x2x2", "1x4x2x1", "2x1x1x1", "2x1x3x2", "2x2x2x2", "2x2x3x2", "3x1x3x1"]


EPYC = "<cpu mode='custom' match='exact' check='none'><model fallback='allow' vendor_id='AuthenticAMD'>EPYC</model></cpu>"


def test_an_amd_guest_under_kvm_sees_its_dies_and_threads(live):
    """By leaf 0x8000001E: KVM gives it on any processor. Unchecked, the model starts on Intel too, and would call itself Intel."""
    try:
        lab = Lab(accel="kvm")
    except KvmlabError as error:
        pytest.skip(f"no KVM here: {error}")
    with lab:
        with ThreadPoolExecutor(4) as pool:
            guests = pool.map(lambda asked: lab.start(f"kt-amd-{asked}", topology=asked, cpu=EPYC), AMD)
        for asked, guest in zip(AMD, guests, strict=True):
            assert measure.compare_topology(asked, guest.topology())["same"].all(), asked
            leaves = guest.cpuid_all()
            assert cpuid.vendor(leaves) == "AuthenticAMD" and (0x8000001E, 0) in leaves


def test_an_amd_guest_under_tcg_sees_more_cores_instead_of_dies(tcg_lab):
    guest = tcg_lab.start("kt-e", topology="1x2x2x1", cpu="EPYC")
    compared = measure.compare_topology("1x2x2x1", guest.topology())
    assert compared["asked"].tolist() == ["0:0:0:0", "0:0:1:0", "0:1:0:0", "0:1:1:0"]
    assert compared["seen"].tolist() == ["0:0:0:0", "0:0:1:0", "0:0:2:0", "0:0:3:0"]
