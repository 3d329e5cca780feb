/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* What happened, per CPU: plain additions, no atomics. Read by telemetry. */
#ifndef EG_MAPS_COUNTERS_H
#define EG_MAPS_COUNTERS_H

/* How much did each VIP carry? */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_MAX_VIPS);
	__type(key, __u32);
	__type(value, struct eg_stats);
} eg_vip_stats SEC(".maps");

/* How much did each backend get? */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct eg_stats);
} eg_backend_stats SEC(".maps");

/* What became of the packets that were not forwarded (enum eg_verdict)? */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_VERDICTS);
	__type(key, __u32);
	__type(value, struct eg_count);
} eg_totals SEC(".maps");

/* Why were packets refused (enum eg_drop)? */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_DROPS);
	__type(key, __u32);
	__type(value, struct eg_count);
} eg_drops SEC(".maps");

/* Why did a flow that was found not count (enum eg_miss)? */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_MISSES);
	__type(key, __u32);
	__type(value, __u64);
} eg_misses SEC(".maps");

#endif
