/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* What the process should hear of. Read by userspace/datapath. */
#ifndef EG_MAPS_EVENTS_H
#define EG_MAPS_EVENTS_H

/* Records of struct eg_event. When full, the event is lost and counted;
 * packets never wait for a reader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} eg_events SEC(".maps");

/* How many events were not sent: over the rate, or the buffer was full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} eg_events_lost SEC(".maps");

/* How many events (0), ICMP errors (1) and resets (2) did this CPU send in
 * the current second? Private to the loaded object, never pinned: losing it costs one
 * second's count. */
struct eg_gate {
	__u64 since; /* jiffies when the second began */
	__u64 sent;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, struct eg_gate);
} event_gate SEC(".maps");

#endif
