"""Plans in turns: their order, and what is refused before anything is touched. What needs a guest: tests/live."""

from types import SimpleNamespace

import pytest

from kvmlab import KvmlabError, measure
from kvmlab.measure.placement import _order


def test_each_repeat_goes_through_all_plans_in_an_order_of_its_own():
    names = ["float", "one-to-one", "stacked", "dedicated"]
    order = _order(names, 5, seed=3)
    rounds = [[name for name, number in order if number == repeat] for repeat in range(5)]
    assert [sorted(those) for those in rounds] == [sorted(names)] * 5 and len({tuple(those) for those in rounds}) > 1
    assert [repeat for _, repeat in order] == sorted(repeat for _, repeat in order)
    assert order == _order(names, 5, seed=3) != _order(names, 5, seed=4)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seconds": 0}, "seconds=0, repeats=3: write 0.1 to 60 seconds"),
        ({"seconds": 61}, "0.1 to 60"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"repeats": 0}, "1 to 10000 repeats"),
        ({"plans": {}}, r"plans={}: write a name and what lab\.plan takes"),
        ({"plans": [{("c1", 0): "1"}]}, "a name"),
        ({"plans": None}, "plans=None"),
    ],
)
def test_what_cannot_be_measured_is_refused_without_asking_libvirt(wrong, words):
    with pytest.raises(KvmlabError, match=words):
        measure.placement(None, **{"plans": {"float": {}}} | wrong)


def test_without_guests_of_its_own_a_lab_has_nothing_to_place():
    empty = SimpleNamespace(_mine={"being started": None})
    with pytest.raises(KvmlabError, match=r"no guests of its own: start some with lab\.start"):
        measure.placement(empty, {"float": {}})
