"""A reader's progress: a small file that may be missing, damaged, read-only or somebody else's."""

import json
import warnings

import pytest

from kvmlab.course import progress, record
from kvmlab.course.check import exercises


def test_where_it_is_kept(monkeypatch):
    monkeypatch.delenv("KVMLAB_COURSE")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert str(record.path()) == "/data/kvmlab/course.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/house")
    assert str(record.path()) == "/house/.local/share/kvmlab/course.json"


def test_tries_are_counted_and_the_first_success_stays():
    assert [record.note("00.1", done) for done in (False, False, True, False)] == [1, 2, 0, 1]
    row = progress().set_index("exercise").loc["00.1"]
    assert (row.tries, row.done) == (4, True) and row.since.endswith("+00:00")
    record.note("00.1", True)
    assert progress().set_index("exercise").since["00.1"] == row.since


def test_progress_has_a_row_for_each_exercise_in_order():
    rows = progress()
    assert rows.exercise.tolist() == list(exercises()) == sorted(exercises())
    assert not rows.done.any() and rows.tries.eq(0).all() and rows.since.isna().all()
    assert rows.attrs["unavailable"] == {"since": "not done yet"} and rows.attrs["file"] == str(record.path())


DAMAGED = [
    '{"00.1": {"tr',
    "[]",
    "null",
    "5",
    '{"00.1": 5}',
    '{"00.1": {"tries": "x", "failed": 0, "done": null}}',
    '{"name": {}}',
    "[" * 100_000,
    "\udc80",
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_not_ours_counts_as_none_and_is_put_aside(course_file, text):
    course_file.parent.mkdir()
    course_file.write_bytes(text.encode(errors="surrogateescape"))
    assert progress().tries.sum() == 0
    assert record.note("00.1", False) == 1
    assert json.loads(course_file.read_text())["00.1"]["tries"] == 1
    assert course_file.with_suffix(".unreadable").read_bytes() == text.encode(errors="surrogateescape")


def test_exercises_that_are_no_more_stay_in_the_file_and_out_of_the_frame(course_file):
    record.note("98.7", True)
    record.note("00.1", True)
    assert "98.7" in json.loads(course_file.read_text()) and "98.7" not in progress().exercise.tolist()


def test_where_nothing_can_be_written_the_course_goes_on_and_says_so_once(course_file):
    course_file.parent.parent.joinpath("deep").write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="Your progress cannot be written to .*course.json"):
        assert record.note("00.1", False) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert record.note("00.1", False) == 2
    assert progress().tries.sum() == 2
    course_file.parent.unlink()
    assert record.note("00.1", True) == 0
    assert json.loads(course_file.read_text())["00.1"]["tries"] == 3


def test_a_folder_in_the_files_place_loses_nothing(course_file):
    (course_file / "precious").mkdir(parents=True)
    record.note("00.1", False)
    assert course_file.with_suffix(".unreadable").joinpath("precious").is_dir() and course_file.is_file()


def test_no_half_file_is_left(course_file):
    record.note("00.1", True)
    assert [child.name for child in course_file.parent.iterdir()] == ["course.json"]


def test_tests_and_the_kernels_of_notebooks_do_not_write_into_the_readers_own(monkeypatch):
    """The conftest.py beside pyproject.toml points them all to a file in /tmp."""
    monkeypatch.undo()
    assert "kvmlab-course-" in str(record.path())
