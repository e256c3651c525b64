"""Recording a machine: the frames are read once through a root that remembers every file, and these files are the recording.

So a recording holds what the frames need and nothing else, and opening it gives the same frames through the same code.
What names people, machines or networks is scrubbed (host/scrub.py).
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from kvmlab import __version__
from kvmlab.errors import RecordingError
from kvmlab.host.cpusets import CPUS, online_cpus
from kvmlab.host.recording import MANIFEST
from kvmlab.host.scrub import Scrubber
from kvmlab.host.sysroot import SysRoot

if TYPE_CHECKING:
    from kvmlab.host.host import Host

_FOR_LSCPU = ("possible", "present", "kernel_max")  # no frame needs them, but lscpu --sysroot needs them to replay a recording
_OLD_NAMES = ("core_siblings", "thread_siblings")  # of package_cpus and core_cpus: so does it need these
_MODES = {".tar": "w", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


class _Watched(SysRoot):
    """Another root, and what was read from it: files with their content, and the names that folders were found to hold."""

    def __init__(self, root: SysRoot):
        self.root, self.live, self.path, self.refused = root, root.live, root.path, set()
        self.files: dict[str, bytes] = {}
        self.folders_seen: set[str] = set()
        self.links: dict[str, str] = {}
        self.manifest = root.manifest

    def read_bytes(self, path: str) -> bytes | None:
        data = self.root.read_bytes(path)
        if data is not None:
            self.files[path] = data
        return data

    def list(self, path: str) -> list[str]:
        names = self.root.list(path)
        self._saw(path, names)
        return names

    def folders(self, path: str) -> list[str]:
        names = self.root.folders(path)
        self._saw(path, names)
        return names

    def numbered(self, path: str, prefix: str = "") -> list[int]:
        numbers = self.root.numbered(path, prefix)
        self._saw(path, [f"{prefix}{number}" for number in numbers])
        return numbers

    def target(self, path: str) -> str | None:
        target = self.root.target(path)
        if target is not None:
            self.links[path] = target
        return target

    def exists(self, path: str) -> bool:
        there = self.root.exists(path)
        if there:
            self.folders_seen.add(path)
        return there

    def _saw(self, path: str, names: list[str]) -> None:
        if names or self.root.exists(path):
            self.folders_seen |= {path, *(f"{path}/{name}" for name in names)}


def record(host: Host, path: str | os.PathLike) -> dict:
    """What ``Host.record`` does."""
    path = os.fspath(path)
    mode = next((mode for ending, mode in _MODES.items() if path.endswith(ending)), None)
    if mode is None:
        raise RecordingError(f"{path}: a recording's name ends in {', '.join(_MODES)}.")
    watched = _Watched(host.root)
    checks = _read_everything(watched)
    scrubber = Scrubber(watched.live)
    entries = _entries(watched, scrubber)
    manifest = {
        "made_by": f"kvmlab {__version__}",
        "complete": watched.live or host.root.manifest.get("complete") is True,  # what is missing was not there
        "files": sum(data is not None for data in entries.values()),
        "scrubbed": scrubber.report() or host.root.manifest.get("scrubbed", {}),  # of a recording: what was scrubbed then
        "refused": sorted(scrubber.path(name) for name in host.root.refused | watched.refused),
        "checks": checks,
    }
    _write(path, mode, entries, manifest)
    return manifest


def _read_everything(watched: _Watched) -> list[list]:
    """Read all frames once. Returns what only the machine itself can tell, as rows of the support frame."""
    from kvmlab.host import caches, cputime, flags, isolation, kvm, numa, support, threads, topology

    for read in (topology.rows, caches.rows, numa.rows, flags.rows, kvm.rows, cputime.rows, isolation.rows):
        list(read(watched))
    numa.distances(watched)
    list(threads.rows(watched, True))
    for name in (*_FOR_LSCPU, *(f"cpu{cpu}/topology/{name}" for cpu in online_cpus(watched) for name in _OLD_NAMES)):
        watched.read(f"{CPUS}/{name}")
    return [list(row) for row in support.rows(watched) if row[0] in support.LIVE_CHECKS]


def _entries(watched: _Watched, scrubber: Scrubber) -> dict[str, bytes | None]:
    """Path -> content, or None for a folder that is not empty by accident; links are kept as the files they lead to."""
    files = {scrubber.path(path): data for path, raw in watched.files.items() if (data := scrubber.content(path, raw)) is not None}
    parents = {parent for path in files for parent in _parents(path)}
    folders = {scrubber.path(path) for path in watched.folders_seen} - parents - set(files)
    return dict(sorted((files | dict.fromkeys(folders)).items()))


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _write(path: str, mode: str, entries: dict[str, bytes | None], manifest: dict) -> None:
    """The same machine state gives the same bytes: no owners, no times."""
    text = json.dumps(manifest, indent=1, sort_keys=True).encode()
    try:
        fd, made = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), prefix=".kvmlab-recording-")
        try:
            with open(fd, "wb") as file, tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT) as tar:
                for name, data in {MANIFEST: text, **entries}.items():
                    _add(tar, name, data)
            os.chmod(made, 0o644)
            os.replace(made, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(made)
            raise
    except OSError as error:
        raise RecordingError(f"{path}: cannot be written: {error.strerror}. Choose another place.") from error


def _add(tar: tarfile.TarFile, name: str, data: bytes | None) -> None:
    info = tarfile.TarInfo(name)
    if data is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size, info.mode = len(data), 0o644
    tar.addfile(info, None if data is None else io.BytesIO(data))
