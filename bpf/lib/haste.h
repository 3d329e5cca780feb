/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * How soon does a half of a flow look at its other half again? A half that
 * carries packets stays in an LRU, and the other one may be evicted meanwhile,
 * and its port be given to another flow: to that one's backend connection would
 * go what still leaves by the first half. An entry is evicted no sooner than
 * the table is renewed since it was last looked up, so each half looks four
 * times in the time that a renewal takes: once a second, and more often while
 * so many flows begin that the table does not last four.
 *
 * A hint in plain memory of the program, not state: what is lost with it is
 * one second's count.
 */
#ifndef EG_LIB_HASTE_H
#define EG_LIB_HASTE_H

/* Entries written this second and the one before in which any were. Far from
 * what packets of known flows read. */
struct {
	__u32 second, now, before;
} __attribute__((aligned(64))) eg_renewed;

/* By how many jiffies less than a second a half waits. */
volatile __u32 __attribute__((aligned(64))) eg_haste = 0;

static __always_inline int haste_due(__u32 seen, __u32 now)
{
	return now - seen + eg_haste >= eg_jiffies_hz;
}

/* So many entries were written to eg_flows. */
static __always_inline void haste_note(__u32 entries)
{
	__u32 second = (__u32)clock_jiffies() / eg_jiffies_hz;
	__u32 quarter = eg_flow_entries / 4, most, wait;

	if (second != eg_renewed.second) {
		eg_renewed.before = eg_renewed.now;
		eg_renewed.now = 0;
		eg_renewed.second = second;
	}
	__sync_fetch_and_add(&eg_renewed.now, entries);
	most = eg_renewed.now > eg_renewed.before ? eg_renewed.now : eg_renewed.before;
	if (most <= quarter) {
		if (eg_haste)
			eg_haste = 0;
		return;
	}
	wait = (__u64)eg_jiffies_hz * quarter / most;
	eg_haste = eg_jiffies_hz - (wait ? wait : 1);
}

#endif
