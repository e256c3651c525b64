"""Machines on paper: the files of /proc and /sys that a test writes, as a recording holds them."""

from kvmlab.host import support
from kvmlab.host.sysroot import SysRoot

FLAGS = "sys/module/{}/parameters/{}"
CPUS = "sys/devices/system/cpu"


class Recorded(SysRoot):
    live = False


class Paper(SysRoot):
    """A recorded machine whose files are a dict."""

    live = False

    def __init__(self, files):
        super().__init__()
        self.files = files

    def read_bytes(self, path):
        return self.files.get(path)

    def list(self, path):
        return list({name[len(path) + 1 :].split("/")[0] for name in self.files if name.startswith(path + "/")})

    def exists(self, path):
        return path in self.files or bool(self.list(path))


def machine(folder, files):
    """Files of a recorded machine on the disk."""
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Recorded(folder)


def table(root):
    return {row[0]: row for row in support.rows(root)}
