"""Tries of a test are no other test's: each has a progress file of its own."""

import pytest

from kvmlab.course import record


@pytest.fixture(autouse=True)
def course_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KVMLAB_COURSE", str(path := tmp_path / "deep" / "course.json"))
    monkeypatch.setattr(record, "_unwritten", None)
    return path
