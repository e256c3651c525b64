"""A notebook, and the parameters that it may be given: papermill's convention, a cell with the tag "parameters"."""

from __future__ import annotations

import ast
import difflib
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.errors import ReportError

if TYPE_CHECKING:
    from nbformat import NotebookNode

_WORDS = {"True": True, "False": False, "None": None}


def parse(pairs: Sequence[str]) -> dict[str, object]:
    """From name=value each; values as papermill's -p reads them: True, False, None, a number, and else a text.

    Raises
    ------
    ReportError
        For what is no name=value.
    """
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ReportError(f"-p {pair}: write name=value, such as -p seconds=2.")
        found[name] = _value(text)
    return found


def _value(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text


def load(path: str | os.PathLike) -> NotebookNode:
    """The notebook, as papermill knows it.

    Raises
    ------
    ReportError
        When there is none, or it cannot be read.
    """
    import nbformat

    path = Path(path)
    try:
        if path.is_dir():
            raise ReportError(f"{path} is a folder: name one of its notebooks{_some(path)}.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ReportError(f"There is no notebook {path}.{_near(path)}") from error
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is no notebook: it is not even text.") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # of cells without an id, which upgrade gives them
            notebook = nbformat.v4.upgrade(nbformat.reads(text, as_version=4))
        nbformat.validate(notebook)
        notebook.metadata.setdefault("papermill", {})  # parameterize_notebook writes there
        for cell in notebook.cells:
            cell.metadata.setdefault("tags", [])
    except Exception as error:  # nbformat raises whatever it stumbles over
        raise ReportError(f"{path} is no notebook that Jupyter can read: {str(error).splitlines()[0][:200]}") from error
    if not any(cell.cell_type == "code" and cell.source.strip() for cell in notebook.cells):
        raise ReportError(f"{path} has no code to run.")
    return notebook


def _some(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.ipynb"))
    return f", such as {folder / names[0]}" if names else ""


def _near(path: Path) -> str:
    names = [found.name for found in path.parent.glob("*.ipynb")]
    near = difflib.get_close_matches(path.name, names, 1, 0.3)
    return f" Is it {path.parent / near[0]}?" if near else ""


def own(notebook: NotebookNode) -> dict[str, object]:
    """What a notebook may be given, with its own values: what its cell tagged "parameters" assigns."""
    cell = next((cell for cell in notebook.cells if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", ())), None)
    found: dict[str, object] = {}
    with suppress(SyntaxError):
        for line in ast.parse(cell.source if cell else "").body:
            targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
            for target in targets:
                if isinstance(target, ast.Name) and line.value is not None:
                    found[target.id] = _literal(line.value)
    return found


def _literal(value: ast.expr) -> object:
    try:
        return ast.literal_eval(value)
    except ValueError:  # an expression: its own text will have to do
        return ast.unparse(value)


def given(notebook: NotebookNode, name: str, parameters: Mapping[str, object]) -> NotebookNode:
    """The notebook with these parameters in a cell below its own; unchanged without any.

    Raises
    ------
    ReportError
        For a parameter that it has not, or a value of another kind than its own.
    """
    if not parameters:
        return notebook
    known = own(notebook)
    parameters = {key: str(value) if isinstance(known.get(key), str) and _is_number(value) else value for key, value in parameters.items()}
    _check(known, name, parameters)
    from papermill.exceptions import PapermillException
    from papermill.parameterize import parameterize_notebook

    try:
        return parameterize_notebook(notebook, dict(parameters), comment="Parameters of this report")
    except (PapermillException, ValueError, TypeError) as error:
        raise ReportError(f"{name} cannot be given parameters: {error}") from error


def _check(known: dict[str, object], name: str, parameters: Mapping[str, object]) -> None:
    if not known:
        raise ReportError(f"{name} takes no parameters: none of its cells has the tag 'parameters' and sets any. Leave -p out.")
    told = ", ".join(f"{parameter}={value!r}" for parameter, value in known.items())
    for parameter, value in parameters.items():
        if parameter not in known:
            near = difflib.get_close_matches(str(parameter), known, 1, 0.4)
            raise ReportError(f"{name} has no parameter {parameter!r}{f': is it {near[0]!r}' if near else ''}? It has: {told}.")
        if not _fits(value, known[parameter]):
            kind = type(known[parameter]).__name__
            raise ReportError(f"{parameter}={value!r}: {name} wants {kind} there; its own is {known[parameter]!r}.")


def _fits(value: object, default: object) -> bool:
    return default is None or value is None or (_is_number(value) if _is_number(default) else isinstance(value, type(default)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
