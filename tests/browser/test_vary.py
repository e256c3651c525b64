"""Sliders over an experiment on real guests, in JupyterLab in a real Chromium: moved by the keyboard, they measure again."""

from playwright.sync_api import expect

START = """
from kvmlab import Lab, measure, plots
from kvmlab.widgets import vary
lab = Lab()

def experiment(guests):
    runs = measure.overcommit(lab, guests, "0", "spin", seconds=0.3, repeats=1, progress=False)
    print(f"{len(runs)} vCPUs were measured, each to have {runs.predicted[0]:.2f} of a CPU")

vary(experiment, guests=(1, 4, 2))
"""


def test_a_slider_that_is_moved_measures_again_on_real_guests(opened):
    page = opened("vary", START)
    output = page.locator(".jp-OutputArea").first
    expect(output).to_contain_text("2 vCPUs were measured, each to have 0.50 of a CPU")
    slider = output.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(output).to_contain_text("3 vCPUs were measured, each to have 0.33 of a CPU")
    expect(output).not_to_contain_text("2 vCPUs were measured")
    page.close()
