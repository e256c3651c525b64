"""The notebooks as one book: headers, times, terms, exercises and links agree with each other, the map and the glossary."""

import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from kvmlab import columns
from tests.conftest import REPOSITORY

BOOK = REPOSITORY / "notebooks"
LESSONS = [
    "00_start_here",
    "01_execution_modes",
    "02_architecture",
    "03_smp_topology",
    "04_overcommit",
    "05_cpu_models",
    "06_affinity",
    "07_vcpu_pinning",
    "08_tuning_report",
]
NOTEBOOKS = [*LESSONS, "crib"]
SOLUTIONS = [f"solutions/{lesson[:2]}_solutions" for lesson in LESSONS]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HAN = re.compile(r"[\u4e00-\u9fff]")
MINUTES = {"half of one": "½", "half a minute": "½", "one": "1", "a minute": "1", "one minute": "1"}


@cache
def cells(name: str) -> list[dict]:
    path = BOOK / f"{name}.ipynb"
    assert path.exists(), f"there is no notebooks/{name}.ipynb"
    return json.loads(path.read_text())["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def prose(name: str) -> str:
    return "\n".join(source(cell) for cell in cells(name) if cell["cell_type"] == "markdown")


def header(name: str) -> dict[str, str]:
    """The words behind *Needs*, *Time*, *Before* and *Next* of the first cell."""
    line = next((line for line in source(cells(name)[0]).splitlines() if line.startswith("*Needs*")), "")
    parts = re.split(r"\*(\w+)\*: ", line)[1:]
    return {word: text.strip() for word, text in zip(parts[::2], parts[1::2], strict=True)}


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the Markdown tables in it, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = {number for number, row in enumerate(table) if set("".join(row)) <= set("-: ")}
    return [row for number, row in enumerate(table) if number not in rules and number + 1 not in rules]


def terms(name: str) -> list[str]:
    """The terms of a notebook, as its table writes them: "exit 退出"."""
    _, _, section = prose(name).partition("## Terms\n")
    found = [row[0] for row in rows(section.partition("\n## ")[0])]
    return [term.replace("`", "").strip() for cell in found for term in cell.split(", ")]


def glossary() -> list[list[str]]:
    """Term, Chinese, meaning and lesson."""
    return [[row[0].replace("`", ""), *row[1:]] for row in rows((BOOK / "glossary.md").read_text())]


def exercises(name: str) -> list[str]:
    return re.findall(r"\*\*Exercise (\d\d\.\d+)\*\*", prose(name))


# ---- headers


@pytest.mark.parametrize("name", LESSONS)
def test_the_first_cell_says_what_a_lesson_needs_how_long_it_takes_and_what_stands_before_and_behind_it(name):
    found, number = header(name), LESSONS.index(name)
    words = {"Needs", "Time"} | ({"Before"} if number else set()) | ({"Next"} if name != LESSONS[-1] else set())
    assert words <= set(found), f"{name}: the first cell lacks {sorted(words - set(found))}"
    before = [Path(target).stem for target in LINK.findall(found.get("Before", ""))]
    assert before or not number, f"{name}: *Before* has no link: {found['Before']}"
    assert set(before) <= set(LESSONS[:number]), f"{name}: *Before* leads to {before}, which is no lesson before it"
    if name != LESSONS[-1]:
        following = LINK.findall(found["Next"])[:1]
        assert following == [f"{LESSONS[number + 1]}.ipynb"], f"{name}: *Next* leads to {following or found['Next']}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_link_of_a_notebook_leads_to_a_file_or_a_heading(name):
    _must_lead_somewhere(name, prose(name), {line.lstrip("# ").replace(" ", "-") for line in prose(name).splitlines() if line[:1] == "#"})


@pytest.mark.parametrize("name", ["README.md", "glossary.md"])
def test_every_link_of_the_map_and_the_glossary_leads_to_a_file(name):
    _must_lead_somewhere(name, (BOOK / name).read_text(), set())


def _must_lead_somewhere(name: str, text: str, headings: set[str]) -> None:
    for target in LINK.findall(text) + re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, f"{name}: there is no heading for {target}"
        elif "://" not in target:
            assert (BOOK / target.partition("#")[0]).exists(), f"{name}: there is no notebooks/{target}"
            assert (BOOK / target.partition("#")[0]).resolve().is_relative_to(BOOK), f"{name}: {target} is outside of JupyterLab's root"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_lessons_are_named_by_links(name):
    """ "Lesson 07" in prose is a link to it, or stands beside one."""
    bare = [words for words in re.findall(r"(?<![\[\w])[Ll]esson (\d\d)(?!\])", prose(name)) if words != name[:2]]
    assert not bare, f"{name}: lessons {', '.join(bare)} are named without a link"


# ---- the map


@pytest.mark.parametrize("name", LESSONS)
def test_the_map_gives_each_lessons_times_and_prerequisites(name):
    table = {Path(LINK.findall(row[0])[0]).stem: row for row in rows((BOOK / "README.md").read_text()) if LINK.findall(row[0])}
    assert list(table) == LESSONS
    minutes, _, machine = header(name)["Time"].partition(" minutes, of which the machine takes ")
    machine = machine.rstrip(".").removesuffix(" minutes")
    assert table[name][1:3] == [minutes, MINUTES.get(machine, machine)], f"{name}: {header(name)['Time']} In the map: {table[name][1:3]}"
    first = [Path(target).stem for target in LINK.findall(table[name][3])]
    before = [Path(target).stem for target in LINK.findall(header(name).get("Before", ""))]
    assert first == before, f"{name}: *Before* names {before}, and the map {first}"


# ---- terms


def test_the_glossary_is_sorted_and_names_no_term_twice():
    keys = [re.sub(r"[^a-z0-9 ]", "", term.lower()) for term, *_ in glossary()]
    assert len(keys) > 60
    wrong = [f"{later!r} after {earlier!r}" for earlier, later in pairwise(keys) if earlier >= later]
    assert not wrong, wrong


def test_the_glossary_says_something_of_each_term_and_names_columns_that_there_are():
    known = {column.name for kind in columns.FRAMES.values() for column in kind}
    for term, chinese, meaning, _ in glossary():
        assert meaning.endswith(".") and len(meaning) > 20, f"{term}: {meaning}"
        assert not chinese or HAN.search(chinese), f"{term}: {chinese} is not Chinese"
        named = re.findall(r"\*Column\* `(\w+)`", meaning)
        assert set(named) <= known, f"{term}: no frame has a column {named}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_term_of_a_notebook_is_in_the_glossary_with_the_same_chinese(name):
    known = {form: chinese for term, chinese, *_ in glossary() for form in (term, f"{term} {chinese}".strip())}
    assert terms(name), f"{name} has no Terms section, or no table in it"
    missing = [term for term in terms(name) if term not in known]
    assert not missing, f"{name}: the glossary lacks {missing}, or has other Chinese words"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_glossarys_lesson_uses_the_term_and_no_earlier_one_explains_it(name):
    for term, _, _, lesson in glossary():
        where = Path(LINK.findall(lesson)[0]).stem
        if where == name:
            assert term.lower() in prose(name).lower(), f"{name} does not speak of {term}"
        elif name in LESSONS and (where == "crib" or name < where):
            explained = {re.sub(r" \S*[\u4e00-\u9fff].*", "", words) for words in terms(name)}
            assert term not in explained, f"{term} is explained in {name}, and the glossary leads to {where}"


@pytest.mark.parametrize("name", LESSONS)
def test_the_terms_lead_to_the_glossary(name):
    section = prose(name).partition("## Terms\n")[2].lstrip()
    assert section.startswith("All words of the course: [glossary](glossary.md)."), f"{name}: its Terms begin with {section[:60]!r}"


# ---- cells


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_ends_with_cleaning_up_and_its_second_code_cell_holds_the_parameters(name):
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert "## Clean up" in prose(name), f"{name} has no heading 'Clean up'"
    assert cells(name)[-1] is code[-1] and ".close()" in source(code[-1]), f"{name} does not end with close()"
    assert "parameters" in code[1]["metadata"].get("tags", ()), f"{name}: its second code cell has no tag 'parameters'"


@pytest.mark.parametrize("name", [*NOTEBOOKS, *SOLUTIONS])
def test_no_code_cell_is_longer_than_fifteen_lines(name):
    long = [cell["id"] for cell in cells(name) if cell["cell_type"] == "code" and len(source(cell).splitlines()) > 15]
    assert not long, f"{name}: {long}"


# ---- exercises


@pytest.mark.parametrize("name", LESSONS)
def test_every_exercise_has_a_checker_a_cell_that_calls_it_and_a_solution(name):
    from kvmlab.course.check import exercises as checkers

    asked = exercises(name)
    assert asked, f"{name} has no exercise"
    assert asked == sorted(set(asked)) and {number[:2] for number in asked} == {name[:2]}, f"{name} numbers its exercises {asked}"
    known = [number for number in checkers() if number.startswith(name[:2])]
    assert asked == known, f"{name} asks {asked}; kvmlab.course has checkers for {known}"
    _must_check(name, asked)
    _must_check(f"solutions/{name[:2]}_solutions", asked)


def _must_check(name: str, asked: list[str]) -> None:
    code = "\n".join(source(cell) for cell in cells(name) if cell["cell_type"] == "code")
    missing = [number for number in asked if f'check("{number}"' not in code]
    assert not missing, f"{name} has no cell with check() for {missing}"
    for number in asked if name.startswith("solutions/") else ():
        tried = set(re.findall(rf'(assert not )?\b\w+\("{number}"', code))  # some look again when somebody else was in the way
        assert "" in tried, f"{name}: there is no solution of {number}"
        assert "assert not " in tried, f"{name}: nothing wrong is tried for {number}"
