# SPDX-License-Identifier: GPL-3.0-only
"""The load generators: wrk for HTTP/1.1, h2load for HTTP/2, `eg-bench h3` for HTTP/3, on the cores the proxy does not use,
bounded in time.

Called by l7.py and quic.py. A run with a single failed request is an error, not a sample: a proxy that refuses is fast.
"""

import os
import re
import subprocess
from dataclasses import dataclass

from subjects import tool

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Load:
    requests: int
    bytes: int
    seconds: float


def run(command, cpus, seconds):
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 20,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
    except subprocess.TimeoutExpired as late:
        raise RuntimeError(f"{command[0]} did not end within {seconds + 20} s") from late
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def wrk(url, connections, seconds, cpus):
    out = run(
        [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", f"{HERE}/report.lua", url],
        cpus, seconds)
    return from_totals(out)


def from_totals(out):
    totals = re.search(r"^totals (\d+) (\d+) (\d+) (\d+)$", out, re.M)
    if not totals:
        raise RuntimeError(f"the load generator printed no totals: {out[-500:]}")
    requests, size, errors, micros = map(int, totals.groups())
    if errors or not size:
        raise RuntimeError(f"{errors} errors in {requests} requests: {out[-500:]}")
    return Load(requests, size, micros / 1e6)


def h3(eg_bench, port, path, connections, streams, seconds, cpus):
    out = run(
        [eg_bench, "h3", f"127.0.0.1:{port}", "--path", path, "--connections", str(connections), "--streams", str(streams),
         "--seconds", str(seconds)],
        cpus, seconds)
    return from_totals(out)


def h2load(url, connections, streams, seconds, cpus, window=16):
    out = run(
        [tool("h2load"), "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"-w{window}", f"-W{window + 4}", url],
        cpus, seconds)
    counts = re.search(r"^requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$", out, re.M)
    statuses = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", out, re.M)
    traffic = re.search(r"^traffic: .* \(([\d]+)\) total, .* \((\d+)\) data$", out, re.M)
    elapsed = re.search(r"^finished in ([\d.]+)(s|ms),", out, re.M)
    if not (counts and statuses and traffic and elapsed):
        raise RuntimeError(f"h2load's summary was not understood: {out[-800:]}")
    _done, good, *bad = map(int, counts.groups())
    if sum(bad) or sum(map(int, statuses.groups()[1:])):
        raise RuntimeError(f"h2load {url}: requests failed: {out[-800:]}")
    seconds = float(elapsed[1]) * (1e-3 if elapsed[2] == "ms" else 1)
    return Load(good, int(traffic[2]), seconds)
