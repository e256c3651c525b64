"""Controls for notebooks, thin over calls that can be typed as well. Nothing imports this but the face."""

from kvmlab.widgets.controls import ask, vary

__all__ = ["PinCanvas", "ask", "vary"]


def __getattr__(name: str):
    if name != "PinCanvas":
        raise AttributeError(f"module 'kvmlab.widgets' has no attribute {name!r}; it has {', '.join(__all__)}")
    from kvmlab.widgets.canvas import PinCanvas  # it needs libvirt, and sliders do not

    return PinCanvas
