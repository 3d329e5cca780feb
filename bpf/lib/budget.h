/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * How many new flows of a VIP are remembered. Asked where a packet is about to
 * open a flow, so a known flow never pays for it. Over the budget, what the
 * ring alone can decide goes on without an entry (lib/open.h), and the rest is
 * dropped: see decide_new().
 */
#ifndef EG_LIB_BUDGET_H
#define EG_LIB_BUDGET_H

/*
 * One bucket for all CPUs, kept as guard_take() keeps a source's. A share for
 * each CPU would cost an honest client its flow wherever RSS is uneven. What
 * is refused writes nothing, so that in a flood, where nearly all are, the
 * CPUs share the bucket's cache line; what is taken is added in one step,
 * so none is lost. CPUs that look at the same instant may all take the last
 * one: that overdraft, one a CPU at most, is paid back before the next.
 */
static __always_inline int budget_spend(struct eg_budget *b)
{
	__u64 now = guard_now();
	__u64 at = *(volatile __u64 *)&b->full;

	if (at > now && at - now + b->step > b->window)
		return 0;
	if (eg_dry_run)
		return 1;
	if (at < now)
		b->full = now + b->step;
	else
		__sync_fetch_and_add(&b->full, b->step);
	return 1;
}

static __always_inline int budget_take(__u32 vip)
{
	struct eg_budget *b = bpf_map_lookup_elem(&eg_budgets, &vip);

	return !b || !b->step || budget_spend(b);
}

static __always_inline void budget_count(const struct pkt *p)
{
	__u32 vip = p->vip;
	__u64 *packets = bpf_map_lookup_elem(&eg_stateless, &vip);

	if (packets && !eg_dry_run)
		*packets += pkt_segs(p);
}

#endif
