"""A slider for a prediction, and sliders over an experiment."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as ipw

from kvmlab.errors import KvmlabError


def ask(question: str, low: float, high: float, default: float | None = None) -> ipw.FloatSlider:
    """A slider for a prediction in whole steps; ``.value`` is the reader's guess, the middle until it is moved."""
    step = max(1, int(high - low) // 100)
    value = low + (high - low) // 2 // step * step if default is None else default
    if (value - low) % step:
        step = 1  # or the browser would round the default
    layout = ipw.Layout(width="95%", max_width="640px")
    look = {"readout_format": ",.0f", "style": {"description_width": "initial"}, "layout": layout}
    return ipw.FloatSlider(value, min=low, max=high, step=step, description=question, **look)


def vary(experiment: Callable[..., object], **sliders: tuple[int, int, int]) -> ipw.interactive:
    """Sliders over a function that takes seconds: it runs at once, and again whenever one of them is let go.

    Parameters
    ----------
    experiment : callable
        What it draws and prints stands below the sliders, and so does a KvmlabError that it raises.
    **sliders : (int, int, int)
        Argument by argument, the least, the most, and the first value.

    Raises
    ------
    KvmlabError
        For anything but three whole numbers, the last of them not outside the first two.

    Examples
    --------
    >>> vary(lambda guests: plots.waits(measure.overcommit(lab, guests)), guests=(1, 8, 4))       # doctest: +SKIP
    """

    def run(**values: int) -> None:
        try:
            experiment(**values)
        except KvmlabError as error:
            print(error)

    for name, numbers in sliders.items():
        known = isinstance(numbers, tuple | list) and len(numbers) == 3 and all(type(number) is int for number in numbers)
        if not known or not numbers[0] <= numbers[2] <= numbers[1]:
            raise KvmlabError(f"{name}={numbers!r}: write the least, the most and the first value, such as (1, 8, 4).")
    look = {"continuous_update": False, "style": {"description_width": "initial"}, "layout": ipw.Layout(width="95%", max_width="640px")}
    controls = {name: ipw.IntSlider(first, least, most, description=name, **look) for name, (least, most, first) in sliders.items()}
    return ipw.interactive(run, **controls)
