/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What becomes of a parsed packet: FORWARD (and how), PASS, an enum eg_drop,
 * or a TAIL that takes over. Changes maps, never the packet; whoever called
 * writes. A TCP or UDP packet of a known flow costs five lookups: the flow
 * (the only hash), its VIP, its backend, and the figures of both. All else
 * goes on in decide_open, a program of its own.
 */
#ifndef EG_LIB_DECIDE_H
#define EG_LIB_DECIDE_H

/* A TTL that ends here is dropped rather than passed: to the local stack a
 * VIP is its own address, so it would answer with a reset or a connection,
 * not with the "time exceeded" that RFC 1812 section 5.3.1 asks for. */
#define TTL_LAST 1

/* A flow whose VIP or backend is another by now: a reply of it goes nowhere,
 * the client's packet may begin anew. */
static __always_inline int decide_miss(struct pkt *p, __u8 dir, __u32 vip, __u32 miss)
{
	count_miss(miss);
	if (dir == EG_FLOW_FORWARD)
		return MISS;
	p->vip = vip;
	return EG_DROP_STALE_REPLY;
}

/* Does the key have a new flow, half-open, while an older one's entry still
 * lies in eg_flows? Asked only where such a thing can be: of a reply whose
 * entry does not count (its port was given away), of a SYN-ACK, and of what a
 * client sends on a closing flow. */
static __always_inline int decide_anew(const struct pkt *p, __u8 dir)
{
	struct eg_flow *f = bpf_map_lookup_elem(&eg_opening, &p->key);

	return f && (dir == EG_FLOW_REVERSE || p->seq - f->next <= SEQ_WINDOW);
}

/* An entry of eg_flows that does not count. */
static __always_inline int decide_dead(struct pkt *p, __u8 dir, __u32 vip, __u32 miss)
{
	int verdict = decide_miss(p, dir, vip, miss);

	return verdict != MISS && decide_anew(p, dir) ? TAIL(TAIL_OPEN) : verdict;
}

/* A flow whose backend is gone, or down and not to be waited for. */
static __always_inline int decide_gone(struct pkt *p, __u8 dir, __u32 vip,
				       const struct eg_vip *v, __u32 miss)
{
	int verdict = decide_dead(p, dir, vip, miss);

	if (verdict != MISS || !(v->flags & EG_VIP_RESET) ||
	    p->key.proto != IPPROTO_TCP || p->tcp_flags & (TCP_SYN | TCP_RST))
		return verdict;
	p->vip = vip;
	return TAIL(TAIL_RESET);
}

/* From the backend, under nat, to its client. */
static __always_inline void decide_back(const struct eg_flow *f, const struct eg_vip *v,
					struct forward *fw)
{
	fw->saddr = v->addr;
	fw->sport = v->port;
	fw->daddr = f->addr;
	fw->dport = f->port;
	fw->ifindex = f->ifindex;
	__builtin_memcpy(fw->dmac, f->dmac, 6);
	__builtin_memcpy(fw->smac, f->smac, 6);
}

/* Everything about the flow is known to hold: may the packet go, and where? */
static __always_inline int decide_way(struct pkt *p, const struct eg_flow *f,
				      const struct eg_vip *v,
				      const struct eg_backend *b, struct forward *fw)
{
	if (f->dir == EG_FLOW_REVERSE)
		decide_back(f, v, fw);
	else
		decide_out(f, v, b, fw);
	/* Read last: see flow_tag. */
	if (!flow_is(f, &p->key))
		return MISS;
	if (p->ttl <= TTL_LAST)
		return EG_DROP_TTL;
	/* Zero: a backend whose next hop is unknown (or a reply whose client
	 * has not been seen since its half was lost). */
	if (!fw->ifindex)
		return EG_DROP_NO_NEXT_HOP;
	if (fw->mtu && pkt_size(p) + encap_room(fw->mode, fw->outer6) > fw->mtu)
		return TAIL(TAIL_TOO_BIG);
	return FORWARD;
}

/* A packet of a flow in eg_flows. */
static __always_inline int decide_flow(struct pkt *p, struct eg_flow *f,
				       struct forward *fw)
{
	__u32 vip = f->vip, backend = f->backend;
	__u32 now = flow_now();
	struct eg_backend *b;
	struct eg_vip *v;
	__u8 dir = f->dir;
	int verdict;

	v = bpf_map_lookup_elem(&eg_vips, &vip);
	if (!v || v->epoch != f->epoch)
		return decide_dead(p, dir, 0, EG_MISS_EPOCH);
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!b || b->generation != f->generation || b->state == EG_BACKEND_NONE)
		return decide_gone(p, dir, vip, v, EG_MISS_GENERATION);
	if (b->state == EG_BACKEND_DOWN && v->flags & (EG_VIP_REPICK | EG_VIP_RESET))
		return decide_gone(p, dir, vip, v, EG_MISS_DOWN);
	if (haste_due(f->seen, now)) {
		verdict = flow_refresh(p, f, v, now);
		if (verdict != FORWARD)
			return decide_dead(p, dir, vip, -1 - verdict);
	}
	if (dir == EG_FLOW_FORWARD && f->state == EG_FLOW_CLOSING && tcp_opens(p))
		return decide_dead(p, dir, vip, EG_MISS_REOPENED);
	if (dir == EG_FLOW_FORWARD ? f->state == EG_FLOW_CLOSING
				   : p->tcp_flags & TCP_SYN)
		if (decide_anew(p, dir))
			return TAIL(TAIL_OPEN);

	p->vip = vip;
	p->backend = backend;
	verdict = guard_hit(p, v, f);
	if (verdict != FORWARD)
		return verdict;
	verdict = decide_way(p, f, v, b, fw);
	if (verdict == FORWARD) {
		flow_follow(p, f, v);
		count_forwarded(p, dir == EG_FLOW_REVERSE);
	}
	return verdict;
}

static __always_inline int decide(struct pkt *p, int parsed, struct forward *fw)
{
	struct eg_flow *flow;
	struct eg_conf *conf;
	__u32 zero = 0, use;
	int verdict;

	if (parsed != PARSED)
		EXPLAIN(parsed, parsed);
	if (parsed == NOT_OURS)
		return PASS;
	if (parsed == PARSED) {
		flow = bpf_map_lookup_elem(&eg_flows, &p->key);
		if (flow) {
			verdict = decide_flow(p, flow, fw);
			if (verdict != MISS)
				return verdict;
			p->vip = 0;
			p->backend = 0;
		}
	}
	use = vip_address(&p->key.daddr);
	conf = bpf_map_lookup_elem(&eg_conf, &zero);
	if (!conf)
		return PASS;
	if (parsed == ICMP)
		return TAIL(TAIL_ICMP);
	/* Refused only at a VIP's address, where the stack would answer in the
	 * backend's place. */
	if (parsed == MALFORMED)
		return use & EG_ADDR_VIP ? EG_DROP_MALFORMED : PASS;
	if (parsed == PARSED && !(use & EG_ADDR_VIP) && vip_asks_cookie(p, use))
		return TAIL(TAIL_COOKIE);
	if (!(use & (EG_ADDR_VIP | EG_ADDR_SOURCE)) &&
	    !(conf->flags & EG_CONF_RETURN_PATH))
		return PASS;
	return parsed == FRAGMENT ? TAIL(TAIL_FRAG) : TAIL(TAIL_OPEN);
}

/* A packet of a flow in eg_opening. */
static __always_inline int decide_opening(struct pkt *p, struct eg_flow *f,
					  struct forward *fw, struct promotion *m)
{
	__u32 vip = f->vip, backend = f->backend;
	struct eg_backend *b;
	struct eg_vip *v;
	__u8 dir = f->dir;
	int verdict;

	v = bpf_map_lookup_elem(&eg_vips, &vip);
	if (!v || v->epoch != f->epoch)
		return decide_miss(p, dir, 0, EG_MISS_EPOCH);
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!b || b->generation != f->generation || b->state == EG_BACKEND_NONE)
		return decide_miss(p, dir, vip, EG_MISS_GENERATION);
	if (flow_expired(f, p->key.proto, flow_now()))
		return decide_miss(p, dir, vip, EG_MISS_EXPIRED);
	if (dir == EG_FLOW_FORWARD && v->forward == EG_FORWARD_NAT &&
	    !opening_claims(p, f))
		return decide_miss(p, dir, vip, EG_MISS_TAKEN);
	p->vip = vip;
	p->backend = backend;
	verdict = guard_hit(p, v, f);
	if (verdict != FORWARD)
		return verdict;
	verdict = decide_way(p, f, v, b, fw);
	if (verdict != FORWARD)
		return verdict;
	verdict = opening_packet(p, f, v, m);
	if (verdict == FORWARD)
		count_forwarded(p, dir == EG_FLOW_REVERSE);
	return verdict;
}

/* A SYN that reopens a closing flow stays with the flow's backend while that
 * takes new flows: otherwise a forged FIN and SYN could move a live connection
 * after a change of the ring. */
static __always_inline __u32 decide_prefers(const struct eg_flow *old)
{
	if (old && old->state == EG_FLOW_CLOSING && flow_stands(old) &&
	    pick_takes_flows(old->backend))
		return old->backend;
	return 0;
}

/* May a TCP segment that is no SYN begin a flow here? Where replies bypass us
 * and the ring alone decides, another node, or we before our table was lost,
 * may have begun it: whoever carries it now sends it to the same backend. */
static __always_inline int decide_joins(const struct eg_vip *vip)
{
	return vip->forward != EG_FORWARD_NAT && pick_is_stateless(vip->pool);
}

/* An address of VIPs, at a port that carries none. We fail closed unless the
 * operator says otherwise: letting the packet reach the stack would have it
 * answer for ports that nobody meant to open. */
static __always_inline int decide_unused(void *ctx, struct pkt *p, __u32 use)
{
	if (use & EG_ADDR_PASS || vip_local_socket(ctx, p))
		return vip_asks_cookie(p, use) ? TAIL(TAIL_COOKIE) : PASS;
	if (use & EG_ADDR_RESET && p->key.proto == IPPROTO_TCP &&
	    !(p->tcp_flags & TCP_RST))
		return TAIL(TAIL_RESET);
	return EG_DROP_UNUSED_PORT;
}

/* No flow is known, or one that no longer counts. */
static __always_inline int decide_new(void *ctx, struct pkt *p, struct claim *c,
				      __u64 flags)
{
	struct eg_flow *old;
	struct eg_vip *vip;
	__u32 prefer, use;
	int verdict;

	use = vip_address(&p->key.daddr);
	if (!(use & EG_ADDR_VIP))
		return PASS;
	vip = vip_lookup(p);
	if (!vip)
		return decide_unused(ctx, p, use);
	verdict = guard_new(p, vip);
	if (verdict != FORWARD)
		return verdict;
	if (p->key.proto == IPPROTO_TCP && !tcp_opens(p) && !decide_joins(vip))
		return EG_DROP_NO_FLOW;
	if (p->ttl <= TTL_LAST)
		return EG_DROP_TTL;
	old = bpf_map_lookup_elem(&eg_flows, &p->key);
	prefer = decide_prefers(old);
	if (prefer)
		c->key.dport = old->port;
	/* Over the budget, only where the flow's next packet finds the same
	 * backend without an entry: a port of nat must be claimed, and of a
	 * choice that is no hash nothing would be left. */
	c->stateless = !budget_take(p->vip);
	if (c->stateless && !decide_joins(vip))
		return EG_DROP_FLOW_BUDGET;
	return flow_open(p, vip, c, prefer, flags);
}

/* What TAIL_OPEN does: the packet of a half-open flow, or of a new one. */
static __always_inline int decide_open(void *ctx, struct pkt *p, struct forward *fw,
				       struct claim *c, struct promotion *m)
{
	struct eg_backend *b;
	struct eg_flow *flow;
	__u32 vip, backend;
	struct eg_vip *v;
	int verdict;

	EXPLAIN(half_open, 1);
	flow = bpf_map_lookup_elem(&eg_opening, &p->key);
	if (flow) {
		verdict = decide_opening(p, flow, fw, m);
		if (verdict != MISS)
			return verdict;
		p->vip = 0;
		p->backend = 0;
	}
	EXPLAIN(fresh, 1);
	__builtin_memset(c, 0, sizeof(*c));
	verdict = decide_new(ctx, p, c, flow ? BPF_ANY : BPF_NOEXIST);
	if (verdict != FORWARD)
		return verdict;
	vip = p->vip;
	backend = p->backend;
	v = bpf_map_lookup_elem(&eg_vips, &vip);
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!v || !b)
		return EG_DROP_MAP;
	c->flow.tag = flow_tag(&p->key);
	verdict = decide_way(p, &c->flow, v, b, fw);
	if (verdict == FORWARD) {
		count_forwarded(p, 0);
		if (c->stateless)
			budget_count(p);
	}
	return verdict;
}

#endif
