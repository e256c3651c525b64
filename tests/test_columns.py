import doctest
import importlib

import pandas as pd
import pytest

from kvmlab import Host, Lab, columns, measure


@pytest.mark.parametrize("kind", columns.FRAMES)
def test_an_empty_frame_has_the_columns_and_dtypes_of_a_full_one(kind):
    empty = columns.frame([], kind)
    full = columns.frame([(None,) * len(columns.FRAMES[kind])], kind)
    assert list(empty.columns) == [column.name for column in columns.FRAMES[kind]]
    assert (empty.dtypes == full.dtypes).all() and full.isna().all(axis=None)


@pytest.mark.parametrize("kind", columns.FRAMES)
def test_every_column_says_what_it_means_and_where_it_comes_from(kind):
    for column in columns.FRAMES[kind]:
        assert column.meaning and column.source and column.dtype in {"Int64", "Float64", "string", "boolean"}
        assert column.unit or not column.name.endswith(("_s", "_kib", "_mhz", "_pct"))
    assert len({column.name for column in columns.FRAMES[kind]}) == len(columns.FRAMES[kind])


def test_a_column_without_values_says_why():
    frame = columns.frame([(0, *[None] * 16)], "cpus", unavailable={"l3": "because"})
    assert frame.attrs["unavailable"]["l3"] == "because"
    assert "cpufreq/cpuinfo_max_freq" in frame.attrs["unavailable"]["max_mhz"]
    assert "cpu" not in frame.attrs["unavailable"]


OF_A_HOST = ("support", "flags", "kvm", "cpus", "caches", "nodes", "threads", "threads_per_cpu", "cpu_times", "isolation")
METHODS = [(getattr(Host, kind), kind) for kind in OF_A_HOST]
METHODS += [(Lab.vcpus, "vcpus"), (Lab.guests, "guests"), (Lab.sample, "vcpus"), (Lab.subsystems, "subsystems"), (Lab.layers, "layers")]
FUNCTIONS = [(getattr(measure, kind), kind) for kind in ("delta", "residency", "ledger", "exits", "modes")]
FUNCTIONS += [(measure.Sampler.frame, "vcpus")]


@pytest.mark.parametrize("function, kind", METHODS + FUNCTIONS, ids=lambda value: getattr(value, "__qualname__", value))
def test_docstrings_hold_the_table_of_columns(function, kind):
    for column in columns.FRAMES[kind]:
        assert f"{column.name} : {column.dtype}" in function.__doc__ and column.meaning in function.__doc__


@pytest.mark.parametrize(
    "module", ["kvmlab.host.cpulist", "kvmlab.host.caches", "kvmlab.host.isolation", "kvmlab.host.host", "kvmlab.measure.sampler"]
)
def test_the_examples_in_docstrings_run(module):
    with pd.option_context("display.width", 200):
        result = doctest.testmod(importlib.import_module(module))
    assert result.attempted and not result.failed
