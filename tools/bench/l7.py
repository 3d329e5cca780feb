# SPDX-License-Identifier: GPL-3.0-only
"""Requests through the process: CPU per request and per MiB, rates, and what a request costs in calls, switches, allocations.

Called by run.py; quic.py reuses `Bench`. Every subject stays up for the whole of a case and they take turns round by round,
starting with another one each round, so that a disturbance of the machine meets all of them. The proxy alone has its cores
(the first half); the backend and the generator share the rest. CPU is what the kernel charged to the proxy's threads between
the first and the last byte of a run, divided by the requests that the generator saw answered.

The counting pass is separate and never timed: a raw tracepoint counts system calls, a preloaded library counts allocations.
"""

import json
import mmap
import os
import struct
import subprocess
import time

from load import h2load, wrk
from process import Meter, cores, machine_busy_ns
from stats import Series
from subjects import LARGE, SMALL, Backend, Haproxy, Nginx, Ours, certificate, tool

MIB = 1024 * 1024


class Case:
    """One kind of traffic. `run(subject, seconds, cpus)` makes a Load."""

    def __init__(self, name, large, run):
        self.name, self.large, self.run = name, large, run


CASES = [
    Case("l7.h1-h1.1KiB", False, lambda s, t, cpus: wrk(f"http://127.0.0.1:{s.http}/", 64, t, cpus)),
    Case("l7.h2tls-h1.1KiB", False, lambda s, t, cpus: h2load(f"https://127.0.0.1:{s.https}/", 16, 8, t, cpus)),
    Case("l7.h1-h1.16MiB", True, lambda s, t, cpus: wrk(f"http://127.0.0.1:{s.http}/large", 4, t, cpus)),
    Case("l7.h2tls-h1.16MiB", True,
         lambda s, t, cpus: h2load(f"https://127.0.0.1:{s.https}/large", 4, 1, t, cpus, window=20)),
]


class Bench:
    """The backend, the certificate and the subjects of one run."""

    def __init__(self, directory, binary, ours=Ours, peers=(Nginx, Haproxy)):
        self.directory = directory
        self.proxy_cpus, self.load_cpus = cores()
        self.tls = certificate(directory)
        self.backend = Backend(directory, self.load_cpus)
        Ours.binary = binary
        self.subjects = [kind(directory, self.proxy_cpus, self.backend, self.tls) for kind in (ours, *peers)]
        self.noisy = 0

    def versions(self):
        return {subject.name: subject.version() for subject in self.subjects}

    def close(self):
        for subject in self.subjects:
            subject.stop()
        self.backend.process.stop()

    def sample(self, case, subject, seconds):
        """(Load, Meter of the proxy) of one run."""
        pids = subject.process.pids()
        helpers = self.backend.process.pids()
        busy, own = machine_busy_ns(), os.times()
        before, helped = Meter.of(pids), Meter.of(helpers)
        load = case.run(subject, seconds, self.load_cpus)
        used = Meter.of(pids).since(before)
        helped = Meter.of(helpers).since(helped)
        now = os.times()
        mine = (now.user + now.system + now.children_user + now.children_system
                - own.user - own.system - own.children_user - own.children_system) * 1e9
        others = machine_busy_ns() - busy - used.cpu_ns - helped.cpu_ns - mine
        if others > 0.05 * load.seconds * 1e9 * (len(self.proxy_cpus) + len(self.load_cpus)):
            self.noisy += 1
        return load, used

    def measure(self, case, rounds, seconds):
        """The timed pass of a case: its rows."""
        if case.large:
            cost = Series(f"{case.name}.cpu_per_mib", "us/MiB")
            rate = Series(f"{case.name}.rate", "MiB/s", rate=True)
        else:
            cost = Series(f"{case.name}.cpu_per_request", "us/request")
            rate = Series(f"{case.name}.rate", "requests/s", rate=True)
        switches = Series(f"{case.name}.context_switches", "per request")
        for subject in self.subjects:
            subject.start()
            answers_whole(subject, case)
            case.run(subject, 1, self.load_cpus)  # connections, caches and pools warm; not a sample
        for turn in range(rounds):
            first = turn % len(self.subjects)
            for subject in self.subjects[first:] + self.subjects[:first]:
                load, used = self.sample(case, subject, seconds)
                amount = load.bytes / MIB if case.large else load.requests
                cost.add(subject.name, used.cpu_ns / 1000 / amount)
                rate.add(subject.name, amount / load.seconds)
                if not case.large:
                    switches.add(subject.name, used.switches / load.requests)
        for subject in self.subjects:
            subject.stop()
        return [cost.row(), rate.row()] + ([] if case.large else [switches.row()])

    def count(self, case, eg_bench):
        """The counting pass of a case: its rows, and {subject: {system call: per request}}."""
        calls = Series(f"{case.name}.syscalls", "per request")
        allocations = Series(f"{case.name}.allocations", "per request")
        kinds = {}
        library = build_counter(self.directory)
        for subject in self.subjects:
            tally = Tally(os.path.join(subject.home, "allocations"))
            subject.start({"LD_PRELOAD": library, "EG_BENCH_ALLOCATIONS": tally.path})
            case.run(subject, 1, self.load_cpus)
            watch = Watch(eg_bench, subject.process.pids()) if eg_bench else None
            before = tally.read()
            load = case.run(subject, 2, self.load_cpus)
            made = tally.read() - before
            allocations.add(subject.name, made / load.requests)
            if watch:
                seen = watch.stop()
                calls.add(subject.name, sum(seen.values()) / load.requests)
                kinds[subject.name] = {name: n / load.requests for name, n in seen.items() if n / load.requests >= 0.005}
            subject.stop()
        return ([calls.row()] if eg_bench else []) + [allocations.row()], kinds


class Tally:
    """The file that allocations.c counts in."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as out:
            out.write(bytes(16))
        with open(path, "rb") as source:
            self.map = mmap.mmap(source.fileno(), 16, prot=mmap.PROT_READ)

    def read(self):
        return struct.unpack("<QQ", self.map[:16])[0]


class Watch:
    """`eg-bench syscalls`: counts from its "ready" line until its stdin closes."""

    def __init__(self, eg_bench, pids):
        self.child = subprocess.Popen(
            [eg_bench, "syscalls", *map(str, pids)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.child.stdout.readline()
        if line.strip() != "ready":
            self.child.kill()
            raise RuntimeError("eg-bench syscalls did not start; its reason is above")

    def stop(self):
        out, _ = self.child.communicate()
        return {names().get(int(number), number): count for number, count in json.loads(out).items()}


def names():
    """System calls by number, from the kernel's own header."""
    found = {}
    for path in ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h"):
        if os.path.exists(path):
            with open(path) as header:
                for line in header:
                    words = line.split()
                    if len(words) == 3 and words[0] == "#define" and words[1].startswith("__NR") and words[2].isdigit():
                        found[int(words[2])] = words[1].split("_NR_")[-1].removeprefix("3264_")
            break
    return found


def build_counter(directory):
    """allocations.c as a shared library."""
    library = os.path.join(directory, "allocations.so")
    if not os.path.exists(library):
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "allocations.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def answers_whole(subject, case):
    """A proxy that cuts bodies short would look fast: what it answers is checked once, byte for byte in number."""
    if "h3" in case.name:
        return  # curl here speaks no HTTP/3; eg-bench counts the body's bytes of each run, and quic.py compares
    secure = "h2" in case.name
    url = f"https://127.0.0.1:{subject.https}" if secure else f"http://127.0.0.1:{subject.http}"
    path, size = ("/large", LARGE) if case.large else ("/", SMALL)
    deadline = time.monotonic() + 5
    while True:
        done = subprocess.run(
            [tool("curl"), "-sk", "--http2" if secure else "--http1.1", "--max-time", "20", "-o", "/dev/null", "-w",
             "%{http_code} %{http_version} %{size_download}", url + path], capture_output=True, text=True)
        if done.stdout == f"200 {'2' if secure else '1.1'} {size}":
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{subject.name} answered {done.stdout!r} to {url + path}; expected 200 and {size} bytes")
        time.sleep(0.1)


def run(directory, binary, tools, quick, failures, cases=None, **subjects):
    """All rows of the part. A case that fails is named in `failures`, and the next one goes on."""
    rounds, seconds = (3, 1) if quick else (7, 3)
    eg_bench = os.path.join(tools, "eg-bench")
    bench = Bench(directory, binary, **subjects)
    rows = []
    try:
        print("subjects:", ", ".join(f"{name} {version}" for name, version in bench.versions().items()))
        print(f"proxy on cores {sorted(bench.proxy_cpus)}, backend and load on {sorted(bench.load_cpus)}; "
              f"{rounds} rounds of {seconds} s")
        for case in cases or CASES:
            try:
                rows += bench.measure(case, rounds, seconds)
                if not case.large:
                    counted, kinds = bench.count(case, eg_bench if os.geteuid() == 0 else None)
                    rows += counted
                    for name, calls in kinds.items():
                        listed = ", ".join(f"{call} {n:.2f}" for call, n in sorted(calls.items(), key=lambda kv: -kv[1]))
                        print(f"{case.name}: system calls per request, {name}: {listed}")
            except RuntimeError as error:
                failures.append(f"{case.name}: {error}")
                for subject in bench.subjects:
                    subject.stop()
    finally:
        bench.close()
    if bench.noisy:
        print(f"noise: in {bench.noisy} samples other processes used over 5 % of the machine")
    return rows
