"""Exercises of 00: answers that are no answers, with the guest there; recordings that are none. The solutions do the rest."""

import math

import pandas as pd
import pytest

from kvmlab.course import check


def test_what_is_no_thread_is_wrong_while_c1_runs(lab):
    c1 = lab.start("c1", vcpus=2)
    for odd in ("x", "", math.nan, -1, 0, 10**18, [], pd.NA, pd.DataFrame({"a": [1]}), True, c1):
        assert not check("00.1", odd), odd
    assert "none of c1's process" in str(check("00.1", 1))
    tid = c1.process.look().vcpus[1]
    assert check("00.1", tid) and check("00.1", str(tid))


def test_a_recording_is_compared_with_this_machine(tmp_path):
    (tmp_path / "half.tar.xz").write_bytes(b"\xfd7zXZ\0\0")
    for path, words in (("half.tar.xz", "half.tar.xz"), ("none.tar.xz", "there is no such recording"), ("", "recording")):
        verdict = check("00.2", str(tmp_path / path))
        assert not verdict and words in str(verdict)
    assert not check("00.2", None).findings


@pytest.mark.parametrize(("column", "done"), [("args", True), ("tid", False), ("allowed_cpus", False)])
def test_what_a_recording_lost_is_looked_up_in_one(column, done):
    assert bool(check("00.3", column)) == done
