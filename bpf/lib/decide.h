/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What becomes of a parsed packet: FORWARD (and how), PASS, or an enum
 * eg_drop. Changes maps, never the packet; whoever called writes. A TCP or
 * UDP packet of a known flow costs five lookups: the flow (the only hash),
 * its VIP, its backend, and the figures of both.
 */
#ifndef EG_LIB_DECIDE_H
#define EG_LIB_DECIDE_H

/* A TTL that ends here is dropped rather than passed: to the local stack a
 * VIP is its own address, so it would answer with a reset or a connection,
 * not with the "time exceeded" that RFC 1812 section 5.3.1 asks for. */
#define TTL_LAST 1

/* A packet of a known flow. Negative and not PASS: it is a miss. */
#define MISS (-2)

static __always_inline int decide_flow(struct pkt *p, struct eg_flow *f,
				       struct forward *fw)
{
	int reply = f->dir == EG_FLOW_REVERSE;
	__u32 vip = f->vip, backend = f->backend;
	__u32 now = flow_now();
	struct eg_backend *b;
	struct eg_vip *v;
	int missed, guarded;
	__u8 state;

	v = bpf_map_lookup_elem(&eg_vips, &vip);
	if (!v || v->epoch != f->epoch) {
		count_miss(EG_MISS_EPOCH);
		return reply ? EG_DROP_STALE_REPLY : MISS;
	}
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!b || b->generation != f->generation || b->state == EG_BACKEND_NONE) {
		count_miss(EG_MISS_GENERATION);
		p->vip = vip;
		return reply ? EG_DROP_STALE_REPLY : MISS;
	}
	if (now - f->seen >= eg_jiffies_hz) {
		missed = flow_refresh(p, f, now);
		if (missed != FORWARD) {
			count_miss(-1 - missed);
			p->vip = vip;
			return reply ? EG_DROP_STALE_REPLY : MISS;
		}
	}
	if (!reply && f->state == EG_FLOW_CLOSING && tcp_opens(p)) {
		count_miss(EG_MISS_REOPENED);
		return MISS;
	}

	p->vip = vip;
	p->backend = backend;
	guarded = guard_hit(p, v, f);
	if (guarded != FORWARD)
		return guarded;
	if (p->ttl <= TTL_LAST)
		return EG_DROP_TTL;
	if (reply) {
		fw->saddr = v->addr;
		fw->sport = v->port;
		fw->daddr = f->addr;
		fw->dport = f->port;
		fw->ifindex = f->ifindex;
		__builtin_memcpy(fw->dmac, f->dmac, 6);
		__builtin_memcpy(fw->smac, f->smac, 6);
	} else {
		fw->saddr = f->addr;
		fw->sport = f->port;
		fw->daddr = b->addr;
		fw->dport = b->port;
		fw->ifindex = b->ifindex;
		__builtin_memcpy(fw->dmac, b->dmac, 6);
		__builtin_memcpy(fw->smac, b->smac, 6);
	}
	/* Zero: a backend whose next hop is unknown (or a reply whose client
	 * has not been seen since its half was lost). */
	if (!fw->ifindex)
		return EG_DROP_NO_NEXT_HOP;
	state = flow_next_state(p, f->state);
	if (state != f->state)
		f->state = state;
	count_forwarded(p, reply);
	return FORWARD;
}

/* No flow, or one that no longer counts. A SYN that reopens a closing flow
 * stays with the flow's backend while that takes new flows: otherwise a forged
 * FIN and SYN could move a live connection after a change of the ring. */
static __always_inline int decide_new(void *ctx, struct pkt *p, struct eg_flow *old)
{
	__u32 prefer = 0;
	struct eg_vip *vip;
	__be16 wish = 0;
	int guarded;

	if (!vip_address(p))
		return PASS;
	vip = vip_lookup(p);
	/* We fail closed where nobody listens: letting the packet reach the
	 * stack would have it answer for ports that carry nothing. */
	if (!vip)
		return vip_local_socket(ctx, p) ? PASS : EG_DROP_UNUSED_PORT;
	guarded = guard_new(p, vip);
	if (guarded != FORWARD)
		return guarded;
	if (p->key.proto == IPPROTO_TCP && !tcp_opens(p))
		return EG_DROP_NO_FLOW;
	if (p->ttl <= TTL_LAST)
		return EG_DROP_TTL;
	if (old && old->state == EG_FLOW_CLOSING && flow_stands(old) &&
	    pick_takes_flows(old->backend)) {
		prefer = old->backend;
		wish = old->port;
	}
	return flow_open(p, vip, prefer, wish, old ? BPF_ANY : BPF_NOEXIST);
}

static __always_inline int decide(void *ctx, int parsed, struct pkt *p,
				  struct forward *fw)
{
	struct eg_flow *flow;
	int verdict;

	if (parsed == NOT_OURS)
		return PASS;
	/* Refused only at a VIP's address, where the stack would answer in the
	 * backend's place. */
	if (parsed == MALFORMED)
		return vip_address(p) ? EG_DROP_MALFORMED : PASS;
	if (parsed == FRAGMENT)
		return vip_address(p) ? EG_DROP_FRAGMENT : PASS;

	flow = bpf_map_lookup_elem(&eg_flows, &p->key);
	if (flow) {
		verdict = decide_flow(p, flow, fw);
		if (verdict != MISS)
			return verdict;
	}
	p->vip = 0;
	verdict = decide_new(ctx, p, flow);
	if (verdict != FORWARD)
		return verdict;
	/* Opened just now: the table knows how to forward it. */
	flow = bpf_map_lookup_elem(&eg_flows, &p->key);
	if (!flow)
		return EG_DROP_MAP;
	verdict = decide_flow(p, flow, fw);
	return verdict == MISS ? EG_DROP_MAP : verdict;
}

#endif
