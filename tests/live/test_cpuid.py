"""What lab guests see by CPUID, against what was asked for and what QEMU says of the same CPUs."""

import json
import subprocess

import pytest

from kvmlab import Lab
from kvmlab.guest import cpuid, cpuid_flags
from kvmlab.guest.topology import Topology

SEEN_AS_ASKED = [
    *(("Westmere", shape) for shape in ("4x1x1x1", "2x1x2x2", "1x1x3x2", "1x2x1x2")),
    *(("Skylake-Client", shape) for shape in ("1x1x2x2", "1x2x2x2", "2x2x1x2", "3x1x1x2")),
    *(("Icelake-Server", shape) for shape in ("1x3x1x2", "2x2x3x1", "1x4x1x1", "2x3x1x1")),
    *(("EPYC", shape) for shape in ("1x1x2x2", "2x1x2x1", "1x1x5x1")),
    *(("EPYC-Rome", shape) for shape in ("1x1x1x2", "2x1x3x2")),
    *(("Opteron_G3", "2x1x3x1"), ("qemu64", "2x1x1x2"), ("kvm64", "1x1x3x1"), ("qemu32", "1x1x2x2"), ("maximum", "2x1x2x2")),
]
SEEN_OTHERWISE = {
    ("Opteron_G3", "1x1x2x2"): "1x1x4x1",  # threads: its leaves end before 0xB, and TCG has no topoext
    ("EPYC", "1x2x2x2"): "1x1x4x2",  # dies: QEMU gives leaf 0x1F to Intel's models only
}


@pytest.fixture(scope="module")
def emulated(live):
    with Lab(accel="tcg") as lab:
        yield lab


@pytest.fixture(scope="module")
def one(emulated):
    """A guest with threads and many leaves."""
    return emulated.start("kl-one", cpu="EPYC", topology="1x1x2x2")


def _places(lab: Lab, model: str, shape: str) -> list[tuple]:
    guest = lab.start(f"kl-{model.lower()}-{shape}", cpu=model, topology=shape)  # stays, idle: the Lab ends all at once, which is faster
    table = guest.topology()
    assert table["cpu"].tolist() == list(range(guest.vcpus)) and table["online"].all()
    return [tuple(place) for place in table[["socket", "die", "core", "smt"]].to_numpy().tolist()]


@pytest.mark.parametrize(("model", "shape"), SEEN_AS_ASKED)
def test_a_guest_sees_the_shape_that_was_asked_for(emulated, model, shape):
    assert _places(emulated, model, shape) == Topology.parse(shape).places()


@pytest.mark.parametrize(("model", "shape"), SEEN_OTHERWISE)
def test_what_cpuid_cannot_say_on_a_model_is_seen_as_more_cores(emulated, model, shape):
    assert _places(emulated, model, shape) == Topology.parse(SEEN_OTHERWISE[model, shape]).places()


def test_a_guest_says_where_linux_sees_less_than_its_leaves(emulated, one):
    """TCG gives no topoext to an AMD model, without which Linux looks for no threads."""
    assert any("Linux sees no SMT threads" in remark for remark in one.topology().attrs["remarks"]) == (
        "topoext" not in set(one.flags()["flag"])
    )
    assert emulated.start("kl-intel", cpu="Westmere", topology="1x1x1x2").topology().attrs["remarks"] == []


def _monitor(lab: Lab, guest: str, command: str, **arguments: str):
    question = json.dumps({"execute": command, "arguments": arguments})
    said = subprocess.run(["virsh", "-c", lab.uri, "qemu-monitor-command", guest, question], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)["return"]


def _features_of_qemu(lab: Lab, guest: str) -> dict:
    cpus = _monitor(lab, guest, "query-hotpluggable-cpus")
    words = _monitor(lab, guest, "qom-get", path=cpus[0]["qom-path"], property="feature-words")
    return {(word["cpuid-input-eax"], word.get("cpuid-input-ecx", 0), word["cpuid-register"].lower()): word["features"] for word in words}


def test_the_guest_reads_the_very_bits_that_qemu_holds(emulated, one):
    """Under TCG. QEMU before 10.0 sets two only when it answers, for a guest with several CPUs in a socket: ht and cmp_legacy."""
    words, leaves = _features_of_qemu(emulated, one.name), one.cpuid_all()
    told = {word: leaves.get(word[:2], (0, 0, 0, 0))[("eax", "ebx", "ecx", "edx").index(word[2])] for word in words}
    differ = {word: told[word] ^ bits for word, bits in words.items() if told[word] != bits}
    assert len(words) > 20 and differ.items() <= {(1, 0, "edx"): 1 << 28, (0x80000001, 0, "ecx"): 1 << 1}.items()


def test_flags_and_places_of_vcpus_on_the_accelerator_of_this_machine(live):
    """Not bit by bit: some nested KVMs let a guest see the features of the host's CPU, whatever QEMU told them to show."""
    with Lab() as lab:
        guest = lab.start("kl-here", topology="2x1x1x2")
        leaves, flags = guest.cpuid_all(), guest.flags()
        assert guest.topology()[["socket", "core", "smt"]].to_numpy().tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
        assert flags["flag"].tolist() == cpuid_flags.flags(leaves) and {"sse2", "lm", "hypervisor"} <= set(flags["flag"])
        assert set(flags["cpus"]) == {"0-3"} and not flags["group"].isna().any()
        assert cpuid.brand(leaves).hypervisor == {"kvm": "KVMKVMKVM", "tcg": "TCGTCGTCGTCG"}[lab.accel]


def test_a_walk_asks_at_most_three_times_and_all_vcpus_say_the_same_but_for_their_place(one):
    asked = []

    def ask(questions: list) -> list:
        asked.append(questions)
        return one._ask(0, questions)

    first, last = cpuid.walk(ask), one.cpuid_all(3)
    assert len(asked) <= 3
    assert {leaf for leaf, _ in first if first[leaf, 0] != last.get((leaf, 0))} == {0x1, 0xB, 0x8000001E}
    assert all(one.cpuid(*question) == answer for question, answer in list(first.items())[::7])
