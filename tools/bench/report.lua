-- SPDX-License-Identifier: GPL-3.0-only
-- Makes wrk print its totals exactly: its own summary rounds bytes to two decimals of a GiB.
function done(summary, latency, _)
    local e = summary.errors
    io.write(string.format("totals %d %d %d %d\n", summary.requests, summary.bytes,
        e.connect + e.read + e.write + e.status + e.timeout, summary.duration))
end
