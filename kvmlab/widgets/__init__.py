"""Controls for notebooks, thin over calls that can be typed as well. Nothing imports this but the face."""

from kvmlab.widgets.canvas import PinCanvas
from kvmlab.widgets.controls import ask, vary

__all__ = ["PinCanvas", "ask", "vary"]
