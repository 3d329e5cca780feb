# SPDX-License-Identifier: GPL-3.0-only
"""Samples to rows: medians, the ratio to the best peer, and its spread.

Called by run.py with what l7.py, quic.py and l4.py measured. A row is one element of the JSON list, and the names are stable:

    name    area.case.figure
    unit    what `ours` and `peers` are in
    ours    median over the rounds
    peers   {name: median over the rounds}
    ratio   ours / best peer: the median over the rounds of the quotient taken round by round, so that what disturbs the
            whole machine for a while disturbs both sides of the quotient
    spread  [least, greatest] of that quotient over the rounds

Best means least for a cost and greatest for a rate. The ratio is never turned round: below 1 is good for a cost, above 1 for
a rate. What has no peer in this run has ratio and spread null.
"""

from dataclasses import dataclass, field
from statistics import median


@dataclass
class Series:
    """One figure of one case: {subject: [a value per round]}. `ours` is the subject named "ours"."""

    name: str
    unit: str
    rate: bool = False
    values: dict = field(default_factory=dict)
    # Peers that are printed for orientation but that no ratio is taken to.
    aside: tuple = ()

    def add(self, subject, value):
        self.values.setdefault(subject, []).append(value)

    def row(self):
        ours = self.values.get("ours", [])
        peers = {name: median(v) for name, v in self.values.items() if name != "ours" and v}
        rivals = {name: value for name, value in peers.items() if name not in self.aside}
        quotients = []
        if ours and rivals:
            best = (max if self.rate else min)(rivals, key=rivals.get)
            quotients = [o / p for o, p in zip(ours, self.values[best]) if p]
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": significant(median(ours)) if ours else None,
            "peers": {name: significant(value) for name, value in peers.items()},
            "ratio": significant(median(quotients)) if quotients else None,
            "spread": [significant(min(quotients)), significant(max(quotients))] if quotients else None,
        }


def significant(value):
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def table(rows):
    """The rows as aligned text."""
    cells = [("case and figure", "unit", "ours", "peers", "ratio", "spread")]
    for row in rows:
        peers = "  ".join(f"{name} {value:g}" for name, value in row["peers"].items())
        spread = f"{row['spread'][0]:.2f} to {row['spread'][1]:.2f}" if row["spread"] else "-"
        ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else "-"
        ours = f"{row['ours']:g}" if row["ours"] is not None else "absent"
        cells.append((row["name"], row["unit"], ours, peers or "-", ratio, spread))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
