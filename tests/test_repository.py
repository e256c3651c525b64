"""What the repository promises: tidy code, clean notebooks, scripts that a shell checker accepts."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, need


def committed(*patterns: str) -> list[str]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout: there is nothing committed to look at")
    run = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return run.stdout.splitlines()


def content(path: str) -> str:
    """As it is in git: what a reader ran and saved in the working tree is the reader's."""
    command = ["git", "-c", "safe.directory=*", "show", f":{path}"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    run = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_shell_scripts_are_shellcheck_clean():
    if not shutil.which("shellcheck"):
        need("no shellcheck")
    run = subprocess.run(["shellcheck", "lab", ".ci/run"], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_notebooks_are_committed_without_outputs_and_with_short_cells():
    paths = committed("*.ipynb")
    assert paths
    for path in paths:
        cells = json.loads(content(path))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code), path
        assert all(len(cell["source"]) <= 15 for cell in code), path
        assert "close()" in "".join(code[-1]["source"]), f"{path} does not clean up in its last cell"


def test_modules_have_one_subject():
    for path in committed("kvmlab/*.py"):
        assert len(content(path).splitlines()) <= 400, path


def test_nothing_committed_names_a_machines_folders_or_a_mirror():
    for path in committed("*.py", "*.md", "*.toml", "*.txt", "*.yml", "*.ipynb", "lab", ".ci/run"):
        text = content(path)
        assert not [word for word in ("/ro" + "ot/", "/wo" + "rk/", "index-" + "url", "/ho" + "me/") if word in text], path


def lab(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(REPOSITORY / "lab"), *words], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


def test_lab_explains_itself_and_refuses_other_words():
    assert "./lab test" in lab("--help").stdout
    assert lab("tset").returncode == 1 and "unknown word 'tset'" in lab("tset").stderr
    assert lab("run").returncode == 2


def test_lab_run_finds_everything_set_up_and_says_nothing():
    if sys.executable != str(REPOSITORY / ".venv/bin/python"):
        pytest.skip("these tests do not run in the environment that ./lab made")
    run = lab("run", "kvmlab", "--version")
    assert (run.returncode, run.stdout.split()[0], run.stderr) == (0, "kvmlab", "")


def test_the_three_lists_of_dependencies_agree():
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {line.split(">=")[0] for line in project["dependencies"] + extras["docs"] + extras["test"]}
    pinned = {line.split("==")[0].lower() for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    conda = (REPOSITORY / "environment.yml").read_text()
    assert wanted <= pinned
    assert all(f"- {name}" in conda for name in wanted)
