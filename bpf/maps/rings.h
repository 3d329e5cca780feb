/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* How a pool chooses. Built in userspace (eg-balance), only read here. */
#ifndef EG_MAPS_RINGS_H
#define EG_MAPS_RINGS_H

/* With which key does the pool hash, and does it have backends? */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EG_MAX_POOLS);
	__type(key, __u32);
	__type(value, struct eg_pool);
} eg_pools SEC(".maps");

/* How soon do the pool's backends answer, on average? Written by the programs
 * for pools that choose by it; a stale or torn value costs a worse choice. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EG_MAX_POOLS);
	__type(key, __u32);
	__type(value, struct eg_latency);
} eg_latencies SEC(".maps");

/* Who had this source's last flow (session affinity)? It keeps a client where
 * it is while the ring changes. When full, the least recently used is
 * forgotten, and its next flow goes where the ring says. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 17);
	__type(key, struct eg_affinity_key);
	__type(value, struct eg_affinity);
} eg_affinities SEC(".maps");

/* Where does this CPU go on in the pool's ring (round robin)? Each CPU has a
 * cursor of its own: turns are exact per CPU, and no CPU waits for another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_MAX_POOLS);
	__type(key, __u32);
	__type(value, __u32);
} eg_cursors SEC(".maps");

/* Which backend owns this slot of the pool's ring? A ring is filled while
 * nobody sees it and then swapped in whole: no lookup meets half a ring. It is
 * filled in the process's memory, which takes a fiftieth of the time that
 * 65,537 updates do. The inner map has sizes, not types: 6.1 lets a ring in only if
 * both or neither have type information, and rings made at run time have none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, EG_MAX_POOLS);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, EG_RING_SLOTS);
			__uint(map_flags, BPF_F_MMAPABLE);
			__uint(key_size, sizeof(__u32));
			__uint(value_size, sizeof(struct eg_slot));
		});
} eg_rings SEC(".maps");

#endif
