/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Telling the process, at a bounded rate. Uses the events' maps. */
#ifndef EG_LIB_EVENT_H
#define EG_LIB_EVENT_H

/* Index of event_gate. */
enum gate {
	GATE_EVENT = 0,
	GATE_ICMP = 1,
	GATE_RESET = 2,
};

/* A fixed window: the first `rate` of each second pass. A dry run has a gate of
 * its own, as every loaded object. */
static __always_inline int gate_passes(__u32 which, __u32 rate)
{
	__u64 now = clock_jiffies();
	struct eg_gate *gate;

	gate = bpf_map_lookup_elem(&event_gate, &which);
	if (!gate)
		return 0;
	if (now - gate->since >= eg_jiffies_hz) {
		gate->since = now;
		gate->sent = 0;
	}
	return gate->sent++ < rate;
}

/* A function of its own so that struct eg_event is in the object's type
 * information, where layout.rs compares it. */
static __noinline void event_fill(struct eg_event *event, const struct pkt *p,
				  __u32 kind, __u32 code)
{
	event->key = p->key;
	event->kind = kind;
	event->code = code;
	event->vip = p->vip;
	event->backend = p->backend;
	event->ifindex = p->ifindex;
	event->length = p->len;
}

static __noinline int event_send(const struct pkt *p, __u32 kind, __u32 code)
{
	struct eg_event *event = NULL;
	__u32 zero = 0;
	__u64 *lost;

	if (eg_dry_run)
		return 0;
	if (gate_passes(GATE_EVENT, eg_event_rate))
		event = bpf_ringbuf_reserve(&eg_events, sizeof(*event), 0);
	if (!event) {
		lost = bpf_map_lookup_elem(&eg_events_lost, &zero);
		if (lost)
			(*lost)++;
		return 0;
	}
	event_fill(event, p, kind, code);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif
