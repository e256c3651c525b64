"""The package as a whole: what imports what, what is loaded when, what the face offers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kvmlab

PACKAGE = Path(kvmlab.__file__).parent
MAY_IMPORT = {  # part of kvmlab -> the parts it may import; the face may import everything
    "errors": set(),
    "columns": set(),
    "wording": set(),
    "host": {"errors", "columns", "wording", "host", "__version__"},
    "guest": {"errors", "columns", "wording", "host", "guest"},
    "measure": {"errors", "columns", "wording", "host", "guest", "measure"},
    "plots": {"errors", "columns", "wording", "plots"},
    "widgets": {"errors", "columns", "wording", "host", "guest", "measure", "plots", "lab", "widgets"},
    "report": {"errors", "columns", "wording", "host", "guest", "measure", "report", "__version__"},
    "course": {"errors", "columns", "wording", "host", "guest", "measure", "plots", "lab", "course"},
}
FACE = {"__init__", "lab", "cli", "terminal", "tour"}


def part(path: Path) -> str:
    relative = path.relative_to(PACKAGE).with_suffix("")
    return relative.parts[0]


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kvmlab":
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kvmlab.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    if part(path) not in FACE:
        assert imported_parts(path) <= MAY_IMPORT[part(path)]
    if part(path) not in {"lab", "widgets"}:
        assert "widgets" not in imported_parts(path), "nothing but the face imports widgets"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_guest_imports_libvirt(path):
    names = {alias.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import) for alias in node.names}
    assert "libvirt" not in names or path == PACKAGE / "guest" / "connection.py"


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_kvmlab_loads_nothing_heavy():
    assert not loaded_after("import kvmlab") & {"pandas", "matplotlib", "libvirt", "ipywidgets", "numpy", "asyncio"}


def test_host_works_without_libvirt_matplotlib_and_ipywidgets():
    code = "import sys; sys.modules.update(dict.fromkeys(['libvirt', 'matplotlib', 'ipywidgets']))"
    assert "kvmlab.guest" not in loaded_after(f"{code}; from kvmlab import Host; Host().cpus(); Host().threads()")


def test_the_face_is_sorted_complete_and_names_what_it_has():
    assert kvmlab.__all__ == sorted(kvmlab.__all__) == dir(kvmlab)
    for name in kvmlab.__all__:
        assert getattr(kvmlab, name) is not None
    with pytest.raises(AttributeError, match="it has Host, KvmlabError, Lab"):
        kvmlab.Hosts  # noqa: B018


def test_every_error_is_a_kvmlab_error():
    from kvmlab import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(c, kvmlab.KvmlabError) and c.__doc__ for c in classes)


def test_without_libvirt_python_the_error_says_how_to_get_it():
    code = "import sys; sys.modules['libvirt'] = None\nimport kvmlab\ntry: kvmlab.Lab()\nexcept kvmlab.KvmlabError as e: print(e)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install libvirt-python" in said
