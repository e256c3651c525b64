import os
from pathlib import Path

from kvmlab.columns import frame
from kvmlab.host import kvm
from kvmlab.host.sysroot import SysRoot
from tests.conftest import need


def recorded(folder: Path, parameters: dict[str, str]) -> SysRoot:
    for name, value in parameters.items():
        module, parameter = name.split(".")
        place = folder / "sys/module" / module / "parameters"
        place.mkdir(parents=True, exist_ok=True)
        (place / parameter).write_text(value)
    return SysRoot(folder)


def test_parameters_of_this_machine_are_those_of_its_files():
    files = [path for path in Path("/sys/module").glob("kvm*/parameters/*") if path.parts[3].replace("-", "_").split("_")[0] == "kvm"]
    if not files:
        need("KVM has no parameters here")
    ours = frame(kvm.rows(SysRoot()), "kvm").set_index(["module", "parameter"])
    assert sorted(ours.index) == sorted((path.parts[3], path.name) for path in files) and ours.index.is_unique
    readable = [path for path in files if os.access(path, os.R_OK)]
    assert readable and all(ours.loc[(path.parts[3], path.name), "value"] == path.read_text().strip() for path in readable)


def test_the_parameters_of_every_kvm_are_explained_here_too():
    found = {row[1]: row[3] for row in kvm.rows(SysRoot()) if row[0] == "kvm"}
    if "halt_poll_ns" not in found:
        need("no KVM here")
    for parameter in ("halt_poll_ns", "halt_poll_ns_grow", "halt_poll_ns_grow_start", "halt_poll_ns_shrink"):
        assert found[parameter], parameter


def test_only_kvm_and_its_parts_are_listed(tmp_path):
    root = recorded(
        tmp_path, {"kvm.nx_huge_pages": "never\n", "kvm_amd.npt": "Y\n", "kvm-intel.ept": "N\n", "kvmfr.x": "1\n", "tun.y": "2\n"}
    )
    (tmp_path / "sys/module/kvm_bare").mkdir()  # a module without parameters
    rows = list(kvm.rows(root))
    assert [row[:3] for row in rows] == [("kvm", "nx_huge_pages", "never"), ("kvm-intel", "ept", "N"), ("kvm_amd", "npt", "Y")]
    assert all(row[3] for row in rows)


def test_a_name_means_what_it_does_in_its_module(tmp_path):
    root = recorded(tmp_path, {"kvm.nested": "1", "kvm_amd.nested": "1", "kvm_hv.nested": "Y"})
    assert "s390x" in next(row[3] for row in kvm.rows(root) if row[0] == "kvm")
    assert "s390x" not in next(row[3] for row in kvm.rows(root) if row[0] == "kvm_amd")


def test_a_parameter_that_cannot_be_read_has_no_value_and_an_unknown_one_no_meaning(tmp_path):
    root = recorded(tmp_path, {"kvm.own_invention": "7\n"})
    (tmp_path / "sys/module/kvm/parameters/ignore_msrs").mkdir()  # cannot be read as a file, by anybody
    rows = {row[1]: row for row in kvm.rows(root)}
    assert rows["own_invention"] == ("kvm", "own_invention", "7", None)
    assert rows["ignore_msrs"][2] is None and rows["ignore_msrs"][3]
    assert frame(rows.values(), "kvm").isna().sum().to_dict() == {"module": 0, "parameter": 0, "value": 1, "meaning": 1}


def test_a_machine_without_kvm_has_no_rows(tmp_path):
    assert list(kvm.rows(SysRoot(tmp_path))) == []
    assert list(frame(kvm.rows(SysRoot(tmp_path)), "kvm").columns) == ["module", "parameter", "value", "meaning"]


def test_a_value_may_be_any_bytes(tmp_path):
    root = recorded(tmp_path, {"kvm.halt_poll_ns": ""})
    (tmp_path / "sys/module/kvm/parameters/halt_poll_ns").write_bytes(b"\xff\x00\n")
    assert next(kvm.rows(root))[:2] == ("kvm", "halt_poll_ns")


def test_the_meanings_are_well_formed():
    assert {module for module, _ in kvm.MEANINGS} == {"kvm", "kvm_intel", "kvm_amd", "kvm_pvm", "kvm_hv"}
    assert all(name.isidentifier() and meaning and "|" not in meaning for (_, name), meaning in kvm.MEANINGS.items())
    assert len(kvm.MEANINGS) >= 90
