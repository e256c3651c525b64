"""What a cell showed, without JavaScript: sliders as their text, outputs in a widget as outputs, pictures with words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nbformat import NotebookNode
from nbformat.v4 import new_output

_VIEW = "application/vnd.jupyter.widget-view+json"
_SCRIPTS = ("application/javascript", "application/vnd.jupyter.widget-state+json")
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
_WORDS = 600  # of them beside a picture; the rest stands below it


def widgets(cell: NotebookNode, states: Mapping[str, dict]) -> None:
    """Put what its widgets show now in the place of what only a running kernel could draw."""
    outputs = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        view = data.pop(_VIEW, None)
        for mime in _SCRIPTS:
            data.pop(mime, None)
        shown = list(_shown((view or {}).get("model_id"), states))
        pictured = any(mime in data for mime in _PICTURES)
        if view and shown and not pictured:
            outputs += shown
        elif any(data.values()) or output.output_type not in ("display_data", "execute_result"):
            outputs.append(output)
            if view and pictured and (text := _said(output)):  # the pin canvas: its words below its picture
                outputs.append(new_output("display_data", {"text/plain": text}))
    cell.outputs = outputs
    _alternatives(cell)


def _shown(model: str | None, states: Mapping[str, dict]) -> Iterator[NotebookNode]:
    """The widget's own text, or what its outputs and children show."""
    state = states.get(str(model).removeprefix("IPY_MODEL_"), {})
    if "outputs" in state:
        yield from (NotebookNode(output) for output in state["outputs"])
    elif "children" in state:
        for child in state["children"]:
            yield from _shown(child, states)
    elif text := _text(state):
        yield new_output("display_data", {"text/plain": text})


def _text(state: Mapping) -> str:
    """Such as: moves a second: 10 (0 to 20)."""
    if "value" not in state or state.get("_view_name") is None:
        return ""
    value = state["value"]
    words = f"{value:g}" if isinstance(value, float) else str(value)
    if "min" in state and "max" in state:
        words += f" ({state['min']:g} to {state['max']:g})"
    return f"{state['description']}: {words}" if state.get("description") else words


def _alternatives(cell: NotebookNode) -> None:
    """A picture's words, for who cannot see it, are what its cell says in text."""
    words = "\n".join(text.strip() for output in cell.outputs if (text := _said(output)))
    for number, output in enumerate(cell.outputs, 1):
        for mime in _PICTURES:
            if mime in output.get("data", {}):
                told = _said(output) or words or f"Output {number} of cell {cell.execution_count}: a picture without words."
                output.setdefault("metadata", {}).setdefault(mime, {})["alt"] = told[:_WORDS]


def _said(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    text = output.get("data", {}).get("text/plain", "")
    return "" if text.startswith("<") else text
