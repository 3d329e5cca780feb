# SPDX-License-Identifier: GPL-3.0-only
"""Packets through the XDP program: nanoseconds and map lookups per packet.

Called by run.py; `eg-bench packets` (tools/src/bin/eg-bench) measures with BPF_PROG_TEST_RUN. No other balancer runs in the
same process, so what the program is held against is a yardstick of the same minutes: one lookup of a 40-byte key in a hash
table, with as many keys as the case has flows (one key for new flows). `ours` and the yardstick are net of the harness;
`empty_program` is what the kernel takes to call a program that does nothing, for orientation only.
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
        cost = Series(f"l4.{case['case']}.ns", "ns/packet", aside=("empty_program",))
        for sample in case["samples"]:
            cost.add("ours", sample["ours"])
            cost.add("hash_lookup_40B", sample["lookup"])
            cost.add("empty_program", sample["empty"])
        rows.append(cost.row())
        if case["lookups"] is None:
            failures.append(f"l4.{case['case']}.map_lookups: the counting copy did not load; its reason is above")
            continue
        for figure in ("lookups", "changes"):
            count = Series(f"l4.{case['case']}.map_{figure}", "per packet")
            count.add("ours", case[figure])
            rows.append(count.row())
    return rows
