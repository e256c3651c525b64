"""Exercises of 03 on TCG, and odd answers while the guests are there. The solutions do the rest."""

import pytest

from kvmlab.course import check


def test_all_of_it_can_be_done_on_tcg(tcg_lab):
    tcg_lab.start("c6", topology="2x5x2")
    assert check("03.1", "1:3:1")
    t2 = tcg_lab.start("t2")
    assert check("03.3", t2.cpuid(0)[0]) and not check("03.3", t2.cpuid(0)[0] + 1)
    tcg_lab.start("nine", topology="3x3x1")
    tcg_lab.start("pairs", topology="2x1x2")
    assert check("03.2") and check("03.4")


@pytest.fixture(scope="module")
def c6(live):
    from kvmlab import Lab

    with Lab() as lab:
        yield lab.start("c6", topology="2x5x2")


@pytest.mark.parametrize(
    "odd", ["1:3", "1:3:1:0", "1:3:x", "1 : 3 : 1", "٣:3:1", "-1:3:1", "9" * 5000 + ":3:1", ["1", "3", "1"], 131, "0:3:1"]
)
def test_what_is_no_place_is_wrong_while_c6_runs(c6, odd):
    assert not check("03.1", odd)
