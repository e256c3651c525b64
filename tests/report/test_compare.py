"""What differs between two reports: states exactly, numbers beyond noise, and what is but told."""

import json
import random

import pytest

from kvmlab import columns, report
from kvmlab.errors import ReportError
from kvmlab.report import compare, data
from kvmlab.report.intervals import SCALES
from kvmlab.report.roles import ROLES
from tests.report.conftest import notebook

QUIET = {"cpu": 0, "seconds": 0.5, "others": 0.01, "guests": 0.0, "interval": 0.01, "turns_per_s": 1e7}
LOUD = QUIET | {"cpu": 1, "others": 0.6}
PLACED = ("plan", "repeat", "guest", "vcpu", "work", "cpus")


def placement(draw=None, cpus="0", share=0.5, turns=1e6, spread=0.01, plans=4, others=0.0):
    """Four plans, two vCPUs and three repeats; the numbers are drawn around the same values."""
    draw = draw or random.Random(1)
    rows = []
    for number in range(plans):
        for repeat in range(3):
            for vcpu in (0, 1):
                one = draw.gauss(1, spread)
                numbers = share * one, (1 - share) * one, 0.0, turns * draw.gauss(1, spread), 1e-5, 0.004 * draw.gauss(1, 5 * spread)
                rows.append((f"plan {number}", repeat, "c1", vcpu, "spin", cpus, 0.3, *numbers, others))
    return columns.frame(rows, "placement")


@pytest.fixture
def made(tmp_path):
    """Makes the folder of a report, of frames by name; what else it says of itself is given or usual."""

    def make(name, noise=(QUIET,), **parts):
        frames = {key: part for key, part in parts.items() if hasattr(part, "attrs")}
        (tmp_path / name / "data").mkdir(parents=True)
        for key, frame in frames.items():
            data.write(frame, tmp_path / name / "data" / f"01_{key}.csv", key)
        told = {"notebook": "x.ipynb", "status": "complete", "noise": {"before": list(noise), "after": list(noise)}}
        told |= {"started": name, "took_s": random.random()} | {key: part for key, part in parts.items() if key not in frames}
        (tmp_path / name / "environment.json").write_text(json.dumps(told))
        return tmp_path / name

    return make


def differing(found):
    return found.frame[found.frame.differs]


# ---- nothing


def test_a_report_and_itself_are_the_same(made):
    folder = made("a", runs=placement())
    found = compare(folder, folder)
    assert not found.differs and str(found).startswith("No difference beyond noise: 16 states and 48 measured numbers")
    assert "A and B are the same folder." in str(found)


def test_reports_that_have_nothing_in_common_do_not_say_that_they_are_alike(made):
    found = compare(made("a"), made("b"))
    assert not found.differs and str(found).startswith("Nothing was compared: ")


def test_two_reports_of_the_same_are_the_same_far_more_often_than_not(made):
    """Some 500 numbers in each of ten pairs, drawn anew; how often it is so of real ones stands at compare."""
    folders = [made(str(seed), runs=placement(random.Random(seed), spread=0.03, plans=40)) for seed in range(5)]
    pairs = [(a, b) for a in folders for b in folders if a < b]
    assert sum(compare(a, b).differs for a, b in pairs) == 0


def test_what_is_of_the_moment_is_no_difference(made):
    def looked(pid, cpu, time):
        return columns.frame([(time, "c1", 0, pid, pid + 1, cpu, "R", "0-1", 1.0 + time, 0.1, 0.2, 1.0, 0.1, 7, "spin", 99)], "vcpus")

    assert not compare(made("a", look=looked(100, 0, 5.0)), made("b", look=looked(200, 1, 9.0))).differs


def test_guests_of_others_come_and_go(made):
    def guests(*others):
        rows = [("c1", "running", 1, 4711, "kvm", True, 32768, 1), *((name, "running", 2, 815, "kvm", False, 1, None) for name in others)]
        return columns.frame(rows, "guests")

    found = compare(made("a", guests=guests("db")), made("b", guests=guests()))
    assert not found.differs and "comes and goes" in found.frame.why.str.cat()
    assert compare(made("c", guests=guests()), made("d", guests=guests().iloc[:0])).differs


# ---- differences


def test_another_pin_is_a_difference_however_noisy_it_was(made):
    found = compare(made("a", [LOUD], runs=placement(cpus="0")), made("b", [LOUD], runs=placement(cpus="0-1")))
    assert set(differing(found).column) == {"cpus"} and len(differing(found)) == 8
    assert "01_runs, plan plan 0, guest c1, vcpu 0: cpus 0 -> 0-1" in str(found)


def test_another_share_is_a_difference_on_a_quiet_machine_and_none_on_a_noisy_one(made):
    frames = placement(share=0.5), placement(share=0.8)
    quiet = compare(made("a", runs=frames[0]), made("b", runs=frames[1]))
    assert {"share", "waited"} <= set(differing(quiet).column) and "turns_per_s" not in set(differing(quiet).column)
    noisy = compare(made("c", runs=frames[0]), made("d", [QUIET, LOUD], runs=frames[1]))
    assert not noisy.differs and "B: others took 60 % of CPU 1 before it." in str(noisy)


def test_a_rate_that_doubles_is_a_difference_unless_the_machine_was_that_much_faster(made):
    frames = placement(turns=1e6), placement(turns=2e6)
    assert set(differing(compare(made("a", runs=frames[0]), made("b", runs=frames[1]))).column) == {"turns_per_s"}
    faster = QUIET | {"turns_per_s": 2e7}
    assert not compare(made("c", runs=frames[0]), made("d", [faster], runs=frames[1])).differs


def test_what_others_took_while_it_was_measured_widens_the_intervals(made):
    frames = placement(share=0.8), placement(share=0.5, others=0.3)
    assert not compare(made("a", runs=frames[0]), made("b", runs=frames[1])).differs
    assert compare(made("c", runs=placement(share=0.8, others=0.3)), made("d", runs=frames[1])).differs


def test_guests_that_a_report_watches_are_not_its_noise(made):
    def got(percent):
        rows = [("db", 0, 1.0, percent + step, 100 - percent, 0.0, None) for step in (-0.5, 0, 0.5)]
        return columns.frame(rows, "delta")

    watched = columns.frame([("db", "running", 1, 815, "kvm", False, 1, None)], "guests")
    taken = [LOUD | {"guests": 0.58}]
    reports = [made(str(n), taken, guests=watched, got=got(percent)) for n, percent in enumerate((33, 95))]
    assert set(differing(compare(*reports)).column) == {"run_pct", "run_delay_pct"}
    own = watched.assign(owned=True)
    reports = [made(str(n), taken, guests=own, got=got(percent)) for n, percent in ((2, 33), (3, 95))]
    assert not compare(*reports).differs


def test_what_was_measured_once_is_not_judged(made):
    found = compare(made("a", runs=placement(share=0.1).query("repeat == 0")), made("b", runs=placement(share=0.9).query("repeat == 0")))
    assert not found.differs and found.frame.why.str.contains("measured once").any()


def test_pauses_are_judged_on_a_quiet_machine_only(made):
    def frames():
        return placement(), placement().assign(longest_s=lambda frame: 50 * frame.longest_s)

    assert set(differing(compare(*(made(str(n), runs=frame) for n, frame in enumerate(frames())))).column) == {"longest_s"}
    assert not compare(*(made(f"{n} loud", [LOUD], runs=frame) for n, frame in enumerate(frames()))).differs


def test_the_passes_of_a_lock_are_judged_on_a_quiet_machine_only(made):
    def lock(passes):
        return columns.frame([(2, "0-1", n, 0.2, passes * (1 + n / 10), 2.0, 0.0) for n in range(3)], "lock_collapse")

    assert compare(made("a", lock=lock(1e5)), made("b", lock=lock(1e2))).differs
    assert not compare(made("c", [LOUD], lock=lock(1e5)), made("d", lock=lock(1e2))).differs


def test_a_plan_or_a_table_that_one_of_them_has_not_is_a_difference(made):
    found = compare(made("a", runs=placement(plans=2), more=placement()), made("b", runs=placement(plans=3)))
    told = str(found)
    assert "01_runs, plan plan 2, guest c1, vcpu 1: only B has it" in told and "01_more, the table: only A has it" in told


def test_a_failed_report_is_compared_as_far_as_it_goes(made):
    found = compare(made("a", runs=placement()), made("b", status="failed"))
    assert differing(found).why.tolist() == ["it failed in one of them", "only A has it"]
    assert "B did not go through: what came after the cell that failed is missing there." in str(found)


def test_what_a_report_was_made_with_is_told_and_no_difference(made):
    versions = {"kernel": "6.1", "packages": {"pandas": "2.2"}}
    newer = {"kernel": "6.2", "packages": {"pandas": "2.2"}}
    found = compare(made("a", parameters={"seconds": 1}, versions=versions), made("b", parameters={}, versions=newer))
    assert not found.differs
    assert "parameters.seconds: 1 in A, none in B." in str(found) and "versions.kernel: 6.1 in A, 6.2 in B." in str(found)
    assert "pandas" not in str(found)


# ---- what is no pair of reports


def test_what_is_no_report_is_named(made, tmp_path):
    good = made("a")
    with pytest.raises(ReportError, match="there is no such folder"):
        compare(good, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReportError, match=r"empty is no report: it has no environment\.json"):
        compare(tmp_path / "empty", good)
    for text in ("{", "[]", "\xff"):
        (tmp_path / "empty" / "environment.json").write_text(text, encoding="latin-1")
        with pytest.raises(ReportError, match=r"environment\.json cannot be read"):
            compare(good, tmp_path / "empty")


def test_reports_of_different_notebooks_are_refused(made):
    with pytest.raises(ReportError, match=r"of x\.ipynb, .* one of y\.ipynb: compare reports of one notebook"):
        compare(made("a"), made("b", notebook="y.ipynb"))


def test_a_truncated_file_is_named(made):
    broken = made("b", runs=placement()) / "data" / "01_runs.csv"
    broken.write_text(broken.read_text()[:-30])
    with pytest.raises(ReportError, match=r"01_runs\.csv: is not as a report has it"):
        compare(made("a", runs=placement()), broken.parent.parent)


@pytest.mark.parametrize("noise", [{}, None, {"before": None, "after": []}])
def test_a_report_that_does_not_know_its_noise_is_compared_as_a_quiet_one_and_says_so(made, noise):
    told = {"notebook": "x.ipynb", "status": "complete", "noise": noise}
    one, two = made("a", runs=placement()), made("b", runs=placement(share=0.9))
    (two / "environment.json").write_text(json.dumps(told))
    found = compare(one, two)
    assert found.differs and "B does not say how noisy the machine was" in str(found)


# ---- how it shows itself, and the table of roles


def test_the_table_for_notebooks_is_harmless(made):
    found = compare(made("a", parameters={"<b>": 1}, runs=placement(cpus="<i>")), made("b", runs=placement()))
    page = found._repr_html_()
    assert "&lt;b&gt;" in page and "&lt;i&gt;" in page and "<i>" not in page
    assert "differ beyond noise" in page and found.frame.attrs["kind"] == "compared_reports"


def test_many_differences_are_shortened(made):
    found = compare(made("a", runs=placement(cpus="1", plans=40)), made("b", runs=placement(plans=40)))
    assert "... and 40 more: .frame has them all" in str(found) and len(differing(found)) == 80


@pytest.mark.parametrize("kind", ROLES)
def test_a_role_names_columns_that_there_are(kind):
    known = {column.name: column for column in columns.FRAMES[kind]}
    role = ROLES[kind]
    assert {*role.keys, *role.states, *(part for result in role.results for part in result.split("/"))} <= known.keys()
    assert all("/" in result or known[result].unit in SCALES for result in role.results)


# ---- real ones

CELLS = (
    "from kvmlab import Lab, measure\nlab = Lab()",
    "guest = lab.start('cmp-a', vcpus=2)\nguest.work('spin')\nlab.plan({('cmp-a', vcpu): pin for vcpu in (0, 1)}).apply()",
    "runs = measure.placement(lab, {'as it is': {}, 'free': {('cmp-a', 0): every}}, seconds=0.3, repeats=3)",
    "vcpus = lab.vcpus()",
    "print(lab.close())",
)


def test_two_real_reports_are_the_same_and_one_with_another_pin_is_not(live, tmp_path):
    import os

    from kvmlab import cpulist

    cpus = sorted(os.sched_getaffinity(0))
    every = cpulist.format(cpus)
    path = notebook(tmp_path / "placed.ipynb", *CELLS, parameters=f"pin = '{cpus[0]}'\nevery = '{every}'")
    made = [report.run(path, tmp_path / name, {"pin": pin}) for name, pin in (("a", str(cpus[0])), ("b", str(cpus[0])), ("c", every))]
    assert [one.status for one in made] == ["complete"] * 3
    same, other = (compare(made[0].path, one.path) for one in made[1:])
    assert not same.differs, str(same)
    if len(cpus) > 1:
        assert {"cpus", "allowed_cpus"} <= set(differing(other).column), str(other)
