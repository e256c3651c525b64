"""However a notebook ends: a report that says so or none, no guest left, and a status that is not 0."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvmlab import KvmlabError, report
from kvmlab.guest.microguest.page import wait_until
from tests.conftest import need
from tests.report.conftest import notebook

GUEST = "from kvmlab import Lab\nlab = Lab()\nlab.start('{name}', vcpus=1).work('spin')\nvcpus = lab.vcpus()"
CLEAN = "print('cleaning up')\nlab.close()"


def started(path: Path, *words: str, **environment: str) -> subprocess.Popen:
    """`kvmlab report`, in a process group of its own, as a terminal would start it: no signal is ignored, as under nohup."""
    command = [sys.executable, "-m", "kvmlab.cli", "report", str(path), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, preexec_fn=_heed, env=os.environ | environment, **pipes)


def _heed() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def guests() -> set[str]:
    return set(subprocess.run(["virsh", "-q", "list", "--name"], capture_output=True, text=True, check=True).stdout.split())


def told(out: Path) -> dict:
    return json.loads((out / "environment.json").read_text())


def test_a_failing_cell_still_cleans_up_and_yields_a_report_that_says_so(live, tmp_path):
    code = (GUEST.format(name="rp-fail"), "1 / 0", "print('never')", CLEAN)
    run = started(notebook(tmp_path / "a.ipynb", *code), "-o", str(tmp_path / "out"))
    said, errors = run.communicate(timeout=120)
    assert run.returncode == 1 and "Failed in cell 2: ZeroDivisionError: division by zero." in errors and str(tmp_path / "out") in said
    environment, page = told(tmp_path / "out"), (tmp_path / "out/report.html").read_text()
    assert environment["status"] == "failed" and environment["failed"]["source"] == "1 / 0" and environment["failed"]["clean_up"] == "ran"
    assert 'class="status failed">Failed in cell 2: ZeroDivisionError' in page and "cleaning up" in page and "never\n" not in page
    assert environment["captured"][0]["file"] == "01_vcpus.csv" and environment["acceleration"]["measured"]
    assert "rp-fail" not in guests()
    crate = json.loads((tmp_path / "out/ro-crate-metadata.json").read_text())["@graph"]
    action = next(entity for entity in crate if entity["@type"] == "CreateAction")
    assert action["actionStatus"]["@id"].endswith("FailedActionStatus") and action["error"] == "ZeroDivisionError: division by zero"


def test_a_kernel_that_is_killed_leaves_a_failed_report_and_no_guest(live, tmp_path):
    code = (GUEST.format(name="rp-kill"), "import os\nos.kill(os.getpid(), 9)", "print('never')", CLEAN)
    made = report.run(notebook(tmp_path / "a.ipynb", *code), tmp_path / "out", progress=False)
    assert made.status == "failed" and made.environment["failed"]["cell"] == 2 and "kernel died" in str(made)
    assert [file["name"] for file in made.environment["captured"]] == ["vcpus"]
    assert wait_until(lambda: "rp-kill" not in guests(), 15)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_no_guest_and_no_kernel_and_nothing_that_looks_whole(live, tmp_path, times):
    pid = "import os\nopen('kernel', 'w').write(str(os.getpid()))\n"
    rest = (
        "import time\ntime.sleep(60)"
        if times == 1
        else "while True:\n    try:\n        import time\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    )
    run = started(
        notebook(tmp_path / "a.ipynb", pid + GUEST.format(name="rp-stop"), rest, "print('never')", CLEAN), "-o", str(tmp_path / "out")
    )
    assert wait_until(lambda: "rp-stop" in guests(), 90, 0.2)
    time.sleep(1)  # so that the second cell runs
    for _ in range(times):
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.5)
    _, errors = run.communicate(timeout=60)
    assert wait_until(lambda: "rp-stop" not in guests(), 15)
    assert not Path("/proc", (tmp_path / "kernel").read_text()).exists()
    if times == 1:
        assert run.returncode == 1 and "interrupted with Ctrl-C" in errors
        assert told(tmp_path / "out")["status"] == "failed" and "interrupted with Ctrl-C" in (tmp_path / "out/report.html").read_text()
    else:
        assert run.returncode == 130 and "Traceback" not in errors
        assert sorted(os.listdir(tmp_path)) == ["a.ipynb", "kernel"]


@pytest.mark.parametrize("end", ["SIGTERM", "SIGHUP"])
def test_whoever_ends_it_gets_the_report_so_far(tmp_path, end):
    path = notebook(tmp_path / "a.ipynb", "open('begun', 'w').close()\nimport time\ntime.sleep(60)")
    run = started(path, "-o", str(tmp_path / "out"))
    assert wait_until(lambda: (tmp_path / "begun").exists(), 90, 0.2)
    run.send_signal(getattr(signal, end))
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1 and f"interrupted with {end}" in errors
    assert sorted(os.listdir(tmp_path)) == ["a.ipynb", "begun", "out"]


def test_without_libvirt_the_report_says_what_the_notebook_said(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/libvirt.py").write_text("raise ImportError('there is none')")
    path = notebook(tmp_path / "a.ipynb", "from kvmlab import Host, Lab\ncpus = Host().cpus()", "lab = Lab()", CLEAN)
    run = started(path, "-o", str(tmp_path / "out"), PYTHONPATH=str(tmp_path / "none"))
    _, errors = run.communicate(timeout=120)
    environment = told(tmp_path / "out")
    assert run.returncode == 1 and "pip install libvirt-python" in errors and environment["versions"]["libvirt"] is None
    assert environment["failed"]["name"] == "ConnectError" and environment["failed"]["clean_up"] == "failed, NameError"
    assert [file["name"] for file in environment["captured"]] == ["cpus"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    path = notebook(tmp_path / "a.ipynb", "print('x' * 200_000)")
    (tmp_path / "small").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", tmp_path / "small"], capture_output=True).returncode:
        need("no tmpfs can be mounted here")
    try:
        with pytest.raises(KvmlabError, match=r"the report cannot be written: No space left on device"):
            report.run(path, tmp_path / "small/out", progress=False)
        assert os.listdir(tmp_path / "small") == []
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


def test_a_kernel_that_is_not_there_is_named(tmp_path):
    import nbformat

    path = notebook(tmp_path / "a.ipynb", "1")
    book = nbformat.read(path, 4)
    book.metadata["kernelspec"]["name"] = "rust-9"
    nbformat.write(book, path)
    with pytest.raises(KvmlabError, match=r"kernel 'rust-9' does not start"):
        report.run(path, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.ipynb"]


@pytest.mark.parametrize("words", [["a.ipynb"], ["a.ipynb", "b", "-o", "out"], ["compare", "a"], ["compare", "a", "b", "-o", "c"], []])
def test_other_words_on_the_command_line_are_refused_with_both_usages(words):
    run = subprocess.run([sys.executable, "-m", "kvmlab.cli", "report", *words], capture_output=True, text=True)
    assert run.returncode == 2 and "kvmlab report NOTEBOOK" in run.stderr and "kvmlab report compare A B" in run.stderr
