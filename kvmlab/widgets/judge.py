"""What the linter says of the wishes of a pin canvas, beside what it says of the threads as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmlab.guest import scene
from kvmlab.guest.lint import lint
from kvmlab.guest.watch import Guests

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.targets import Pin
    from kvmlab.lab import Lab


class Aside:
    """A Lab as the linter's thread sees it, with processes of its own: those of the Lab are looked at by another thread."""

    def __init__(self, lab: Lab):
        self._lab, self.processes = lab, Guests(lab)

    def __getattr__(self, name: str) -> object:
        return getattr(self._lab, name)


def messages(lab: Aside, pins: tuple[Pin, ...]) -> list[dict]:
    """What the linter says of a plan; each with whether it is new, stays, or would be solved by it."""
    now = scene.of(lab)
    before = _by_what(lint(now))
    after = _by_what(lint(now.with_pins(pins))) if pins else before
    found = [{**words, "state": "new" if what not in before else "stays"} for what, words in after.items()]
    found += [{**words, "state": "solved"} for what, words in before.items() if what not in after]
    return sorted(found, key=lambda m: (("new", "stays", "solved").index(m["state"]), ("error", "warning", "note").index(m["severity"])))


def _by_what(messages: pd.DataFrame) -> dict[tuple, dict]:
    words = messages.astype(object).where(messages.notna(), "").to_dict("records")
    return {(m["rule"], m["vcpus"], m["cpus"]): m for m in words}
