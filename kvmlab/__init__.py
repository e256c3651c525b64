"""kvmlab: the CPU side of KVM in frames, pictures and real guests.

Importing it loads nothing else; each name below loads what it needs when it is first used.
"""

from importlib import import_module as _import_module

from kvmlab.errors import ConnectError as _ConnectError

__version__ = "0.1.0"

_HOMES = {
    "Host": "kvmlab.host.host",
    "KvmlabError": "kvmlab.errors",
    "Lab": "kvmlab.lab",
    "TwoHosts": "kvmlab.lab",
    "cpulist": "kvmlab.host.cpulist",
    "measure": "kvmlab.measure",
    "models": "kvmlab.guest.models",
    "plots": "kvmlab.plots",
    "report": "kvmlab.report",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'kvmlab' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        module = _import_module(_HOMES[name])
    except _ConnectError as error:  # what lives on recorded hosts works without libvirt: the lines that import all of it must too
        return _Missing(error)
    value = module if _HOMES[name].endswith(name) and name.islower() else getattr(module, name)
    globals()[name] = value
    return value


class _Missing:
    """In the place of what needs libvirt, where there is none: it says so as soon as it is used."""

    def __init__(self, error: _ConnectError):
        self.__dict__["error"] = error

    def __call__(self, *_given: object, **_named: object):
        raise _ConnectError(str(self.__dict__["error"])) from self.__dict__["error"]

    def __getattr__(self, name: str):
        if name.startswith("__"):  # Python itself looks
            raise AttributeError(name)
        return self()


def __dir__() -> list[str]:
    return __all__
