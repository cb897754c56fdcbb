"""
The command line: C{python -m benchmarks} measures and writes the results, with C{check} it compares them to the bars,
with C{profile} it prints where the CPU time of a message goes, and with C{machine} how much workers carry.

This module combines the others and does nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bars, measure, peers, profiling, report
from benchmarks.load import smtpSourceMissing
from benchmarks.rounds import Record, play
from benchmarks.workloads import MACHINE, WORKLOADS, Workload

_QUICK = 0.01


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    # Debian installs Postfix's programs where only root's PATH finds them.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    known = MACHINE if options.command == "machine" else WORKLOADS
    workloads = [workload for workload in known if workload.name in (options.only or _names())]
    if smtpSourceMissing() and any(workload.usesSmtpSource for workload in workloads):
        print("The load comes from Postfix's smtp-source: apt install postfix", file=sys.stderr)
        return 1
    # Nothing but smtphooks is measured of a machine.
    _prepare(mayBuild=not options.quick and options.command != "machine")
    if options.command == "profile":
        return _profile(options.output)
    if options.command == "check":
        return _check(workloads, max(options.rounds, bars.ROUNDS))
    records = _playAll(workloads, 1 if options.quick else options.rounds, _QUICK if options.quick else 1.0)
    if records:  # otherwise --only is for the other command
        write = _writeMachine if options.command == "machine" else _write
        write(list(records.values()), options.output)
    return 0


def _names() -> list[str]:
    return list(dict.fromkeys(workload.name for workload in (*WORKLOADS, *MACHINE)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="smtphooks beside its peers")
    parser.add_argument("command", nargs="?", choices=["run", "check", "profile", "machine"], default="run")
    parser.add_argument("--only", action="append", choices=_names(), metavar="NAME", help=", ".join(_names()))
    parser.add_argument("--rounds", type=int, default=bars.ROUNDS, metavar="N", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="one round of tiny bursts: tries the benchmark itself")
    parser.add_argument("--output", type=Path, default=peers.BUILT / "results", metavar="FOLDER")
    return parser.parse_args(arguments)


def _prepare(mayBuild: bool) -> None:
    measure.raiseFileLimit()
    if mayBuild:
        peers.build()
    ours, theirs = measure.cores()
    if ours == theirs:
        print("There is one core only: the load and the servers share it, and figures will be rough")
    os.sched_setaffinity(0, {ours})


def _profile(output: Path) -> int:
    output.mkdir(parents=True, exist_ok=True)
    text = profiling.profile()
    (output / "profile.txt").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _playAll(workloads: Sequence[Workload], rounds: int, scale: float) -> dict[str, Record]:
    records = {}
    for workload in workloads:
        records[workload.name] = play(workload, rounds, scale)
        print(report.block(records[workload.name]), flush=True)
    return records


def _check(workloads: Sequence[Workload], rounds: int) -> int:
    names = [workload.name for workload in workloads]
    wanted = [bar for bar in bars.BARS if bar.workload in names]
    verdicts = bars.verdictsOf(wanted, _playAll(bars.neededFor(workloads, wanted), rounds, 1.0))
    print("\n".join(map(str, verdicts)))
    print(f"{sum(verdict.held for verdict in verdicts)} of {len(verdicts)} bars are held")
    return 1 if any(verdict.isBehind for verdict in verdicts) else 0


def _writeMachine(records: Sequence[Record], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "workers.txt").write_text(report.asText(records), encoding="utf-8")


def _write(records: Sequence[Record], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(report.asJSON(records), encoding="utf-8")
    (output / "results.txt").write_text(report.asText(records), encoding="utf-8")
    print(report.overview(records))
    try:
        from benchmarks import plots
    except ModuleNotFoundError:
        print("No plots are drawn: pip install matplotlib")
        return
    plots.draw(records, output)


if __name__ == "__main__":
    sys.exit(main())
