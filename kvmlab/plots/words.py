"""The machine as a sentence: what stands under its picture, for a screen reader and for GitHub."""

from __future__ import annotations

import pandas as pd

from kvmlab.plots import boxes
from kvmlab.plots.style import expect, runs, size, span
from kvmlab.wording import count


def machine_in_words(cpus: pd.DataFrame, caches: pd.DataFrame | None = None, nodes: pd.DataFrame | None = None) -> str:
    """What ``machine`` draws, as a sentence.

    Parameters
    ----------
    cpus : DataFrame
        From ``Host.cpus()``.
    caches, nodes : DataFrame, optional
        From ``Host.caches()`` and ``Host.nodes()``.
    """
    for data, kind in ((cpus, "cpus"), (caches, "caches"), (nodes, "nodes")):
        if data is not None:
            expect(data, kind, f"Host.{kind}()")
    parts = [shape_in_words(cpus), *_differing(cpus), *_special(cpus), *_nodes(cpus, nodes), *_caches(cpus, caches)]
    return "; ".join(parts)


def shape_in_words(cpus: pd.DataFrame) -> str:
    """Sockets, dies, cores and threads of what is online: as a product where each has as many parts as the next, else counted."""
    is_online = cpus["online"].fillna(True).astype(bool)
    online, offline = cpus[is_online], cpus[~is_online]["cpu"]
    if online[["socket", "core"]].isna().all(axis=None):
        shape = f"{count(len(online), 'CPU')}, topology not known"
    else:
        shape = _product(online) or _counted(online)
    return f"{shape} online ({_cpus(offline)} offline)" if len(offline) else shape


def _product(online: pd.DataFrame) -> str | None:
    if online[["socket", "core"]].isna().any(axis=None):
        return None
    factors, levels = [], ("socket", "die", "core", "cpu")
    for level, name in enumerate(("socket", "die", "core", "thread")):
        parts = _parts(online, levels[: level + 1])
        if len(parts) > 1:
            return None
        if name != "die" or parts != {1}:
            factors.append(count(*parts, name))
    return f"{' x '.join(factors)} = {count(len(online), 'CPU')}"


def _parts(online: pd.DataFrame, levels: tuple[str, ...]) -> set[int]:
    """How many of the last level there are in each one of the levels above."""
    different = online.drop_duplicates(list(levels))
    return {len(different)} if len(levels) == 1 else set(different.groupby(list(levels[:-1]), dropna=False).size())


def _counted(online: pd.DataFrame) -> str:
    known = online[online["core"].notna()]
    threads = known.groupby(["socket", "die", "core"], dropna=False).size()
    sockets = count(online["socket"].nunique(), "socket") if online["socket"].notna().all() else "sockets not known"
    cores = f"{count(len(threads), 'core')} of {span(threads, ' or ')} {'thread' if set(threads) == {1} else 'threads'}"
    return f"{sockets}, {cores if len(known) == len(online) else 'cores not known'}, {count(len(online), 'CPU')}"


def _cpus(numbers: pd.Series) -> str:
    return f"CPU{'s' * (len(numbers) > 1)} {runs(int(number) for number in numbers)}"


def _differing(cpus: pd.DataFrame) -> list[str]:
    kinds = boxes.strengths(cpus)
    told = [f"{count(number, 'core')} {kind}" for kind, number in kinds]
    return [f"cores differ: {', '.join(told) if len(told) < 5 else f'{told[0]}, ... {told[-1]}'}"] if kinds else []


def _special(cpus: pd.DataFrame) -> list[str]:
    marked = ((name, cpus[cpus[name].fillna(False).astype(bool)]["cpu"]) for name in ("isolated", "nohz_full"))
    return [f"{_cpus(numbers)} {name}" for name, numbers in marked if len(numbers)]


def _nodes(cpus: pd.DataFrame, nodes: pd.DataFrame | None) -> list[str]:
    if nodes is None:
        return [count(cpus["node"].nunique(), "NUMA node")] if cpus["node"].notna().any() else []
    if not len(nodes):
        return []
    memory, text = nodes["mem_total_kib"].dropna(), count(len(nodes), "NUMA node")
    if len(memory[memory > 0]):
        text += f" with {span(memory[memory > 0], form=boxes.gib)}{' each' * (len(memory[memory > 0]) > 1 and memory.nunique() == 1)}"
    for what, which in ((boxes.cpus_of(cpus), nodes["cpus"] == ""), ("memory", nodes["mem_total_kib"] == 0)):
        without = nodes[which.fillna(False).astype(bool)]["node"]
        text += f", node{'s' * (len(without) > 1)} {runs(without)} without {what}" if len(without) else ""
    return [text]


def _caches(cpus: pd.DataFrame, caches: pd.DataFrame | None) -> list[str]:
    found = []
    for level in (3, 2):
        shared = cpus.groupby(f"l{level}")["cpu"].size()
        if len(shared):
            known = [] if caches is None else caches[(caches["level"] == level) & (caches["type"] != "Instruction")]["size_kib"].dropna()
            sizes = f" of {span(known, form=size)}" if len(known) else ""
            by = f"shared by {span(shared)} CPUs" if shared.max() > 1 else "for 1 CPU"
            found.append(f"{count(len(shared), f'L{level} cache')}{sizes}, {'each ' * (len(shared) > 1)}{by}")
    return found
