"""The linter: what is unwise about where threads may run, said before it is done.

Its rules are in lint_rules.py (threads that share) and lint_host_rules.py (CPUs unlike each other). A rule that holds for what
works all the same, and a user may want, is a note or a warning; an error is what cannot be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmlab.columns import documents, frame
from kvmlab.guest import lint_host_rules, lint_rules
from kvmlab.host import cpulist

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.lint_rules import Finding, Rule
    from kvmlab.guest.scene import Scene

RULES = (*lint_host_rules.RULES, *lint_rules.RULES)
SEVERITIES = ("error", "warning", "note")  # the worst first


@documents("lint")
def lint(scene: Scene) -> pd.DataFrame:
    """One row a thing that is unwise in a scene, the worst first; none where nothing is.

    Examples
    --------
    >>> lint(scene.of(lab))[["rule", "vcpus", "why"]]                                       # doctest: +SKIP

    """
    found = [(rule, finding) for rule in RULES for finding in rule.find(scene)]
    found.sort(key=lambda pair: SEVERITIES.index(pair[1].severity))
    result = frame([_row(*pair) for pair in found], "lint")
    result.attrs["unavailable"] = {}
    return result


def _row(rule: Rule, finding: Finding) -> tuple:
    threads = ", ".join(str(thread) for thread in finding.threads)
    return rule.name, finding.severity, threads, cpulist.format(finding.cpus), finding.why, rule.source
