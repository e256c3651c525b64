"""Machines made by hand, as the frames of Host: nodes, caches and cores in any number, and texts looked up in a picture."""

import itertools

import matplotlib

from kvmlab.columns import FRAMES, frame

matplotlib.use("agg")


def cpu_row(cpu: int, **known) -> tuple:
    """One row of cpus(); what is not given is NA."""
    names = [column.name for column in FRAMES["cpus"]][1:]
    values = {"online": True, "isolated": False, "nohz_full": False} | known
    return cpu, *(values.get(name) for name in names)


def machine(sockets: int, dies: int, caches: int, cores: int, threads: int, offline=(), **special: set):
    """The frames cpus, caches, nodes of a regular machine: a node a socket, so many L3 a die, so many cores an L3."""
    rows = []
    for place in itertools.product(range(sockets), range(dies), range(caches), range(cores), range(threads)):
        socket, die, cache, core, smt = place
        cpu = len(rows)
        third = (socket * dies + die) * caches + cache
        known = {"node": socket, "socket": socket, "die": die, "l3": third, "core": cache * cores + core, "smt": smt, "l2": cpu // threads}
        flags = {name: cpu in members for name, members in special.items()}
        rows.append(cpu_row(cpu, online=False) if cpu in offline else cpu_row(cpu, **known, **flags))
    third = [(number, 3, "Unified", 16384, 16, 64, "") for number in range(sockets * dies * caches)]
    second = [(number, 2, "Unified", 512, 8, 64, "") for number in range(len(rows) // threads)]
    nodes = [(node, "0", 8 << 20, 1 << 20, 0, 0) for node in range(sockets)]
    return frame(rows, "cpus"), frame(second + third, "caches"), frame(nodes, "nodes")


def extents(ax) -> list[tuple[str, matplotlib.transforms.Bbox]]:
    """Each text that the picture shows, and where it is on the screen."""
    ax.figure.draw_without_rendering()
    legend = ax.get_legend()
    found = [*ax.texts, ax.title, ax._left_title, *(legend.get_texts() if legend else ())]
    found += [ax.xaxis.label, ax.yaxis.label] if ax.axison else []
    for axis, limits in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True) if ax.axison else ()
        found += [label for place, label in ticks if limits[0] <= place <= limits[1]]
    return [(text.get_text(), text.get_window_extent()) for text in found if text.get_text() and text.get_visible()]


def overlapping(ax) -> list[tuple[str, str]]:
    """The pairs of texts that touch."""
    return [(a[0], b[0]) for a, b in itertools.combinations(extents(ax), 2) if a[1].shrunk(0.98, 0.95).overlaps(b[1].shrunk(0.98, 0.95))]


def clipped(ax) -> list[str]:
    """The texts that the figure's edge cuts off."""
    paper = ax.figure.bbox
    return [text for text, box in extents(ax) if box.x0 < -1 or box.y0 < -1 or box.x1 > paper.x1 + 1 or box.y1 > paper.y1 + 1]
