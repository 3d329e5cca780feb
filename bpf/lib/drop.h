/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* The one place where a packet is refused: counted by reason, in total and
 * against its VIP and backend where they are known, and told. */
#ifndef EG_LIB_DROP_H
#define EG_LIB_DROP_H

static __noinline int drop(const struct pkt *p, __u32 reason)
{
	__u32 vip = p->vip, backend = p->backend;
	struct eg_count *count;
	struct eg_stats *s;

	if (eg_dry_run) {
		explain_end(p, EG_VERDICT_DROPPED);
		explained.reason = reason;
		return 0;
	}
	count = bpf_map_lookup_elem(&eg_drops, &reason);
	if (count) {
		count->packets += pkt_segs(p);
		count->bytes += p->len;
	}
	count_total(EG_VERDICT_DROPPED, p);
	if (vip) {
		s = bpf_map_lookup_elem(&eg_vip_stats, &vip);
		if (s)
			s->drops += pkt_segs(p);
	}
	if (backend) {
		s = bpf_map_lookup_elem(&eg_backend_stats, &backend);
		if (s)
			s->drops += pkt_segs(p);
	}
	event_send(p, reason == EG_DROP_NO_NEXT_HOP ? EG_EVENT_NEXT_HOP : EG_EVENT_DROP,
		   reason);
	return 0;
}

#endif
