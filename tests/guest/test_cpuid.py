"""Walking CPUID: no leaf is missed, none is invented, few rounds. Recordings: see cpuid_dumps.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.guest import cpuid
from tests.guest import cpuid_dumps

WORDS = st.integers(0, 0xFFFFFFFF)
ANSWERS = st.tuples(WORDS, WORDS, WORDS, WORDS)
RECORDED = [*cpuid_dumps.RECORDED, cpuid_dumps.WITHOUT_LINUX]


class Cpu:
    """Answers like a processor: for leaves that it has not, as for its highest basic one."""

    def __init__(self, leaves: dict, otherwise: tuple | None = None):
        self.leaves, self.rounds = leaves, []
        self.otherwise = otherwise or leaves.get((leaves[0, 0][0], 0), (0, 0, 0, 0))

    def answer(self, question: tuple[int, int]) -> tuple:
        leaf, subleaf = question
        if (leaf, 0) not in self.leaves:
            return self.otherwise
        return self.leaves.get(question, (0, 0, subleaf, 0) if leaf in (0xB, 0x1F) else (0, 0, 0, 0))

    def ask(self, questions: list) -> list:
        self.rounds.append(len(questions))
        return [self.answer(question) for question in questions]


@pytest.mark.parametrize("name", RECORDED)
def test_the_walk_finds_all_leaves_of_a_recorded_cpu_again_in_three_rounds(name):
    leaves = cpuid_dumps.load(name)[0]
    cpu = Cpu(leaves)
    assert cpuid.walk(cpu.ask) == leaves
    assert len(cpu.rounds) <= 3 and sum(cpu.rounds) < 2 * len(leaves) + 10


def _big() -> dict:
    """A machine with something in every leaf that has subleaves."""
    zero = (0, 0, 0, 0)
    leaves = {(leaf, 0): zero for leaf in [*range(0x25), *range(0x80000000, 0x80000027), 0x40000000, 0x40000001, 0x40000100, 0x40000101]}
    leaves |= {(0, 0): (0x24, 0, 0, 0), (1, 0): (0, 0, 1 << 31, 0), (0x80000000, 0): (0x80000026, 0, 0, 0)}
    leaves |= {(0x40000000, 0): (0x40000001, 0, 0, 0), (0x40000100, 0): (0x40000101, 0, 0, 0)}
    leaves |= {(leaf, n): (0x100 | n + 1, 1, 2, 3) for leaf in (0x4, 0x8000001D) for n in range(5)}
    leaves |= {(leaf, n): (n + 1, n + 1, n + 1 << 8 | n, 0) for leaf in (0xB, 0x1F, 0x80000026) for n in range(6)}
    leaves |= {(leaf, n): (2 if n == 0 else 0, 0, 0, n) for leaf in (0x7, 0x14, 0x17, 0x18, 0x1D, 0x20, 0x24) for n in range(3)}
    leaves |= {(0xD, 0): (0b111, 0, 0, 1 << 30), (0xD, 1): (0xF, 0, 1 << 8, 0)} | {(0xD, n): (64, n, 0, 0) for n in (2, 8, 62)}
    leaves |= {(0xF, 0): (0, 0, 0, 2), (0xF, 1): zero, (0x10, 0): (0, 0b1110, 0, 0)} | {(0x10, n): (9, 0, 0, 0) for n in (1, 2, 3)}
    leaves |= {(0x12, 0): (3, 0, 0, 0), (0x12, 1): (0x36, 0, 0, 0), (0x12, 2): (1, 0, 0, 0), (0x12, 3): (1, 0, 0, 0)}
    leaves |= {(0x1B, n): (1, n, 0, 0) for n in range(2)} | {(0x23, 0): (0b1011, 0, 0, 0), (0x23, 1): (1, 0, 0, 0), (0x23, 3): zero}
    return leaves | {(0x80000020, 0): (0, 0b110, 0, 0), (0x80000020, 1): (11, 0, 0, 0), (0x80000020, 2): (12, 0, 0, 0)}


def test_every_kind_of_subleaf_is_found():
    cpu = Cpu(_big())
    assert cpuid.walk(cpu.ask) == _big()
    assert len(cpu.rounds) <= 5


def test_a_hypervisors_leaves_only_count_where_the_cpu_says_that_it_is_a_guest():
    leaves = _big()
    leaves[1, 0] = (0, 0, 0, 0)
    assert not [leaf for leaf, _ in cpuid.walk(Cpu(leaves).ask) if 0x40000000 <= leaf < 0x80000000]


def test_what_a_cpu_says_of_leaves_that_it_lacks_is_left_out():
    leaves = {(0, 0): (1, 0, 0, 0), (1, 0): (0x543, 0, 0, 0)}
    assert cpuid.walk(Cpu(leaves, otherwise=(7, 7, 7, 7)).ask) == leaves


@given(
    st.dictionaries(st.tuples(st.sampled_from([0, 1, 4, 7, 0xB, 0xD, 0x12, 0x80000000, 0x40000000]), st.integers(0, 3)), ANSWERS), ANSWERS
)
def test_a_cpu_that_answers_anything_is_walked_to_an_end(answers, otherwise):
    asked = []

    def ask(questions: list) -> list:
        asked.extend(questions)
        return [answers.get(question, otherwise) for question in questions]

    leaves = cpuid.walk(ask)
    assert len(asked) == len(set(asked)) < 20000
    cpuid.brand(leaves)


def test_the_brand_is_what_the_models_are_known_by():
    assert cpuid.brand(cpuid_dumps.load("EPYC-2x1x2x2")[0]) == ("AuthenticAMD", 0x17, 1, "AMD EPYC Processor", 64, "TCGTCGTCGTCG")
    qemu32 = cpuid.brand(cpuid_dumps.load("qemu32-1x1x2x2")[0])
    assert (qemu32.vendor, qemu32.family, qemu32.model, qemu32.bits) == ("GenuineIntel", 6, 6, 32)
    assert cpuid.brand({}) == ("", 0, 0, None, 32, None)
