"""This Python and some of its modules inside the Linux guest: code that acts on the kernel meets a real one, and never this machine's."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

from kvmlab.guest.linux_image import LinuxImage, _libraries, newc
from tests.conftest import REPOSITORY

_LOADED = "import sys, json; sys.path.insert(0, {path!r}); import {modules}; print(json.dumps([sys.prefix, {files}]))"
_FILES = "[m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)]"


def with_python(image: LinuxImage, folder: Path, modules: str) -> LinuxImage:
    """The same image with this Python and the files of everything that `modules` import; ``run`` makes it run code."""
    program = str(Path(sys.executable).resolve())
    command = [program, "-ISB", "-c", _LOADED.format(path=str(REPOSITORY), modules=modules, files=_FILES)]
    prefix, names = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    names += [str(path) for path in Path(prefix, "lib").glob("python3*/os.py")]  # by which Python finds itself
    files = {str(Path(name)).lstrip("/"): Path(name).read_bytes() for name in {program, *names}}
    for name in {program, *(name for name in names if name.endswith(".so"))}:
        files |= dict(_libraries(name))
    more = folder / "initramfs-with-python"
    more.write_bytes(image.initramfs.read_bytes() + gzip.compress(newc(files)))
    return LinuxImage(image.kernel, more, image.made_of)


def run(code: str) -> str:
    """Lines of shell that run `code` in the guest."""
    program = Path(sys.executable).resolve()
    return f"cat > /tmp/code.py << 'END'\nimport sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{code}\nEND\n{program} -ISB /tmp/code.py\n"
