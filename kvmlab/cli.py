"""`kvmlab`: the calls of the package, for a terminal."""

from __future__ import annotations

import argparse
import sys

from kvmlab import __version__
from kvmlab.errors import KvmlabError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it went well, 1 with one line on stderr when it did not."""
    parser = argparse.ArgumentParser(prog="kvmlab", description="The CPU side of KVM: real guests, pins and measurements.")
    parser.add_argument("--version", action="version", version=f"kvmlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("tour", help="two real guests, where their vCPUs run, and what a pin changes (some 15 s)")
    parser.parse_args(arguments)
    try:
        from kvmlab.tour import tour

        tour()
    except KvmlabError as error:
        print(f"kvmlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
