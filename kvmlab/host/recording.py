"""A recorded machine: the files of /proc and /sys from an archive or a folder, in memory, in SysRoot's words."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from kvmlab.errors import RecordingError
from kvmlab.host.archive import Member, members
from kvmlab.host.cpusets import CPUS, NODES
from kvmlab.host.sysroot import SysRoot

MANIFEST = "kvmlab-recording.json"
_MOST_STEPS = 40  # links followed for one path, as in path_resolution(7)
_MOST_LINKS = 30_000  # a host of 1,000 CPUs has some 20,000
_DEEPEST = 64  # folders within each other

_Node = dict | bytes | str  # a folder, a file, or where a link points


class Recording(SysRoot):
    """The files of a recorded machine. It answers as SysRoot does; nothing is unpacked onto the disk.

    Raises
    ------
    RecordingError
        For anything that is no recording of a Linux machine, or not safe to read as one.
    """

    live = False

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        if os.path.isdir(self.path) and os.path.samefile(self.path, "/"):
            raise RecordingError(f"{self.path}: is this machine, not a recording: use Host().")
        self.refused: set[str] = set()
        tree = _tree(self.path)
        self._top = _machine(tree, self.path)
        self._known: dict[str, _Node | None] = {}
        self.manifest = _manifest(self._top.get(MANIFEST), self.path)
        self._kept_refusals = frozenset(self.manifest.get("refused", ()))
        self._links = 0
        self._check(self._top, [])
        self._check_folders()
        if not self.list(CPUS) and self.read_bytes("proc/cpuinfo") is None:
            raise RecordingError(f"{self.path}: holds neither {CPUS} nor proc/cpuinfo: it is no recording of a Linux machine.")

    def read_bytes(self, path: str) -> bytes | None:
        node = self._find(path)
        if path in self._kept_refusals:
            self.refused.add(path)
        return node if isinstance(node, bytes) else None

    def list(self, path: str) -> list[str]:
        node = self._find(path)
        if path in self._kept_refusals:
            self.refused.add(path)
        return list(node) if isinstance(node, dict) else []

    def folders(self, path: str) -> list[str]:
        node = self._find(path)
        return [name for name, child in node.items() if isinstance(child, dict)] if isinstance(node, dict) else []

    def target(self, path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        parent = self._find(folder)
        node = parent.get(name) if isinstance(parent, dict) else None
        return node if isinstance(node, str) else None

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    # ---- paths

    def _find(self, path: str) -> _Node | None:
        folder, _, name = path.rpartition("/")
        if folder not in self._known:
            self._known[folder] = self._resolve(folder.split("/") if folder else [])
        parent = self._known[folder]
        node = parent.get(name) if isinstance(parent, dict) else None
        return self._resolve(path.split("/")) if isinstance(node, str) or name in ("", ".", "..") else node

    def _resolve(self, parts: list[str]) -> _Node | None:
        """Follow `parts` from the top, links too; a link that leaves the recording or runs in a circle is an error."""
        waiting, place, links = list(reversed(parts)), [self._top], 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                if len(place) == 1:
                    raise RecordingError(f"{self.path}: a link in it leads out of it, by {'/'.join(parts)!r:.120}.")
                place.pop()
            elif part not in ("", "."):
                node = place[-1].get(part) if isinstance(place[-1], dict) else None
                if node is None:
                    return None
                if isinstance(node, str):
                    links += 1
                    if links > _MOST_STEPS:
                        raise RecordingError(f"{self.path}: links in it run in a circle, at {'/'.join(parts)!r:.120}.")
                    place = [self._top] if node.startswith("/") else place
                    waiting += reversed(node.split("/"))
                else:
                    place.append(node)
        return place[-1]

    # ---- what must hold before anything is read

    def _check(self, folder: dict, parts: list[str]) -> None:
        """Each link, wherever it is, stays inside."""
        for name, node in folder.items():
            if isinstance(node, dict):
                self._check(node, [*parts, name])
            elif isinstance(node, str):
                if node.startswith("/") and node.split("/")[1] not in ("proc", "sys"):
                    raise RecordingError(f"{self.path}: '{'/'.join([*parts, name])}' is a link to {node!r:.80}, outside of the recording.")
                self._links += 1
                if self._links > _MOST_LINKS:
                    raise RecordingError(f"{self.path}: more than {_MOST_LINKS:,} links. Record it with kvmlab record, which keeps none.")
                self._resolve([*parts, name])

    def _check_folders(self) -> None:
        places = [(place, prefix) for place, prefix in ((CPUS, "cpu"), (NODES, "node")) if self.exists(place)]
        for place, prefix in places:
            wrong = [f"{place}/{prefix}{n}" for n in self.numbered(place, prefix) if isinstance(self._find(f"{place}/{prefix}{n}"), bytes)]
            if wrong or isinstance(self._find(place), bytes):
                raise RecordingError(f"{self.path}: {(wrong or [place])[0]} is a file where a machine has a folder.")


def _tree(path: str) -> dict:
    """All entries as nested dicts."""
    top: dict = {}
    folders = {"": top}
    for member in members(path):
        name = member.path.strip("/").removeprefix("./")
        if not name or name == ".":
            continue
        if ".." in name.split("/"):
            raise RecordingError(f"{path}: '{name:.80}' would lie outside of the recording.")
        parent, _, last = name.rpartition("/")
        folder = folders[parent] if parent in folders else _folder(top, folders, parent, path)
        _put(folder, last, member, top, path)
    return top


def _folder(top: dict, folders: dict[str, dict], name: str, path: str) -> dict:
    folder = top
    parts = name.split("/")
    if len(parts) > _DEEPEST:
        raise RecordingError(f"{path}: '{name:.80}...' lies {len(parts)} folders deep; no machine's files do.")
    for part in parts:
        if part not in ("", "."):
            folder = folder.setdefault(part, {})
            if not isinstance(folder, dict):
                raise RecordingError(f"{path}: '{part:.80}' of '{name:.80}' is a file or link and a folder at once.")
    folders[name] = folder
    return folder


def _put(folder: dict, last: str, member: Member, top: dict, path: str) -> None:
    kind, node = member.kind, member.data
    if kind == "hardlink":
        kind, node = "file", _linked(top, member, path)
    if kind == "link":
        node = member.data.decode("utf-8", "backslashreplace")
    if kind == "folder":
        node = folder.get(last, {})
    if isinstance(folder.get(last), dict) != (kind == "folder") and last in folder:
        raise RecordingError(f"{path}: '{member.path:.80}' is there twice, as a folder and as something else.")
    folder[last] = node


def _linked(top: dict, member: Member, path: str) -> bytes:
    node: object = top
    for part in member.data.decode("utf-8", "backslashreplace").strip("/").removeprefix("./").split("/"):
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, bytes):
        raise RecordingError(f"{path}: '{member.path:.80}' is a hard link to a file that is not in the recording.")
    return node


def _machine(tree: dict, path: str) -> dict:
    """The folder, nearest to the top, that holds sys/, or proc/ where there is no sys/."""
    for wanted in ("sys", "proc"):
        level = [tree]
        while level:
            for folder in level:
                if isinstance(folder.get(wanted), dict):
                    return folder
            level = [node for folder in level for node in folder.values() if isinstance(node, dict)]
    raise RecordingError(f"{path}: holds neither a folder sys/ nor proc/: it is no recording of a Linux machine.")


def _manifest(data: object, path: str) -> dict:
    """What `Host.record` wrote beside the files; others' recordings have none."""
    if not isinstance(data, bytes):
        return {}
    with suppress(ValueError, RecursionError):
        manifest = json.loads(data)
        if isinstance(manifest, dict) and all(isinstance(p, str) for p in _list(manifest, "refused")):
            return manifest
    raise RecordingError(f"{path}: its {MANIFEST} cannot be read. Record the host anew.")


def _list(manifest: dict, key: str) -> list:
    value = manifest.get(key, [])
    return value if isinstance(value, list) else [None]
