/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * How soon a backend answers a new flow: from the client's first packet to
 * the backend's, both as they pass here. Only pools that choose by it pay for
 * the two clock calls a flow. eg_balance::ewma is the arithmetic's twin.
 */
#ifndef EG_LIB_LATENCY_H
#define EG_LIB_LATENCY_H

static __always_inline __u32 latency_clock(void)
{
	return (__u32)(bpf_ktime_get_ns() / 1000);
}

/* `born` is 0 where nobody wants to know. */
static __always_inline void latency_measure(__u32 backend, __u32 born)
{
	struct eg_load *load;

	if (!born)
		return;
	load = bpf_map_lookup_elem(&eg_loads, &backend);
	if (load)
		ewma_update(load, (__u64)(latency_clock() - born) * 1000,
			    bpf_ktime_get_ns());
}

#endif
