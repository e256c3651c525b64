"""The layers under a guest, stacked as they stand on each other, with this machine's own numbers in them."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from kvmlab.plots.style import INK, MUTED, RULE, expect, heading, new_axes

_NAMES = {  # from the top down
    **{"client": "your program", "daemon": "libvirt's daemon", "domain": "libvirt's domain", "process": "QEMU's process"},
    **{"thread": "its vCPU threads", "vcpu": "KVM's vCPUs", "vm": "KVM's VM", "device": "KVM's device", "module": "kernel modules"},
}
_KERNEL = ("vcpu", "vm", "device", "module")
_FILLS = {"user": "#fbecc8", "kernel": "#f8d9c4", "nothing": "white"}  # the palette's colours of user and kernel mode, mixed with white
_WIDTH, _HEIGHT, _GAP = 10.0, 0.8, 0.2
_SHOWN = 3  # boxes side by side; of more vCPUs the first ones and how many there are


def layers(data: pd.DataFrame, title: str = "Who runs the guest", ax: Axes | None = None) -> Axes:
    """Boxes stacked as the layers are: the program on top, the kernel's modules at the bottom.

    Parameters
    ----------
    data : DataFrame
        From ``lab.layers``.
    title : str
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    expect(data, "layers", "lab.layers")
    ax = ax or new_axes(9, 0.5 + 0.5 * len(_NAMES))
    for place, (layer, name) in enumerate(_NAMES.items()):
        y = -place * (_HEIGHT + _GAP) - (0.4 if layer in _KERNEL else 0)
        ax.text(-0.2, y + _HEIGHT / 2, name, ha="right", va="center", fontsize=9, color=INK)
        _row(ax, y, data[data["layer"] == layer])
    _border(ax)
    ax.set_xlim(-2.4, _WIDTH + 0.05)
    ax.set_ylim(-(len(_NAMES) - 1) * (_HEIGHT + _GAP) - 0.5, _HEIGHT + 0.1)
    ax.set_axis_off()
    heading(ax, title)
    return ax


def _row(ax: Axes, y: float, rows: pd.DataFrame) -> None:
    shown = rows if len(rows) <= _SHOWN else rows.head(_SHOWN - 1)
    texts = [_text(row) for row in shown.itertuples()]
    nothing = bool(len(rows)) and rows["what"].isna().all()
    if nothing:
        texts = [("", str(rows["detail"].iloc[0]))]
    elif len(shown) < len(rows):
        texts.append(("", f"and {len(rows) - len(shown)} more"))
    fill = "nothing" if nothing or rows.empty else "kernel" if rows["layer"].iloc[0] in _KERNEL else "user"
    for number, (bold, plain) in enumerate(texts):
        width = _WIDTH / len(texts)
        _box(ax, number * width, y, width - (0.12 if number < len(texts) - 1 else 0), fill, bold, plain)


def _text(row) -> tuple[str, str]:
    """The two lines on a box."""
    if row.layer == "module":
        return _known(row.id, row.what), ", ".join(word for word in (_known(row.what), row.detail) if word)
    exits = "" if pd.isna(row.exits) else f"{row.exits:,} exits so far"
    detail = exits if row.layer == "vcpu" else row.detail
    return _known(row.what), ", ".join(word for word in (_known(row.id), detail) if word)


def _known(*values: object) -> str:
    return next((str(value) for value in values if not pd.isna(value)), "")


def _box(ax: Axes, x: float, y: float, width: float, fill: str, bold: str, plain: str) -> None:
    line = {"edgecolor": MUTED if fill == "nothing" else RULE, "linestyle": "--" if fill == "nothing" else "-"}
    ax.add_patch(Rectangle((x, y), width, _HEIGHT, facecolor=_FILLS[fill], linewidth=1, **line))
    middle, centre = x + width / 2, y + _HEIGHT / 2
    ax.text(middle, centre + (0.17 if plain else 0), bold, ha="center", va="center", fontsize=9, fontweight="bold", color=INK)
    ax.text(middle, centre - (0.19 if bold else 0), plain, ha="center", va="center", fontsize=8, color=MUTED)


def _border(ax: Axes) -> None:
    """Between the last layer in user mode and the first one in the kernel."""
    last = [layer in _KERNEL for layer in _NAMES].index(True) - 1
    y = -last * (_HEIGHT + _GAP) - _GAP - 0.1
    ax.plot([-2.3, _WIDTH], [y, y], color=INK, linestyle=":", linewidth=1)
    ax.text(-2.3, y + 0.06, "user mode", fontsize=8, va="bottom", color=MUTED)
    ax.text(-2.3, y - 0.06, "kernel mode", fontsize=8, va="top", color=MUTED)


def layers_in_words(data: pd.DataFrame) -> str:
    """One sentence a vCPU: from the guest's name down to the file descriptor by which its thread calls KVM."""
    expect(data, "layers", "lab.layers")
    one = {row.layer: row for row in data.itertuples()}
    lines = []
    for thread in data[data["layer"] == "thread"].itertuples():
        fd = next((row for row in data[data["layer"] == "vcpu"].itertuples() if row.vcpu == thread.vcpu), None)
        if fd is None or pd.isna(fd.what):
            below = "which emulates it: KVM has no part in it"
        else:
            exits = "" if pd.isna(fd.exits) else f", {fd.exits:,} exits so far"
            below = f"which runs it by ioctl on {_known(fd.id, 'a file descriptor')} ({fd.what}{exits})"
        name = f"{one['domain'].what} vCPU {thread.vcpu}" if "domain" in one else f"vCPU {thread.vcpu}"
        lines.append(
            f"{name} is thread {thread.id.removeprefix('tid ')} of QEMU's process {one['process'].id.removeprefix('pid ')}, {below}."
        )
    return "\n".join(lines)
