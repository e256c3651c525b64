"""Frames as CSV and its description, and back."""

import json
import string

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import Host, KvmlabError, columns, report
from kvmlab.report import data

VALUES = {
    "Int64": st.integers(-(2**63), 2**63 - 1),
    "Float64": st.floats(allow_nan=False),
    "boolean": st.booleans(),
    "string": st.one_of(
        st.sampled_from(["", "\r", "NA", "NA_", "None", "nan", "True", "1", ' "x",\n\r']), st.text(st.characters(exclude_categories=["Cs"]))
    ),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(string.printable), lambda part: st.lists(part) | st.dictionaries(st.text(), part)
)


@st.composite
def frames(draw):
    kind = draw(st.sampled_from(sorted(columns.FRAMES)))
    row = st.tuples(*(st.none() | VALUES[column.dtype] for column in columns.FRAMES[kind]))
    frame = columns.frame(draw(st.lists(row, max_size=4)), kind)
    frame.attrs |= draw(st.dictionaries(st.sampled_from(["accel", "plans", "kvm"]), JSON, max_size=2))
    return frame


@given(frame=frames())
def test_a_frame_of_any_kind_reads_back_as_it_was(tmp_path_factory, frame):
    path = tmp_path_factory.mktemp("data") / "01_x.csv"
    data.write(frame, path, "x")
    back = report.read(path)
    pd.testing.assert_frame_equal(frame, back)
    assert back.attrs == frame.attrs


@pytest.mark.parametrize("kind", columns.FRAMES)
def test_each_kind_is_described_column_by_column(tmp_path, kind):
    data.write(columns.frame([], kind), tmp_path / "x.csv", "x, as cell 1 left it")
    told = json.loads((tmp_path / "x.csv-metadata.json").read_text())
    assert told["@context"][0] == "http://www.w3.org/ns/csvw" and (told["url"], told["kvmlab:kind"]) == ("x.csv", kind)
    for column, described in zip(columns.FRAMES[kind], told["tableSchema"]["columns"], strict=True):
        assert (described["name"], described["kvmlab:dtype"]) == (column.name, column.dtype)
        assert (described["dc:description"], described["dc:source"]) == (column.meaning, column.source)
        assert described.get("kvmlab:unit", "") == column.unit
    pd.testing.assert_frame_equal(report.read(tmp_path / "x.csv"), columns.frame([], kind))


def test_pandas_alone_reads_the_numbers_too(tmp_path):
    cpus = Host().cpus()
    data.write(cpus, tmp_path / "x.csv", "x")
    assert pd.read_csv(tmp_path / "x.csv")["cpu"].tolist() == cpus["cpu"].tolist()


def test_what_a_notebook_made_of_a_frame_is_kept_with_its_named_index_and_its_own_columns(tmp_path):
    found = Host().threads().assign(mine=1.5).groupby(["kind", "cpu"])[["user_s", "mine"]].max()
    assert data.is_measured(found)
    data.write(found, tmp_path / "x.csv", "x")
    back = report.read(tmp_path / "x.csv")
    assert list(back.columns) == ["kind", "cpu", "user_s", "mine"] and str(back["mine"].dtype) == "Float64"
    assert back["user_s"].tolist() == found["user_s"].tolist() and back.attrs["kind"] == "threads"
    assert not data.is_measured(pd.DataFrame({"cpu": [1]})) and not data.is_measured(3)
    told = json.loads((tmp_path / "x.csv-metadata.json").read_text())["tableSchema"]["columns"]
    assert told[3]["dc:description"] == "made by the notebook" and "proc(5)" in told[2]["dc:source"]


def test_a_file_that_is_not_there_or_was_changed_is_named(tmp_path):
    with pytest.raises(KvmlabError, match=r"No such file.*-metadata.json"):
        report.read(tmp_path / "no.csv")
    path = tmp_path / "x.csv"
    data.write(Host().cpus(), path, "x")
    for text, why in (
        ("cpu,online\n0,True\n", "others than those described"),
        (path.read_text().replace("True", "yes"), "yes"),
        ("", "unpack"),
    ):
        path.write_text(text)
        with pytest.raises(KvmlabError, match=rf"x.csv: is not as a report has it.*{why}"):
            report.read(path)
