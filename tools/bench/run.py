#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-only
"""`make bench`: ExpressGateway beside its peers, in one run, on this machine.

usage: make bench ARGS="[--only l4|l7|quic] [--quick] [--json FILE]"

Builds what it measures (release) and what measures (the ordinary profile), installs what is missing through
tools/bench/bootstrap, prints a table of medians, ratios and spreads, and with --json writes it as a list of
{name, unit, ours, peers, ratio, spread}; stats.py says what these mean. docs/performance.md has the method and figures.
Exit 0 if every case was measured, 1 if one could not be.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile

import l4
import l7
import quic
from stats import table

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def arguments():
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=["l4", "l7", "quic"], help="one part instead of all")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: an idea in two minutes")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    parser.add_argument("--ours", metavar="BINARY", help="measure this gateway instead of building one")
    return parser.parse_args()


def build(*args):
    print("bench: cargo build", *args, file=sys.stderr)
    subprocess.run([os.environ.get("CARGO", "cargo"), "build", "--quiet", *args], cwd=ROOT, check=True)


def machine():
    with open("/proc/cpuinfo") as cpuinfo:
        model = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    cpus = len(os.sched_getaffinity(0))
    return f"{model}, {cpus} cores, Linux {platform.release()}, load average {os.getloadavg()[0]:.2f} at the start"


def main():
    args = arguments()
    parts = [args.only] if args.only else ["l7", "quic", "l4"]
    subprocess.run([os.path.join(ROOT, "tools/bench/bootstrap")], check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    build("--workspace", "--bin", "eg-bench")
    if args.ours is None and {"l7", "quic"} & set(parts):
        build("--release", "--workspace", "--bin", "expressgateway")
    binary = args.ours or os.path.join(target, "release/expressgateway")
    tools = os.path.join(target, "debug")

    print(f"machine: {machine()}")
    rows, failures = [], []
    with tempfile.TemporaryDirectory(prefix="eg-bench-") as directory:
        for part in parts:
            module = {"l4": l4, "l7": l7, "quic": quic}[part]
            rows += module.run(directory, binary, tools, args.quick, failures)
    print()
    print(table(rows))
    if args.json:
        with open(args.json, "w") as out:
            json.dump(rows, out, indent=1)
            out.write("\n")
    for failure in failures:
        print(f"bench: not measured: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
