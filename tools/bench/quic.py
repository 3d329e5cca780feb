# SPDX-License-Identifier: GPL-3.0-only
"""Requests over HTTP/3 to an HTTP/1.1 backend.

Called by run.py; measured as l7.py measures. No proxy that Debian 12 packages speaks HTTP/3 (nginx 1.22, HAProxy 2.6), so
these rows have no peer and no ratio yet: they stand beside our own TLS and HTTP/2 rows of the same run.
"""

import os

import l7
from load import h3
from subjects import LARGE, SMALL, OursWithHttp3


def run(directory, binary, tools, quick, failures):
    eg_bench = os.path.join(tools, "eg-bench")

    def case(name, path, size, connections, streams):
        def load(subject, seconds, cpus):
            done = h3(eg_bench, subject.https, path, connections, streams, seconds, cpus)
            if done.bytes < done.requests * size:
                raise RuntimeError(f"{done.requests} answers brought {done.bytes} bytes; expected {size} each")
            return done

        return l7.Case(f"quic.{name}", size == LARGE, load)

    cases = [case("h3-h1.1KiB", "/", SMALL, 16, 8), case("h3-h1.16MiB", "/large", LARGE, 4, 1)]
    place = os.path.join(directory, "quic")
    os.makedirs(place)
    return l7.run(place, binary, tools, quick, failures, cases, ours=OursWithHttp3, peers=())
