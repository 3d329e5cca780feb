/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Every packet ends in exactly one of these. Uses the counters' maps. */
#ifndef EG_LIB_COUNT_H
#define EG_LIB_COUNT_H

static __always_inline void count_total(__u32 verdict, const struct pkt *p)
{
	struct eg_count *total;

	if (eg_dry_run) {
		explain_end(p, verdict);
		return;
	}
	total = bpf_map_lookup_elem(&eg_totals, &verdict);
	if (total) {
		total->packets += pkt_segs(p);
		total->bytes += p->len;
	}
}

static __always_inline void count_stats(struct eg_stats *s, const struct pkt *p,
					int reply)
{
	if (!s)
		return;
	if (reply) {
		s->reply_packets += pkt_segs(p);
		s->reply_bytes += p->len;
	} else {
		s->packets += pkt_segs(p);
		s->bytes += p->len;
	}
}

static __always_inline void count_forwarded(const struct pkt *p, int reply)
{
	__u32 vip = p->vip, backend = p->backend;

	if (eg_dry_run) {
		explain_end(p, EG_VERDICT_FORWARDED);
		explained.reply = reply;
		return;
	}
	count_stats(bpf_map_lookup_elem(&eg_vip_stats, &vip), p, reply);
	count_stats(bpf_map_lookup_elem(&eg_backend_stats, &backend), p, reply);
}

static __always_inline void count_flow(const struct pkt *p)
{
	__u32 vip = p->vip, backend = p->backend;
	struct eg_stats *s;

	if (eg_dry_run)
		return;
	s = bpf_map_lookup_elem(&eg_vip_stats, &vip);
	if (s)
		s->flows++;
	s = bpf_map_lookup_elem(&eg_backend_stats, &backend);
	if (s)
		s->flows++;
}

static __always_inline void count_miss(__u32 miss)
{
	__u64 *misses;

	if (eg_dry_run) {
		explained.misses |= 1u << (miss & 31);
		return;
	}
	misses = bpf_map_lookup_elem(&eg_misses, &miss);
	if (misses)
		(*misses)++;
}

/* What a backend has to do grows or shrinks. Additions whose old value nobody
 * uses: 5.10 has no others. */
static __always_inline void count_load(__u32 backend, __s64 flows, __s64 outstanding)
{
	struct eg_load *load = bpf_map_lookup_elem(&eg_loads, &backend);

	if (!load || eg_dry_run)
		return;
	if (flows)
		__sync_fetch_and_add(&load->flows, flows);
	if (outstanding)
		__sync_fetch_and_add(&load->outstanding, outstanding);
}

#endif
