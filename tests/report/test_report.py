"""A report that went well: what is in its folder."""

import inspect
import json
import os
import subprocess
import sys

import nbformat
import pytest
from rocrate.rocrate import ROCrate

import kvmlab
from kvmlab import Host, KvmlabError, columns, measure, report
from kvmlab.report.execute import SEED
from tests.report.conftest import notebook

FRAMES = {"03_cpus.csv", "08_cpus.csv", "08_both.one.csv", "09_rest.csv"}


def outputs(made) -> list[str]:
    """The text that each code cell showed."""
    cells = nbformat.read(made[1].path / "notebook.ipynb", 4).cells
    code = [cell for cell in cells if cell.cell_type == "code" and cell.execution_count]
    return ["\n".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs) for cell in code]


def test_the_folder_holds_the_report_as_a_whole_and_nothing_else_is_left(made):
    folder, found = made
    assert sorted(os.listdir(found.path)) == [
        "data",
        "environment.json",
        "host.tar.xz",
        "notebook.ipynb",
        "report.html",
        "ro-crate-metadata.json",
    ]
    assert sorted(os.listdir(folder)) == ["beside.txt", "out", "shows.ipynb"]
    assert found.status == "complete" and str(found).startswith("Complete") and f"kvmlab report compare {found.path} OTHER" in str(found)
    assert os.stat(found.path).st_mode & 0o777 == 0o755


def test_the_notebook_ran_in_its_folder_with_its_parameters(made):
    assert outputs(made)[3].startswith("read from beside the notebook 2\n")
    environment = made[1].environment
    assert environment == json.loads((made[1].path / "environment.json").read_text())
    assert environment["parameters"] == {"seconds": 2, "word": 3} and environment["own_parameters"] == {"seconds": 1, "word": "0-1"}
    cells = nbformat.read(made[1].path / "notebook.ipynb", 4).cells
    assert [cell.execution_count for cell in cells if cell.cell_type == "code"] == [1, None, *range(2, 13)]


def test_what_is_drawn_by_chance_begins_with_the_seed_that_the_report_records(made):
    code = f"import random; random.seed({SEED}); print(hash('kvmlab'), random.random())"
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": str(SEED)}, capture_output=True, text=True)
    assert run.stdout in outputs(made)[3] and made[1].environment["seed"] == SEED
    seeds = {name: inspect.signature(getattr(measure, name)).parameters.get("seed") for name in measure.__all__}
    assert {name: seed.default for name, seed in seeds.items() if seed} == dict.fromkeys(
        ["lock_collapse", "modes", "overcommit", "pingpong", "placement"], SEED
    )


def test_frames_that_cells_bound_or_changed_are_data_once_each(made):
    found = {file["file"]: file for file in made[1].environment["captured"]}
    assert set(found) == FRAMES | {"08_plain.csv"}
    assert sorted(os.listdir(made[1].path / "data")) == sorted(name + end for name in found for end in ("", "-metadata.json"))
    before, after = (report.read(made[1].path / "data" / name) for name in ("03_cpus.csv", "08_cpus.csv"))
    assert after.loc[0, "core"] == 77 and before["core"].tolist() == Host().cpus()["core"].tolist()
    assert before.attrs == Host().cpus().attrs and found["03_cpus.csv"]["kind"] == "cpus"
    assert (before.dtypes == columns.frame([], "cpus").dtypes).all()


def test_a_frame_that_cannot_be_written_fails_no_cell_and_is_told(made):
    missing = made[1].environment["missing"]
    assert missing == ["bad of cell 9: OSError: not to be written"] and "bad" in str(made[1])
    assert not list((made[1].path / "data").glob("*bad*"))


def test_the_capture_is_not_to_be_seen(made):
    for name in ("notebook.ipynb", "report.html"):
        text = (made[1].path / name).read_text()
        assert "kvmlab.report.capture" not in text and "captured.jsonl" not in text


def test_widgets_are_their_text_and_what_they_showed(made):
    said = outputs(made)
    assert said[5] == "percent of the work: 60 (0 to 120)"
    assert said[6].startswith("many: 3 (1 to 8)") and "drawn 3" in said[6]
    text = (made[1].path / "notebook.ipynb").read_text()
    assert "widget-view" not in text and "widget-state" not in text


def test_it_says_on_what_it_was_made(made):
    told = made[1].environment
    assert told["versions"]["kvmlab"] == kvmlab.__version__ and told["versions"]["kernel"] == os.uname().release
    assert told["versions"]["packages"]["pandas"] == __import__("pandas").__version__
    assert told["host"]["cpus_online"] == os.sysconf("SC_NPROCESSORS_ONLN")
    assert told["host"]["model"] in subprocess.run(["lscpu"], capture_output=True, text=True).stdout or "unknown" in told["host"]["model"]
    for when in ("before", "after"):
        assert [row["cpu"] for row in told["noise"][when]] == sorted(os.sched_getaffinity(0))
        assert set(told["noise"][when][0]) == {column.name for column in columns.FRAMES["noise"]}
    recorded = Host.open(made[1].path / told["host"]["recording"])
    assert recorded.cpus()["cpu"].tolist() == Host().cpus()["cpu"].tolist()
    assert told["took_s"] > told["notebook_s"] > 0 and told["started"] < told["ended"]


def test_an_independent_reader_finds_every_file_the_parameters_and_the_run_in_the_crate(made):
    path = made[1].path
    crate = ROCrate(path)
    files = {str(found.relative_to(path)) for found in path.rglob("*") if found.is_file()} - {"ro-crate-metadata.json"}
    listed = {entity.id: entity for entity in crate.get_by_type("File")}
    assert set(listed) == files == {part.id for part in crate.root_dataset["hasPart"]}
    assert all(entity["description"] and "/" in entity["encodingFormat"] for entity in listed.values())
    (run,) = crate.get_by_type("CreateAction")
    assert {value["name"]: value["value"] for value in run["object"]} == {"seconds": 2, "word": 3}
    assert run["instrument"][0].id == "notebook.ipynb" and run["startTime"] <= run["endTime"]
    assert {thing["name"]: thing["version"] for thing in crate.get_by_type("SoftwareApplication")}["kvmlab"] == kvmlab.__version__
    assert {part.id for part in run["result"]} == files


def test_reports_overwrite_nothing_and_name_a_place_that_is_free(made, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "file-2").mkdir()
    path = notebook(tmp_path / "a.ipynb", "1")
    for out, free in ((made[1].path, "out-2"), (tmp_path / "file", "file-3")):
        with pytest.raises(KvmlabError, match=rf"is there already.*{free} is free"):
            report.run(path, out)
    with pytest.raises(KvmlabError, match=r"cannot be written: Not a directory|cannot be written: File exists"):
        report.run(path, tmp_path / "file" / "out")
    assert sorted(os.listdir(tmp_path)) == ["a.ipynb", "file", "file-2"]
