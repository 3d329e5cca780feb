/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * How soon a backend answers a new flow: from the client's first packet to
 * the backend's, both as they pass here. Only pools that choose by it pay for
 * the clock calls, two a flow.
 */
#ifndef EG_LIB_LATENCY_H
#define EG_LIB_LATENCY_H

static __always_inline __u32 latency_clock(void)
{
	return (__u32)(bpf_ktime_get_ns() / 1000);
}

/* `born` is 0 where nobody wants to know. */
static __always_inline void latency_measure(__u32 backend, __u32 pool, __u32 born)
{
	struct eg_latency *mean;
	struct eg_load *load;
	__u64 sample, now;

	if (!born)
		return;
	now = bpf_ktime_get_ns();
	sample = (__u64)((__u32)(now / 1000) - born) * 1000;
	load = bpf_map_lookup_elem(&eg_loads, &backend);
	if (load)
		ewma_observe_peak(&load->latency, sample, now);
	mean = bpf_map_lookup_elem(&eg_latencies, &pool);
	if (mean)
		ewma_observe(mean, sample, now);
}

#endif
