/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* What guards know. The lists and the limits are written by userspace/datapath,
 * the sources by the programs. Read only for VIPs whose flags ask for it. */
#ifndef EG_MAPS_GUARDS_H
#define EG_MAPS_GUARDS_H

/* May this client's address use VIPs (enum eg_prefix_verdict, by the longest
 * prefix)? One trie for both families and both lists, with two entries that
 * say what holds for all others: so one lookup answers, and one update swaps
 * everything. A trie is filled while nobody sees it and made as large as it
 * must be: the process refuses a list that is too long before it makes one.
 * Sizes, not types, for the reason given at eg_rings. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_LPM_TRIE);
			__uint(max_entries, 1);
			__uint(map_flags, BPF_F_NO_PREALLOC);
			__uint(key_size, sizeof(struct eg_prefix));
			__uint(value_size, sizeof(__u32));
		});
} eg_prefixes SEC(".maps");

/* How much may one source send? */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct eg_guards);
} eg_guard_conf SEC(".maps");

/* How much has this source sent lately? Keyed by the client's address, cut to
 * the configured prefix. When full, the kernel evicts the source that has been
 * silent longest, whose buckets are the likeliest to be full again: forgetting
 * a full bucket changes nothing. The size is set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct eg_addr);
	__type(value, struct eg_source);
} eg_sources SEC(".maps");

/* May this VIP have one more new flow remembered? Written by the process when
 * the limit changes, and by the programs as flows are taken. Read where no
 * flow is known, never on a hit. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EG_MAX_VIPS);
	__type(key, __u32);
	__type(value, struct eg_budget);
} eg_budgets SEC(".maps");

/* How many packets of this VIP left by the ring alone, over its budget?
 * Written by the programs, read by telemetry. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_MAX_VIPS);
	__type(key, __u32);
	__type(value, __u64);
} eg_stateless SEC(".maps");

#endif
