"""Every error that kvmlab raises on purpose. Each says what, which value, what would be legal, and the next step."""


class KvmlabError(Exception):
    """The parent of all of them."""


class CpuListError(KvmlabError, ValueError):
    """A text that is no CPU list."""


class ConnectError(KvmlabError):
    """No libvirt to talk to: package, daemon or permission missing, or the daemon went away."""


class GuestError(KvmlabError):
    """A guest that cannot start, does not answer, or is gone."""


class PlanError(KvmlabError, ValueError):
    """A placement that cannot be: an unknown guest, vCPU or CPU. Nothing was changed."""


class PinError(KvmlabError):
    """A placement that the kernel did not take as asked. What had been changed was put back."""


class ThreadError(KvmlabError, LookupError):
    """A process or thread that is not there."""


class PartitionError(KvmlabError):
    """A cpuset partition that cannot be made here. What had been changed was put back."""


class RecordingError(KvmlabError):
    """A file or folder that is no recording of a machine, or not safe to read as one."""


class CpuModelError(KvmlabError, ValueError):
    """A CPU model or flag that libvirt does not know, a list of them that cannot be read, or CPUs with nothing in common."""


class CourseError(KvmlabError, LookupError):
    """An exercise that there is not."""


class ReportError(KvmlabError):
    """A report that cannot be made, written or read."""
