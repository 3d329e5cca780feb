# SPDX-License-Identifier: GPL-3.0-only
"""Packets through the XDP program: nanoseconds and map lookups per packet.

Called by run.py; `eg-bench packets` (tools/src/bin/eg-bench) measures, by three methods: `ns`, many runs in one system call
with the frame restored before each; `ns_single`, a system call for each packet; `ns_live`, frames that cross a veth pair. No
other balancer runs in the same process, so what the program is held against is a yardstick of the same minutes and method:
one lookup of a 40-byte key in a hash table, with as many keys as the case has flows (one key for new flows). Both are net of
the harness: what a program that does nothing takes in its place is subtracted.
"""

import json
import os
import subprocess

from process import cores
from stats import Series


def run(_directory, _binary, tools, quick, failures):
    if os.geteuid() != 0:
        failures.append("l4: BPF_PROG_TEST_RUN needs root")
        return []
    rounds, packets = (3, 200_000) if quick else (9, 1_000_000)
    done = subprocess.run(
        [os.path.join(tools, "eg-bench"), "packets", "--rounds", str(rounds), "--packets", str(packets),
         "--core", str(min(cores()[0]))],
        stdout=subprocess.PIPE, text=True)
    if done.returncode:
        failures.append(f"l4: eg-bench packets ended with {done.returncode}; its reason is above")
        return []
    rows = []
    for case in json.loads(done.stdout):
        for method, samples in case["methods"].items():
            cost = Series(f"l4.{case['case']}.{method}", "ns/packet")
            for sample in samples:
                cost.add("ours", sample["ours"])
                cost.add("hash_lookup_40B", sample["lookup"])
            rows.append(cost.row())
        for figure in ("lookups", "changes"):
            if case[figure] is None:
                failures.append(f"l4.{case['case']}.map_{figure}: the counting copy did not load; its reason is above")
                continue
            count = Series(f"l4.{case['case']}.map_{figure}", "per packet")
            count.add("ours", case[figure])
            rows.append(count.row())
    return rows
