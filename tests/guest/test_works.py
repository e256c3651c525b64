import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import KvmlabError
from kvmlab.guest.microguest.page import WORK
from kvmlab.guest.microguest.works import parameters


@pytest.mark.parametrize(
    "work, vcpus, parameter, numbers",
    [
        ("spin", [0, 1], None, [0, 0]),
        ("memory", [0], None, [4096]),
        ("memory", [0, 2], 64, [64, 64]),
        ("lock", [1], 0, [0]),
        ("device", [3], 28672, [28672]),
        ("ipi", [0, 3], None, [1, 0]),
        ("ipi", [0], 2, [2]),
        ("ping-pong", [2, 0], None, [4, 5]),
        ("ping-pong", [0, 1, 2, 3], None, [0, 1, 4, 5]),
    ],
)
def test_each_vcpu_gets_the_number_that_its_work_takes(work, vcpus, parameter, numbers):
    assert parameters(work, vcpus, range(4), parameter) == numbers


@pytest.mark.parametrize(
    "work, vcpus, parameter, words",
    [
        ("spni", [0], None, "'spni': the lab guest knows idle, spin, kernel-spin"),
        ("spin", [0], 3, "takes no parameter; memory, device, lock, duty, ipi do"),
        ("memory", [0], 3, "parameter 3: write 4 to 28672 KiB"),
        ("device", [0], 28673, "write 1 to 28672 KiB"),
        ("lock", [0], -1, "write 0 to 1000000 rounds"),
        ("memory", [0], 4.5, "4.5: write a whole number"),
        ("memory", [0], True, "True: write a whole number"),
        ("ipi", [0], 0, "vCPU 0 needs another vCPU to interrupt, not 0: the guest has 0 to 3"),
        ("ipi", [0], 4, "not 4"),
        ("ping-pong", [0], None, "in pairs"),
        ("ping-pong", [0, 0], None, "in pairs"),
        ("ping-pong", [0, 1], 1, "takes no parameter"),
    ],
)
def test_what_a_work_cannot_be_done_with_is_named(work, vcpus, parameter, words):
    with pytest.raises(KvmlabError, match=words):
        parameters(work, vcpus, range(4), parameter)


@given(st.sampled_from(sorted(WORK)), st.lists(st.integers(0, 63), max_size=8), st.none() | st.integers())
def test_every_number_fits_into_the_guests_slot(work, vcpus, parameter):
    try:
        numbers = parameters(work, vcpus, range(64), parameter)
    except KvmlabError:
        return
    assert len(numbers) == len(vcpus) and all(0 <= number < 1 << 32 for number in numbers)
