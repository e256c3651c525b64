"""Frames as CSV files, each with its description beside it (CSVW): read again, they are the same frames.

Source: https://www.w3.org/TR/tabular-data-primer/. What CSVW has no word for stands under names that begin with ``kvmlab:``.
"""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import pandas as pd

from kvmlab import columns
from kvmlab.errors import ReportError

_DATATYPES = {"Int64": "integer", "Float64": "double", "boolean": {"base": "boolean", "format": "True|False"}}
_PLAIN = {"int64": "Int64", "float64": "Float64", "bool": "boolean"}  # what a notebook calculates itself, read as the one beside it
_ENDING = "-metadata.json"
_FILE = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def is_measured(value: object) -> bool:
    """A frame of kvmlab's, or what a notebook made of one and still has a column of it."""
    kind = value.attrs.get("kind") if isinstance(value, pd.DataFrame) else None
    return kind in columns.FRAMES and bool({c.name for c in columns.FRAMES[kind]} & {*value.columns, *value.index.names})


def write(frame: pd.DataFrame, path: Path, title: str) -> None:
    """As a CSV file, and its description in a file of that name and ``-metadata.json``.

    An index that has a name becomes columns; one without is but the number of the row, and is left out.
    """
    index = [name for name in frame.index.names if name is not None]
    table = frame.reset_index(level=index) if index else frame
    null = _no_value(table)
    with open(path, "w", **_FILE) as file:
        rows = csv.writer(file)  # lines end as RFC 4180 has it; with another ending csv would not quote a bare \r
        rows.writerow(table.columns)
        rows.writerows(zip(*(_texts(table.iloc[:, n], null) for n in range(table.shape[1])), strict=True))
    with open(f"{path}{_ENDING}", "w", **_FILE) as file:
        json.dump(_description(table, path.name, title, null), file, indent=1, ensure_ascii=False, default=str)


def _no_value(table: pd.DataFrame) -> str:
    """What stands for a missing value: a text that is no value of this table."""
    texts = {text for n in range(table.shape[1]) if _dtype(table.iloc[:, n]) == "string" for text in table.iloc[:, n].dropna().astype(str)}
    return next(null for null in ("NA", *("NA" + "_" * n for n in range(1, len(texts) + 2))) if null not in texts)


def _dtype(column: pd.Series) -> str:
    name = str(column.dtype)
    return name if name in _DATATYPES else _PLAIN.get(name, "string")


def _texts(column: pd.Series, null: str) -> list[str]:
    write = {"Float64": _number}.get(_dtype(column), str)
    return [null if missing else write(value) for value, missing in zip(column, column.isna(), strict=True)]


def _number(value: float) -> str:
    """With all digits; infinity as XML Schema, and so CSVW, writes it."""
    return repr(float(value)) if math.isfinite(value) else "INF" if value > 0 else "-INF"


def _description(table: pd.DataFrame, name: str, title: str, null: str) -> dict:
    kind = table.attrs["kind"]
    known = {column.name: column for column in columns.FRAMES[kind]}
    return {
        "@context": ["http://www.w3.org/ns/csvw", {"@language": "en"}],
        "url": name,
        "dc:title": title,
        "kvmlab:kind": kind,
        "kvmlab:attrs": table.attrs,
        "null": null,
        "dialect": {"header": True, "encoding": "utf-8"},
        "tableSchema": {"columns": [_column(str(label), table.iloc[:, n], known.get(label)) for n, label in enumerate(table.columns)]},
    }


def _column(label: str, values: pd.Series, known: columns.Column | None) -> dict:
    dtype = _dtype(values)
    told = {"name": label, "titles": label, "datatype": _DATATYPES.get(dtype, "string"), "kvmlab:dtype": dtype}
    if known is None:
        return told | {"dc:description": "made by the notebook"}
    return told | {"dc:description": known.meaning, "dc:source": known.source} | ({"kvmlab:unit": known.unit} if known.unit else {})


def read(path: str | os.PathLike) -> pd.DataFrame:
    """A frame of a report, from its CSV file and the description beside it: as it was, with dtypes and attrs.

    Parameters
    ----------
    path : str
        Such as "out/data/12_runs.csv".

    Raises
    ------
    ReportError
        When one of the two files is not there, or they do not fit.

    Examples
    --------
    >>> runs = report.read("out/data/12_runs.csv")                # doctest: +SKIP
    >>> runs.attrs["kind"]                                        # doctest: +SKIP
    'placement'
    """
    path = Path(path)
    try:
        with open(f"{path}{_ENDING}", **_FILE) as file:
            told = json.load(file)
        with open(path, **_FILE) as file:
            labels, *rows = csv.reader(file)
        described = told["tableSchema"]["columns"]
        if [column["name"] for column in described] != labels:
            raise ValueError("its columns are others than those described")
        values = list(zip(*rows, strict=True)) or [()] * len(labels)
        arrays = {c["name"]: _array(v, c["kvmlab:dtype"], told["null"]) for c, v in zip(described, values, strict=True)}
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}. A frame of a report is a .csv file and its .csv{_ENDING}.") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ReportError(f"{path}: is not as a report has it, or was changed since: {error}.") from error
    result = pd.DataFrame(arrays, copy=False)
    result.attrs = told.get("kvmlab:attrs", {})
    return result


def _array(values: tuple[str, ...], dtype: str, null: str) -> pd.api.extensions.ExtensionArray:
    convert = {"Int64": int, "Float64": float, "boolean": {"True": True, "False": False}.__getitem__}.get(dtype, str)
    return pd.array([None if value == null else convert(value) for value in values], dtype=dtype)
