"""ro-crate-metadata.json: what the files of a report are and how they came to be, as RO-Crate 1.1 says it.

Source: https://www.researchobject.org/ro-crate/specification/1.1/; a run of a workflow is a CreateAction with its instrument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import quote

from kvmlab.report import words

_CSVW = "https://www.w3.org/TR/tabular-metadata/"
_FILES = {  # path -> media type, what it is
    "report.html": ("text/html", "The report to read; it needs nothing else"),
    "notebook.ipynb": ("application/x-ipynb+json", "The notebook as it was run, with its outputs"),
    "environment.json": ("application/json", "Versions, host, acceleration, parameters, seed and noise"),
    "host.tar.xz": ("application/x-xz", "A recording of the host by kvmlab: what its frames are made from"),
}


def crate(environment: Mapping) -> dict:
    """The whole document."""
    files = [*_files(environment)]
    parameters = [_value(f"#parameter-{name}", name, value) for name, value in environment["parameters"].items()]
    tools = [*_software(environment["versions"])]
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [
            _itself(),
            _root(environment, files),
            *files,
            _action(environment, files, parameters, tools),
            *parameters,
            *tools,
            _host(environment),
        ],
    }


def _ids(entities: list[dict]) -> list[dict]:
    return [{"@id": entity["@id"]} for entity in entities]


def _itself() -> dict:
    standard = {"@id": "https://w3id.org/ro/crate/1.1"}
    return {"@id": "ro-crate-metadata.json", "@type": "CreativeWork", "conformsTo": standard, "about": {"@id": "./"}}


def _root(environment: Mapping, files: list[dict]) -> dict:
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Report: {environment['title']}",
        "description": f"{words.status(environment)} Made by: {words.command(environment)}",
        "datePublished": environment["started"],
        "license": "Its data are measurements; their owner says under which terms they may be used.",
        "hasPart": _ids(files),
        "mentions": [{"@id": "#run"}],
    }


def _files(environment: Mapping) -> Iterator[dict]:
    for path, (media, what) in _FILES.items():
        kind = ["File", "SoftwareSourceCode"] if path == "notebook.ipynb" else "File"
        yield {"@id": path, "@type": kind, "name": path, "encodingFormat": media, "description": what}
    for file in environment["captured"]:
        path = f"data/{file['file']}"
        what = f"{file['name']}, a frame of kind {file['kind']} with {words.count(file['rows'], 'row')}, as cell {file['cell']} left it"
        yield {"@id": quote(path), "@type": "File", "name": path, "encodingFormat": "text/csv", "description": what}
        beside = {"@id": quote(f"{path}-metadata.json"), "@type": "File", "name": f"{path}-metadata.json"}
        yield beside | {"encodingFormat": "application/csvm+json", "description": f"What the columns of {path} mean (CSVW, {_CSVW})"}


def _action(environment: Mapping, files: list[dict], parameters: list[dict], tools: list[dict]) -> dict:
    """The run: by what it was done, with what, and what came of it."""
    failed = environment["failed"]
    return {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of {environment['notebook']}",
        "startTime": environment["started"],
        "endTime": environment["ended"],
        "actionStatus": {"@id": f"http://schema.org/{'FailedActionStatus' if failed else 'CompletedActionStatus'}"},
        "instrument": [{"@id": "notebook.ipynb"}, *_ids(tools)],
        "location": {"@id": "#host"},
        "object": _ids(parameters),
        "result": _ids(files),
    } | ({"error": words.failure(environment)} if failed else {})


def _value(identifier: str, name: str, value: object) -> dict:
    known = value if isinstance(value, str | int | float) else str(value)
    return {"@id": identifier, "@type": "PropertyValue", "name": name, "value": known}


def _software(versions: Mapping) -> Iterator[dict]:
    flat = {name: version for name, version in versions.items() if isinstance(version, str)} | versions["packages"]
    for name, version in flat.items():
        shown = "Linux" if name == "kernel" else name
        yield {"@id": f"#software-{quote(shown)}", "@type": "SoftwareApplication", "name": shown, "version": version}


def _host(environment: Mapping) -> dict:
    return {
        "@id": "#host",
        "@type": "Place",
        "name": "the host",
        "description": f"{words.host(environment)}. Guests: {words.guests(environment)}.",
    }
