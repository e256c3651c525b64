"""A copy of the guest image where QEMU's user can read it, if it cannot read the package's own."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from kvmlab.errors import GuestError
from kvmlab.guest.microguest.page import IMAGE

_PREFIX = "kvmlab-"
_PLACE = Path("/run")


def readable(uri: str) -> tuple[Path, Path | None]:
    """(the image, the folder to remove afterwards). QEMU under qemu:///system is a user who may read what all may read."""
    if not IMAGE.exists():
        raise GuestError(f"The guest image {IMAGE} is missing: install kvmlab anew.")
    if uri != "qemu:///system" or _all_may_read(IMAGE):
        return IMAGE, None
    _remove_orphans(_PLACE)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_PLACE))
    folder.chmod(0o755)
    copy = Path(shutil.copyfile(IMAGE, folder / IMAGE.name))
    copy.chmod(0o644)
    return copy, folder


def _all_may_read(path: Path) -> bool:
    folders = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)
    return folders and bool(path.stat().st_mode & stat.S_IROTH)


def _remove_orphans(place: Path) -> None:
    """Copies whose process was killed before it could remove them."""
    for folder in place.glob(f"{_PREFIX}[0-9]*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
