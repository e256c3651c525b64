"""Threads on each host CPU, and where its time went: what the pictures show is what the frames say."""

import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from kvmlab import Host, KvmlabError, plots
from kvmlab.columns import frame
from kvmlab.plots import usage
from tests.plots.made import clipped, cpu_row, extents, machine, overlapping


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def threads(*rows: tuple) -> pd.DataFrame:
    return frame(rows, "threads_per_cpu")


def title(ax) -> str:
    return ax.get_title(loc="left")


def key(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


# ---- threads


def test_each_bar_is_as_long_as_its_cpu_has_threads():
    ax = plots.threads_per_cpu(threads((0, "ordinary", 5, 1), (0, "vcpu", 2, 2), (3, "kworker", 4, 0), (3, "rcu", 1, 0)))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["CPU 0", "CPU 3"]
    ends = {0: 7, 1: 5}
    assert all(
        max(bar.get_x() + bar.get_width() for bar in ax.patches if round(bar.get_y() + 0.43) == row) == end for row, end in ends.items()
    )
    assert title(ax) == "12 threads last ran on 2 CPUs: 5 to 7 on each"
    assert key(ax) == ["vCPUs", "ordinary", "kworkers", "other kernel threads"]


def test_kinds_that_no_group_names_are_other_kernel_threads():
    ax = plots.threads_per_cpu(threads((0, "kauditd", 1, 0), (0, "a kind of tomorrow", 2, 0)))
    assert key(ax) == ["other kernel threads"]
    assert "3 other kernel threads" in plots.threads_per_cpu_in_words(threads((0, "kauditd", 1, 0), (0, "a kind of tomorrow", 2, 0)))


def test_every_thread_of_this_machine_is_in_the_picture():
    found = Host().threads_per_cpu()
    ax = plots.threads_per_cpu(found)
    if len(ax.patches):
        assert sum(bar.get_width() for bar in ax.patches) == found["threads"].sum()
    assert title(ax).startswith(f"{found['threads'].sum()} thread")


def test_a_number_stands_on_a_part_only_where_it_fits():
    ax = plots.threads_per_cpu(threads((0, "ordinary", 900, 1), (0, "kworker", 1, 1)))
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["900", "901"]
    assert overlapping(ax) == []


def test_online_cpus_without_threads_have_their_place_and_isolated_ones_stand_out():
    cpus = frame([cpu_row(0), cpu_row(1, isolated=True), cpu_row(2, online=False)], "cpus")
    ax = plots.threads_per_cpu(threads((0, "ordinary", 5, 1)), cpus=cpus)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["CPU 0", "CPU 1"]
    assert key(ax) == ["ordinary", "isolated CPU"]
    assert plots.threads_per_cpu_in_words(threads((0, "ordinary", 5, 1)), cpus).endswith("CPU 1: 0; isolated: 1")


@pytest.mark.parametrize("cpus", [1, 2, 16, 23, 24, 64, 128, 256])
def test_from_1_to_256_cpus_no_text_touches_another(cpus):
    ax = plots.threads_per_cpu(
        threads(*((cpu, kind, 1 + cpu % 7, 0) for cpu in range(cpus) for kind in ("ordinary", "kworker", "migration")))
    )
    assert (overlapping(ax), clipped(ax)) == ([], [])


def test_on_many_cpus_bars_stand_upright_and_are_as_high_as_the_cpu_has_threads():
    ax = plots.threads_per_cpu(threads(*((cpu, kind, cpu + 1, 0) for cpu in range(40) for kind in ("ordinary", "rcu"))))
    tops = {}
    for drawn in ax.collections:
        for path in drawn.get_paths():
            place = round(path.vertices[:, 0].mean())
            tops[place] = max(tops.get(place, 0), path.vertices[:, 1].max())
    assert tops == {cpu: 2 * (cpu + 1) for cpu in range(40)}


def test_the_extremes_of_many_cpus_in_words():
    words = plots.threads_per_cpu_in_words(threads(*((cpu, "ordinary", 10 + cpu, 0) for cpu in range(20))))
    assert words == "390 threads on 20 CPUs; CPU 0 (fewest): 10 (10 ordinary); CPU 19 (most): 29 (29 ordinary)"


def test_threads_of_no_known_cpu_are_not_put_on_one():
    assert plots.threads_per_cpu_in_words(threads((None, "ordinary", 5, 0))) == "0 threads on 0 CPUs"


# ---- time


PARTS = ("user_s", "nice_s", "kernel_s", "idle_s", "iowait_s", "irq_s", "softirq_s", "steal_s", "guest_s", "guest_nice_s")


def reading(time_s: float, cpus: int = 1, **seconds: float | None) -> pd.DataFrame:
    """One cpu_times() frame; what is not given is 0."""
    values = dict.fromkeys(PARTS, 0.0) | seconds
    return frame([(time_s, cpu, *(values[part] for part in PARTS)) for cpu in range(cpus)], "cpu_times")


def areas(ax) -> dict[str, float]:
    """For each part, the area drawn in its colour, as a share of all."""
    found = {}
    for drawn in ax.collections:
        sides = [path.get_extents() for path in drawn.get_paths()]
        found[tuple(drawn.get_facecolor()[0][:3])] = sum(abs(side.width * side.height) for side in sides)
    return {part: found[to_rgb(colour)] / sum(found.values()) for part, colour in plots.PALETTE.items() if to_rgb(colour) in found}


def test_areas_are_the_parts_of_the_time():
    first, second = (
        reading(10),
        reading(11, user_s=0.1, nice_s=0.1, kernel_s=0.1, irq_s=0.1, steal_s=0.05, guest_s=0.2, idle_s=0.3, iowait_s=0.05),
    )
    ax = plots.cpu_times(pd.concat([first, second]))
    assert areas(ax) == pytest.approx({"guest": 0.2, "user": 0.2, "kernel": 0.2, "waiting": 0.05, "halted": 0.35})
    assert key(ax) == ["guest", "user", "kernel", "steal", "idle"]
    assert "60% busy" in {text for text, _ in extents(ax)}
    assert plots.cpu_times_in_words(pd.concat([first, second])) == (
        "1 CPU 60% busy in 1 s; CPU 0: guest 20%, user 20%, kernel 20%, steal 5%, idle 35%"
    )


def test_what_a_kernel_does_not_count_is_left_out_not_nought():
    samples = pd.concat([reading(0, guest_s=None, guest_nice_s=None), reading(1, user_s=0.5, idle_s=0.5, guest_s=None, guest_nice_s=None)])
    assert key(plots.cpu_times(samples)) == ["user", "kernel", "steal", "idle"]
    assert "guest" not in plots.cpu_times_in_words(samples)


def test_an_idle_counter_that_steps_back_is_no_time():
    samples = pd.concat([reading(0, idle_s=5), reading(1, idle_s=4.9, user_s=1)])
    assert areas(plots.cpu_times(samples))["user"] == pytest.approx(1)


def test_readings_in_any_order_are_compared_in_time_and_a_cpu_that_was_away_leaves_a_gap():
    samples = pd.concat([reading(2, cpus=2, user_s=2), reading(0, cpus=2), reading(1, cpus=1, user_s=1)])
    steps = usage._steps(samples)
    assert sorted(zip(steps["cpu"], steps["start"], steps["end"], steps["user"], strict=True)) == [(0, 0, 1, 1), (0, 1, 2, 1), (1, 0, 2, 2)]


def test_one_reading_tells_no_time():
    ax = plots.cpu_times(reading(0, cpus=2))
    assert "it takes two readings" in title(ax)
    assert "it takes two readings" in plots.cpu_times_in_words(reading(0)[:0])


@pytest.mark.parametrize(("cpus", "heat"), [(1, False), (2, False), (16, False), (17, True), (64, True), (256, True)])
def test_more_than_16_cpus_are_a_heat_map_and_no_text_touches_another(cpus, heat):
    samples = pd.concat([reading(number / 10, cpus, user_s=number / 40, idle_s=number / 10 * 0.75) for number in range(6)])
    ax = plots.cpu_times(samples)
    assert (overlapping(ax), clipped(ax)) == ([], [])
    arrays = [drawn.get_array() for drawn in ax.collections if drawn.get_array() is not None]
    assert bool(arrays) is heat
    if heat:
        assert arrays[0].tolist() == pytest.approx([25] * 5 * cpus)


SPIN = """
import os, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
while time.process_time() < 0.5:
    pass
print(max(os.sched_getaffinity(0)))
"""


def test_what_a_busy_program_took_on_its_cpu_is_in_the_picture():
    host = Host()
    before = host.cpu_times()
    cpu = int(subprocess.run([sys.executable, "-c", SPIN], capture_output=True, text=True, check=True).stdout)
    steps = usage._steps(pd.concat([before, host.cpu_times()]))
    mine = steps[steps["cpu"] == cpu]
    assert len(mine) == 1
    assert usage._busy(mine).item() > 0.4, "seconds of user and kernel time, of the 0.5 that the program took"


@pytest.mark.parametrize("draw", [plots.cpu_times, plots.threads_per_cpu, plots.cpu_times_in_words, plots.threads_per_cpu_in_words])
def test_another_frame_is_refused_with_the_name_of_the_right_one(draw):
    with pytest.raises(KvmlabError, match=r"pass the one of Host\.(cpu_times|threads_per_cpu)\(\)"):
        draw(frame([], "nodes"))


def test_pictures_are_on_white_whatever_the_style():
    with plt.style.context("dark_background"):
        for ax in (
            plots.cpu_times(reading(0)),
            plots.threads_per_cpu(threads((0, "ordinary", 1, 0))),
            plots.machine(*machine(1, 1, 1, 2, 1)),
        ):
            assert to_rgb(ax.figure.get_facecolor()) == to_rgb("white")
            assert not ax.axison or to_rgb(ax.get_facecolor()) == to_rgb("white")
            shown = [*ax.texts, *(ax.get_legend().get_texts() if ax.get_legend() else ())]
            assert all(sum(to_rgb(text.get_color())) < 1.5 for text in shown if text.get_text())
