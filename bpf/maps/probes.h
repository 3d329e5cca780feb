/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Health probes that take the traffic's own way. Written by userspace/datapath,
 * but for the figures; there only once a VIP is forwarded without nat. */
#ifndef EG_MAPS_PROBES_H
#define EG_MAPS_PROBES_H

/* Whom does a socket with this mark ask, and for which VIP? A full map refuses
 * the next pair, which the process reports: it cannot be probed, and is served
 * all the same. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EG_MAX_PROBES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct eg_probe);
} eg_probes SEC(".maps");

/* What became of probes' packets (enum eg_probed)? Not among the totals, which
 * are about what came in. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_PROBEDS);
	__type(key, __u32);
	__type(value, struct eg_count);
} eg_probed SEC(".maps");

#endif
