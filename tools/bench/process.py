# SPDX-License-Identifier: GPL-3.0-only
"""Processes of the bench: started on chosen cores, metered through /proc, ended by pid.

Called by subjects.py (proxies, backend) and load.py (generators). Promises that nothing it started outlives the bench: each
process is the leader of its own session and dies with us (PR_SET_PDEATHSIG), and `stop` waits. Does not know what a proxy is.
"""

import ctypes
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def cores():
    """(the proxy's cores, everyone else's): the first half and the rest, of the cores this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("bench: two cores are needed, one for the proxy and one for load and backend; this host allows one")
    half = len(allowed) // 2
    return set(allowed[:half]), set(allowed[half:])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A running command and all of its descendants."""

    def __init__(self, command, cpus, log, env=None):
        def prepare():
            os.sched_setaffinity(0, cpus)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

        self.command = command
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                preexec_fn=prepare, env={**os.environ, **(env or {})},
            )

    def wait_for_port(self, port, seconds=15):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise RuntimeError(f"{self.command[0]} ended with {self.child.returncode} before it listened; {self.tail()}")
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{self.command[0]} does not listen on 127.0.0.1:{port} after {seconds} s; {self.tail()}")

    def tail(self):
        with open(self.log, errors="replace") as text:
            return "its log ends: " + text.read()[-1500:]

    def pids(self):
        """The process and its descendants."""
        found, queue = [], [self.child.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as children:
                        queue += [int(child) for child in children.read().split()]
            except OSError:
                continue
        return found

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(timeout=3)
            except subprocess.TimeoutExpired:
                for pid in self.pids():
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                self.child.wait()


@dataclass
class Meter:
    """What a process tree has used so far."""

    cpu_ns: int
    switches: int

    @classmethod
    def of(cls, pids):
        cpu_ns = switches = 0
        for pid in pids:
            for task in os.listdir(f"/proc/{pid}/task"):
                base = f"/proc/{pid}/task/{task}"
                try:
                    cpu_ns += thread_cpu_ns(base)
                    with open(f"{base}/status") as status:
                        switches += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
                except FileNotFoundError:
                    continue
        return cls(cpu_ns, switches)

    def since(self, earlier):
        return Meter(self.cpu_ns - earlier.cpu_ns, self.switches - earlier.switches)


def thread_cpu_ns(base):
    """Time on a CPU: schedstat's first field is in nanoseconds; where it is not kept, stat's clock ticks."""
    try:
        with open(f"{base}/schedstat") as schedstat:
            return int(schedstat.read().split()[0])
    except FileNotFoundError:
        with open(f"{base}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def machine_busy_ns():
    """Time that all CPUs together were not idle. The bench subtracts what it used itself: the rest is noise."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    ticks = user + nice + system + irq + softirq + steal
    return ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
