"""The tour and the pictures, on real guests."""

import subprocess
import sys

import matplotlib
import pytest

from kvmlab import measure, plots

matplotlib.use("agg")


def test_the_tour_tells_its_story_and_leaves_nothing(live):
    run = subprocess.run([sys.executable, "-m", "kvmlab.cli", "tour"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for words in ("Floating", "Stacked", "One to one", "virsh vcpupin c1 0", "Work done by all four together", "2 guests gone"):
        assert words in run.stdout


def test_the_pictures_hold_what_was_measured(lab):
    lab.start("kl-c1", vcpus=2).work("spin")
    samples = lab.sample(seconds=1, hz=10)
    ax = plots.placement(samples, "A title")
    assert ax.get_title(loc="left") == "A title"
    assert {label.get_text().split()[0] for label in ax.get_yticklabels()} == {"kl-c1", "CPU"} or len(samples["cpu"].unique()) == 1
    drawn = sum(-bar.get_height() * bar.get_width() for bar in ax.patches if bar.get_facecolor()[:3] == matplotlib.colors.to_rgb("#0072B2"))
    assert drawn / 0.8 == pytest.approx(measure.residency(samples)["run_s"].sum(), rel=0.02)
    moves, work = plots.rates({"a": measure.rates(samples), "b": measure.rates(samples)}, guess=3)
    assert [text.get_text() for text in moves.texts].count("your guess: 3") == 1
    assert len(work.patches) == 4


def test_pictures_of_nothing_are_empty_not_errors(lab):
    plots.placement(lab.sample(seconds=0.1))
    matplotlib.pyplot.close("all")
