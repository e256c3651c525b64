import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import KvmlabError, cpulist

cpu_sets = st.sets(st.integers(0, 9000), max_size=50)


@given(cpu_sets)
def test_what_format_writes_parse_reads(cpus):
    assert cpulist.parse(cpulist.format(cpus)) == tuple(sorted(cpus))


@given(cpu_sets.filter(bool))
def test_a_list_is_as_short_as_it_can_be(cpus):
    runs = sum(cpu - 1 not in cpus for cpu in cpus)
    assert cpulist.format(cpus).count(",") == runs - 1


@given(st.text(max_size=30))
def test_any_text_is_a_list_or_a_clear_error(text):
    try:
        assert all(0 <= cpu <= cpulist.HIGHEST_CPU for cpu in cpulist.parse(text))
    except KvmlabError as error:
        assert "0-3,8" in str(error)


@pytest.mark.parametrize(
    "text, cpus",
    [("", ()), ("\n", ()), ("0", (0,)), ("0-3,8\n", (0, 1, 2, 3, 8)), ("0-3,^2", (0, 1, 3)), ("3, 1", (1, 3)), ("007", (7,))],
)
def test_lists_of_the_kernel_and_of_libvirt(text, cpus):
    assert cpulist.parse(text) == cpus


def test_as_written_is_what_parse_sorts():
    assert cpulist.as_written("3, 0-2,^1,3") == (3, 0, 2) and cpulist.as_written("^1,1") == (1,)


@pytest.mark.parametrize("text", ["3-1", "a", "1,,2", str(10**9), "0-" + "9" * 5000, "-1", "1-", "^1-2", "1;2", "٣", "0x1", ","])
def test_nonsense_is_named(text):
    with pytest.raises(ValueError, match="CPU list"):
        cpulist.parse(text)
