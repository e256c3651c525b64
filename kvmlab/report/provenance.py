"""What somebody who repeats a report must know: versions, the host, what ran the guests, and how noisy it was."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Iterable, Mapping

from kvmlab import __version__
from kvmlab.guest import readiness
from kvmlab.host.host import Host

_PACKAGES = (
    "anywidget",
    "ipykernel",
    "ipywidgets",
    "libvirt-python",
    "matplotlib",
    "nbclient",
    "nbconvert",
    "numpy",
    "pandas",
    "papermill",
)
_NOISE_S = 0.5


def about(host: Host) -> dict:
    """The parts of environment.json that hold before the notebook runs."""
    checks = {row[0]: row for row in readiness.rows()}
    qemu, libvirt, guests = (checks[name] for name in ("QEMU", "libvirt", "lab guests"))
    return {
        "versions": {
            "kvmlab": __version__,
            "Python": platform.python_version(),
            "kernel": platform.release(),
            "QEMU": _version(qemu),
            "libvirt": _version(libvirt),
            "packages": {name: version for name in _PACKAGES if (version := _installed(name))},
        },
        "host": {
            "model": _model(host),
            "architecture": platform.machine(),
            "cpus_online": int(host.cpus()["online"].sum()),
            "recording": "host.tar.xz",
        },
        "acceleration": {"lab_guests": guests[2], "why": guests[4]},
    }


def _version(check: tuple) -> str | None:
    """NA is None: what is not installed has no version."""
    found = re.search(r"\d+(\.\d+)+", check[2]) if check[1] == "pass" else None
    return found[0] if found else None


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _model(host: Host) -> str:
    found = re.search(r"^(?:model name|cpu model|Model)\s*:\s*(.+)$", host.root.read("proc/cpuinfo") or "", re.M)
    return found[1].strip() if found else f"a CPU of unknown model ({platform.machine()})"


def noise() -> list[dict]:
    """Rows of ``measure.noise``."""
    from kvmlab import measure

    return rows(measure.noise(_NOISE_S))


def rows(frame) -> list[dict]:
    """As JSON has them; missing is null."""
    return json.loads(frame.to_json(orient="records"))


def accel_of(files: Iterable[Mapping]) -> list[str]:
    """What ran the guests of the frames that say so, such as ["kvm"]."""
    return sorted({file["accel"] for file in files if isinstance(file.get("accel"), str)})
