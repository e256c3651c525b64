"""nbgrader runs and grades exercises of the course: real guests, a right and a wrong submission, full and no points."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

HERE = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # nbgrader calls alembic, which pip puts beside Python
SETUP = 'from kvmlab import Lab\nfrom kvmlab.course import check\nlab = Lab()\nc6 = lab.start("c6", topology="2x5x2")'
PLACE = "### BEGIN SOLUTION\nmine = {}\n### END SOLUTION"
GRADE = "verdict = check({})\nprint(verdict)  # or the feedback does not say what was seen\nassert verdict"
PAIRS = '### BEGIN SOLUTION\nlab.start("pairs", topology={})\n### END SOLUTION'


def cell(source: str, name: str, points: int = 0, solution: bool = False):
    grading = {"grade": points > 0, "points": points, "solution": solution, "locked": not solution, "task": False}
    return new_code_cell(source, metadata={"nbgrader": grading | {"grade_id": name, "schema_version": 3}})


def assignment():
    """What a teacher writes: 03.1 for one point, 03.4 for two."""
    cells = [cell(SETUP, "setup")]
    cells += [cell(PLACE.format('"1:3:1"'), "place", solution=True), cell(GRADE.format('"03.1", mine'), "grade-place", 1)]
    cells += [cell(PAIRS.format('"2x2x1"'), "pairs", solution=True), cell(GRADE.format('"03.4"'), "grade-pairs", 2)]
    cells += [cell("print(lab.close())", "clean-up")]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def hand_in(course: Path, student: str, place: str, shape: str) -> None:
    """The released notebook with a student's lines in the places left free."""
    released = nbformat.read(course / "release/topology/topology.ipynb", as_version=4)
    lines = {"place": f"mine = {place}", "pairs": f'lab.start("pairs", topology={shape})'}
    for each in released.cells:
        assert "SOLUTION" not in each.source, "the solution was given away"
        each.source = lines.get(each.metadata.nbgrader.grade_id, each.source)
    folder = course / "submitted" / student / "topology"
    folder.mkdir(parents=True)
    nbformat.write(released, folder / "topology.ipynb")


def nbgrader(course: Path, *words: str) -> str:
    command = [sys.executable, "-m", "nbgrader", *words, "--course-dir", str(course), "--CourseDirectory.course_id=kvm"]
    own = {"JUPYTER_DATA_DIR": str(course / ".data"), "JUPYTER_CONFIG_DIR": str(course / ".config"), "PATH": HERE}
    run = subprocess.run(command, cwd=course, env=os.environ | own, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stderr


@pytest.fixture(scope="module")
def graded(live, tmp_path_factory):
    from nbgrader.api import Gradebook

    course = tmp_path_factory.mktemp("course")
    (course / "source/topology").mkdir(parents=True)
    nbformat.write(assignment(), course / "source/topology/topology.ipynb")
    nbgrader(course, "generate_assignment", "topology")
    hand_in(course, "right", '"1:3:1"', '"2x1x2"')  # not the teacher's shape, and right all the same
    hand_in(course, "wrong", "None", '"1x4x1"')
    nbgrader(course, "autograde", "topology")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", HERE)
        book = Gradebook(f"sqlite:///{course}/gradebook.db")
    with book:
        yield course, {student: book.find_submission("topology", student) for student in ("right", "wrong")}
    shutil.rmtree(course)


def test_nbgrader_gives_full_and_no_points(graded):
    _, found = graded
    assert {student: (one.score, one.max_score) for student, one in found.items()} == {"right": (3, 3), "wrong": (0, 3)}


def test_what_a_student_gets_back_says_what_was_seen(graded):
    course, _ = graded
    cells = nbformat.read(course / "autograded/wrong/topology/topology.ipynb", as_version=4).cells
    texts = {each.metadata.nbgrader.grade_id: str(each.get("outputs")) for each in cells}
    assert "not tried yet" in texts["grade-place"] and "vCPUs on each L3 cache that it sees: 4" in texts["grade-pairs"]
    assert "AssertionError" in texts["grade-place"] and "AssertionError" in texts["grade-pairs"]
    assert "guests gone" in texts["clean-up"], "the notebook did not go on to its end"
