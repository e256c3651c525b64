"""Sliders over an experiment: it runs with the first values, again with each new one, and its errors are words."""

import pytest

from kvmlab import KvmlabError
from kvmlab.widgets import vary


def test_the_experiment_runs_at_once_and_again_with_each_value():
    seen = []
    sliders = vary(lambda **values: seen.append(values), guests=(1, 8, 4), busy=(1, 99, 50))
    guests, busy = sliders.children[:2]
    assert (guests.min, guests.max, busy.description, guests.continuous_update) == (1, 8, "busy", False)
    guests.value = 6
    busy.value = 10
    assert seen == [{"guests": 4, "busy": 50}, {"guests": 6, "busy": 50}, {"guests": 6, "busy": 10}]


@pytest.mark.parametrize("numbers", [(1, 2), (5, 1, 2), (1, 2, 5), (0.1, 2, 1), "abc", 3])
def test_a_slider_takes_the_least_the_most_and_the_first_value(numbers):
    with pytest.raises(KvmlabError, match=r"guests=.*the least, the most and the first value"):
        vary(print, guests=numbers)


def test_an_error_of_the_experiment_is_said_and_the_sliders_go_on(capsys):
    def experiment(guests):
        if guests > 2:
            raise KvmlabError("not so many")
        print(guests)

    sliders = vary(experiment, guests=(1, 8, 4))
    sliders.children[0].value = 2
    said = capsys.readouterr().out
    assert said.index("not so many") < said.index("2\n")
