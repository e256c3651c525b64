"""kvmlab: the CPU side of KVM in frames, pictures and real guests.

Importing it loads nothing else; each name below loads what it needs when it is first used.
"""

from importlib import import_module as _import_module

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
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'kvmlab' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = _import_module(_HOMES[name])
    value = module if _HOMES[name].endswith(name) and name.islower() else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
