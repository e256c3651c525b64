import doctest
import importlib
import re
from pathlib import Path

import pandas as pd
import pytest

from kvmlab import Host, Lab, columns, measure, models
from kvmlab.guest.guest import Guest


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


OF_A_HOST = ("support", "flags", "kvm", "cpus", "caches", "nodes", "threads", "threads_per_cpu", "cpu_times", "isolation", "affinity")
METHODS = [(getattr(Host, kind), kind) for kind in OF_A_HOST]
METHODS += [(Lab.vcpus, "vcpus"), (Lab.guests, "guests"), (Lab.sample, "vcpus"), (Lab.subsystems, "subsystems"), (Lab.layers, "layers")]
METHODS += [(getattr(Lab, kind), kind) for kind in ("numbers", "cpu_models", "cpu_expansion", "asked_got", "cpu_trials")]
METHODS += [(Lab.overcommit, "ratios")]
METHODS += [(getattr(Guest, kind), kind) for kind in ("steal", "gaps", "counters", "flags")] + [(Guest.topology, "cpus")]
FUNCTIONS = [(getattr(measure, kind), kind) for kind in ("delta", "residency", "ledger", "exits", "modes", "pingpong")]
FUNCTIONS += [(measure.Sampler.frame, "vcpus"), (measure.compare_topology, "compared_topology"), (measure.thread_moves, "thread_moves")]
FUNCTIONS += [(getattr(models, kind), kind) for kind in ("will_start", "will_migrate")]


@pytest.mark.parametrize("function, kind", METHODS + FUNCTIONS, ids=lambda value: getattr(value, "__qualname__", value))
def test_docstrings_hold_the_table_of_columns(function, kind):
    for column in columns.FRAMES[kind]:
        assert f"{column.name} : {column.dtype}" in function.__doc__ and column.meaning in function.__doc__


@pytest.mark.parametrize("method", [Guest.topology, Guest.flags])
def test_what_a_guest_says_comes_from_its_cpuid_and_from_no_file(method):
    assert "(the guest's CPUID)" in method.__doc__ and not re.search(r"/proc/cpuinfo|/sys/|shared_cpu_list", method.__doc__)


PACKAGE = Path(columns.__file__).parent
WITH_EXAMPLES = [path for path in sorted(PACKAGE.rglob("*.py")) if re.search(r">>> (?!.*\+SKIP)", path.read_text())]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_examples_in_docstrings_run(path):
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    with pd.option_context("display.width", 200):
        result = doctest.testmod(importlib.import_module(module))
    assert not result.failed
