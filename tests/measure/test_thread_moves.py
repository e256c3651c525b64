"""Moves from looks: the kernel's count where there is one, else what the looks show. Looks are made by hand: nobody can order a move."""

import pytest

from kvmlab import Host, KvmlabError, measure
from kvmlab.columns import FRAMES, frame


def look(time_s: float, tid: int, cpu: int | None, migrations: int | None, run_s: float | None = 0.0) -> tuple:
    known = {
        "time_s": time_s,
        "pid": 5,
        "tid": tid,
        "comm": "sh",
        "cpu": cpu,
        "migrations": migrations,
        "run_s": run_s,
        "run_delay_s": run_s,
    }
    return tuple(known.get(column.name) for column in FRAMES["affinity"])


def moved(*looks: tuple):
    return measure.thread_moves(frame(looks, "affinity"))


def test_the_kernels_count_wins_over_what_was_seen():
    (row,) = moved(look(1, 7, 0, 10), look(2, 7, 0, 13), look(3, 7, 1, 14, 1.5)).itertuples()
    assert (row.moves, row.counted_by, row.cpus, row.seconds, row.run_s, row.run_delay_s) == (4, "kernel", "0-1", 2, 1.5, 1.5)


def test_without_it_changes_between_looks_are_counted():
    found = moved(look(3, 7, 0, None), look(1, 7, 0, None), look(2, 7, 5, None), look(1, 8, 2, None), look(2, 8, 2, None))
    assert found.moves.tolist() == [2, 0] and found.cpus.tolist() == ["0,5", "2"]
    assert found.attrs["migrations"] == "changes of cpu from look to look"


def test_both_kinds_are_told_apart_and_one_look_is_no_move():
    found = moved(look(1, 7, 0, 3), look(1, 8, 0, None))
    assert found.counted_by.tolist() == ["kernel", "looks"] and found.moves.tolist() == [0, 0]
    assert found.attrs["migrations"] == "both: see counted_by"


def test_what_is_not_known_stays_unknown():
    assert moved(look(1, 7, 0, 1, None), look(2, 7, 0, 1, None))[["run_s", "run_delay_s"]].isna().all(axis=None)
    assert not len(moved())


def test_another_frame_is_named():
    with pytest.raises(KvmlabError, match=r"no column 'tid'.*measure.follow"):
        measure.thread_moves(Host().cpu_times().assign(pid=1))
