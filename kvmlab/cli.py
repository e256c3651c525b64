"""`kvmlab`: the calls of the package, for a terminal."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from typing import TYPE_CHECKING

from kvmlab import __version__
from kvmlab.errors import KvmlabError

if TYPE_CHECKING:
    from kvmlab.host.host import Host

_THREADS = ["tid", "pid", "ruser", "cpu", "state", "kind", "pool", "queue", "comm", "args"]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it went well, 1 with one line on stderr when it did not."""
    options = _parser().parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # a terminal that knows ASCII only has no micro sign
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except KvmlabError as error:
        print(f"kvmlab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `kvmlab threads | head`
        _say_no_more()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename:
            raise
        _say_no_more()
        print(f"kvmlab: the output cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _say_no_more() -> None:
    """Python would try to write the rest at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvmlab", description="The CPU side of KVM: real guests, pins and measurements.")
    parser.add_argument("--version", action="version", version=f"kvmlab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, words: str, recordings: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=words)
        made.set_defaults(run=run)
        if recordings:
            made.add_argument("--host", metavar="RECORDING", help="a recorded host instead of this machine")
            made.add_argument("--json", action="store_true", help="a list of objects, for scripts")
        return made

    doctor = command(
        "doctor", _doctor, "what KVM needs and finds here, how fast it is, and what to do about it; 1 when something is missing"
    )
    doctor.add_argument("--clean", action="store_true", help="instead, put back the pins and shares that killed processes of yours left")
    threads = command("threads", _threads, "every thread: where it last ran and what it is for")
    threads.add_argument("--cpu", type=int, metavar="N", help="only those that last ran on this host CPU")
    threads.add_argument("--kind", metavar="KIND", help="only those of this kind, such as vcpu or kworker")
    topology = command("topology", _topology, "sockets, cores, SMT threads, caches and NUMA nodes")
    topology.add_argument("-o", "--output", metavar="FILE", help="draw it instead: .svg, .png or .pdf")
    record = command("record", _record, "write what kvmlab reads of this machine into one archive, without names and addresses", False)
    record.add_argument("path", metavar="FILE", help="ends in .tar, .tar.gz, .tar.bz2 or .tar.xz")
    overcommit = command("overcommit", _overcommit, "vCPUs of running guests against the host CPUs that they may use, now", False)
    overcommit.add_argument("--json", action="store_true", help="a list of objects, for scripts")
    command("tour", _tour, "two real guests, where their vCPUs run, and what a pin changes (some ten seconds)", False)
    _report_parser(commands)
    build = command(
        "build-linux-guest", _build, "fetch a kernel and busybox for the Linux guest (Debian and Ubuntu; nothing is installed)", False
    )
    build.add_argument("folder", nargs="?", help="where to; by default in your cache folder")
    return parser


def _report_parser(commands: argparse._SubParsersAction) -> None:
    words = "run a notebook and write a report into one folder, to read, to hand in and to compare; 1 when a cell failed"
    made = commands.add_parser(
        "report",
        help=words,
        description=words,
        usage="kvmlab report NOTEBOOK [-p NAME=VALUE]... -o OUT\n       kvmlab report compare A B",
        epilog="`kvmlab report compare A B` says what differs between two reports of a notebook, beyond noise; 1 when anything does.",
    )
    made.add_argument("notebook", metavar="NOTEBOOK", help="an .ipynb file")
    made.add_argument("reports", metavar="A B", nargs="*", help="after `compare`: the folders of two reports")
    made.add_argument("-p", "--parameter", metavar="NAME=VALUE", action="append", default=[], help="for what its cell 'parameters' sets")
    made.add_argument("-o", "--output", metavar="OUT", help="a folder that is not there yet, or is empty")
    made.set_defaults(run=_report, usage=made.error)


def _host(options: argparse.Namespace) -> Host:
    from kvmlab import Host

    return Host() if options.host is None else Host.open(options.host)


def _doctor(options: argparse.Namespace) -> int:
    if options.clean:
        return _clean(options)
    import pandas as pd

    from kvmlab import columns, terminal

    checks = _host(options).support()
    if options.host is None:
        from kvmlab.guest import readiness

        checks = pd.concat([checks, columns.frame(readiness.rows(), "support")], ignore_index=True)
    print(terminal.as_json(checks) if options.json else terminal.readiness(checks))
    return int((checks["status"] == "fail").any())


def _clean(options: argparse.Namespace) -> int:
    if options.host is not None or options.json:
        raise KvmlabError("doctor --clean puts back what is left on this machine, and says it in words: leave --host and --json out.")
    from kvmlab.guest import replay

    said = replay.clean()
    print(*said or ["There is nothing to put back: no killed process of yours left a change."], sep="\n")
    return int(any(words.startswith("Not put back") for words in said))


def _threads(options: argparse.Namespace) -> None:
    from kvmlab import terminal
    from kvmlab.host.kinds import KINDS

    host = _host(options)
    threads = host.threads()
    if threads.empty:
        raise KvmlabError(f"{host.name} holds no threads: only recordings by kvmlab record do.")
    legal = {"cpu": host.cpus()["cpu"].tolist(), "kind": list(KINDS)}
    for column, wanted in (("cpu", options.cpu), ("kind", options.kind)):
        if wanted is not None:
            if wanted not in legal[column]:
                raise KvmlabError(f"There is no {column} {wanted!r}. There are: {', '.join(map(str, legal[column]))}.")
            threads = threads[threads[column] == wanted]
    print(
        terminal.as_json(threads)
        if options.json
        else terminal.table(threads[_THREADS].dropna(axis="columns", how="all" if len(threads) else "any"))
    )


def _topology(options: argparse.Namespace) -> None:
    from kvmlab import terminal

    host = _host(options)
    cpus, caches, nodes = host.cpus(), host.caches(), host.nodes()
    if options.output:
        _draw(options.output, host.name, cpus, caches, nodes)
    elif options.json:
        print(terminal.as_json(cpus))
    else:
        from kvmlab.plots import machine_in_words

        print(machine_in_words(cpus, caches, nodes), "", terminal.table(cpus.dropna(axis="columns", how="all")), sep="\n")


def _draw(path: str, name: str, cpus, caches, nodes) -> None:
    if not path.lower().endswith((".svg", ".png", ".pdf")):
        raise KvmlabError(f"{path}: a picture's name ends in .svg, .png or .pdf.")
    import matplotlib

    matplotlib.use("agg")
    from kvmlab import plots

    axes = plots.machine(cpus, caches, nodes, title=name)
    try:
        axes.figure.savefig(path)
    except OSError as error:
        raise KvmlabError(f"{path}: cannot be written: {error.strerror}.") from error
    print(f"{os.path.abspath(path)}: {plots.machine_in_words(cpus, caches, nodes)}")


def _record(options: argparse.Namespace) -> None:
    from kvmlab import Host

    manifest = Host().record(options.path)
    scrubbed = ", ".join(f"{count} {what}" for what, count in manifest["scrubbed"].items()) or "nothing"
    print(
        f"{os.path.abspath(options.path)}: {manifest['files']} files, {os.path.getsize(options.path) / 1024:.0f} KiB. Scrubbed: {scrubbed}."
    )
    if manifest["refused"]:
        print(f"{len(manifest['refused'])} files could not be read for want of permission; the recording says which.")


def _overcommit(options: argparse.Namespace) -> None:
    from kvmlab import Lab, terminal

    with Lab() as lab:
        ratios = lab.overcommit()
        print(terminal.as_json(ratios) if options.json else terminal.overcommit(ratios, lab.uri))


def _tour(_options: argparse.Namespace) -> None:
    from kvmlab.tour import tour

    tour()


def _report(options: argparse.Namespace) -> int:
    if options.notebook == "compare":
        return _compare(options)
    if options.reports or not options.output:
        options.usage("write a notebook, and -o with a folder for the report" if not options.output else f"what is {options.reports[0]!r}?")
    from kvmlab import report
    from kvmlab.report import parameters

    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
        if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:  # as under nohup
            signal.signal(getattr(signal, name), signal.default_int_handler)
    made = report.run(options.notebook, options.output, parameters.parse(options.parameter))
    how_it_went, _, rest = str(made).partition("\n")
    if made.status == "complete":
        print(how_it_went)
    else:
        print(f"kvmlab: {how_it_went}", file=sys.stderr)
    print(rest)
    return int(made.status != "complete")


def _compare(options: argparse.Namespace) -> int:
    if len(options.reports) != 2 or options.output or options.parameter:
        options.usage("compare takes the folders of two reports, and nothing else")
    from kvmlab import report

    found = report.compare(*options.reports)
    print(found)
    return int(found.differs)


def _build(options: argparse.Namespace) -> None:
    import shlex

    from kvmlab.guest import linux

    print("Fetching a kernel and busybox ...", file=sys.stderr, flush=True)
    image = linux.build(options.folder)
    made_of = ", ".join(f"{name} {version}" for name, version in image.made_of.items())
    print(f"{image.kernel.parent}: {made_of}", "For a prompt in it (Ctrl-D ends it):", sep="\n")
    print(shlex.join([*linux.Shape(cores=2, cpu="max").command(image), "-serial", "stdio"]))


if __name__ == "__main__":
    sys.exit(main())
