/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Where the twins that capture write. The process makes one of each for a
 * capture, and gives it to them. */
#ifndef EG_MAPS_CAPTURES_H
#define EG_MAPS_CAPTURES_H

/* Which packets came by (struct eg_captured, then the frame's beginning)?
 * Read by userspace/datapath/capture. When full the packet goes its way
 * unseen, and counts in capture_lost. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} captured SEC(".maps");

/* How many were wanted and not written? */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} capture_lost SEC(".maps");

#endif
