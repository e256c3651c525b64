"""What a notebook may be given, and what is refused before anything runs."""

import os

import nbformat
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvmlab import KvmlabError, report
from kvmlab.report import parameters
from tests.report.conftest import notebook


@given(st.text())
@example("True")
@example("None")
@example("1_000")
@example("1e3")
@example("inf")
@example(" 7 ")
def test_values_are_read_as_papermill_reads_them(text):
    from papermill.cli import _resolve_type

    assert repr(parameters.parse([f"a={text}"])["a"]) == repr(_resolve_type(text))


@pytest.mark.parametrize("pair", ["seconds", "=3", "a b=1", "1=2"])
def test_what_is_no_name_with_a_value_is_refused(pair):
    with pytest.raises(KvmlabError, match=r"write name=value"):
        parameters.parse([pair])


OWN = "seconds = 2  # of each\nplan: str = '0-1'\nfast = True\nguess = None\nwork = ['spin']\nlater = 2 * 3\nlow, high = 1, 2"


def test_a_notebooks_own_parameters_are_what_its_tagged_cell_assigns(tmp_path):
    book = parameters.load(notebook(tmp_path / "a.ipynb", "1", parameters=OWN))
    assert parameters.own(book) == {"seconds": 2, "plan": "0-1", "fast": True, "guess": None, "work": ["spin"], "later": "2 * 3"}


@pytest.mark.parametrize(
    "given, words",
    [
        ({"second": 3}, r"has no parameter 'second': is it 'seconds'\? It has: seconds=2, plan='0-1'"),
        ({"zzz": 3}, r"has no parameter 'zzz'\? It has"),
        ({"seconds": "four"}, "wants int there; its own is 2"),
        ({"seconds": True}, "wants int"),
        ({"fast": 1}, "wants bool"),
        ({"work": "spin"}, "wants list"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_with_what_would_be_legal(tmp_path, given, words):
    path = notebook(tmp_path / "a.ipynb", "1", parameters=OWN)
    with pytest.raises(KvmlabError, match=words):
        report.run(path, tmp_path / "out", given)
    assert os.listdir(tmp_path) == ["a.ipynb"]


def test_given_parameters_stand_in_a_cell_below_the_notebooks_own(tmp_path):
    book = parameters.load(notebook(tmp_path / "a.ipynb", "1", parameters=OWN))
    cells = parameters.given(book, "a.ipynb", {"seconds": 0.5, "plan": 1, "guess": 3}).cells
    assert cells[1].source == OWN
    values: dict = {}
    exec(cells[2].source, values)
    assert (values["seconds"], values["plan"], values["guess"]) == (0.5, "1", 3)


def test_a_notebook_without_a_tagged_cell_takes_none(tmp_path):
    with pytest.raises(KvmlabError, match=r"takes no parameters.*tag 'parameters'"):
        report.run(notebook(tmp_path / "a.ipynb", "1"), tmp_path / "out", {"seconds": 3})


def test_what_is_no_notebook_is_refused_with_a_sentence(tmp_path):
    notebook(tmp_path / "07_pinning.ipynb", "1")
    (tmp_path / "text.ipynb").write_text("hello")
    (tmp_path / "other.ipynb").write_text('{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}')
    (tmp_path / "binary.ipynb").write_bytes(b"\xff\xfe\x00")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "empty.ipynb")
    for name, words in (
        ("07_pining.ipynb", r"There is no notebook .* Is it .*07_pinning.ipynb\?"),
        ("text.ipynb", "is no notebook that Jupyter can read"),
        ("other.ipynb", "is no notebook that Jupyter can read"),
        ("binary.ipynb", "not even text"),
        ("empty.ipynb", "no code to run"),
        (".", r"is a folder: name one of its notebooks, such as .*07_pinning.ipynb"),
    ):
        with pytest.raises(KvmlabError, match=words) as error:
            report.run(tmp_path / name, tmp_path / "out")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
