/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Fragments. The first has the ports: it is decided as the packet that it is,
 * and eg_frags keeps what it said for the others, which follow it to the same
 * backend whatever the ring says by then. One that comes before its first is
 * held outside, or, where the VIP's fragments are "stable", goes where all
 * packets from that address go. Nothing is reassembled here: the receiver does
 * that, and each byte is sent to it at most once.
 */
#ifndef EG_LIB_FRAG_H
#define EG_LIB_FRAG_H

#define HOLD (-3) /* a decision: it came before its first */

/* RFC 791 section 3.1 and RFC 8200 section 4.5: the sum of a datagram's parts
 * must fit its length field. */
#define DATAGRAM_MAX 65535

/* The longest frame that is held. A live frame (BPF_F_TEST_XDP_LIVE_FRAMES)
 * must fit a page of 4,096 bytes with its head and tail room. */
#define HELD_MAX 3072

/* Refused only at a VIP's address: elsewhere the stack judges. */
static __always_inline int frag_refuse(const struct piece *g)
{
	return g->use & EG_ADDR_VIP ? EG_DROP_FRAGMENT : PASS;
}

/* What parse() left at p->l4: IPv4's payload, or IPv6's fragment header. */
static __always_inline int frag_parse4(void *data, void *data_end, struct pkt *p,
				       struct piece *g)
{
	struct iphdr *ip = data + (p->l3 & L3_OFFSET_MAX);

	if ((void *)(ip + 1) > data_end)
		return -1;
	g->key.id = ip->id;
	g->key.proto = ip->protocol;
	g->from = (bpf_ntohs(ip->frag_off) & 0x1fff) * 8;
	g->more = (bpf_ntohs(ip->frag_off) & 0x2000) >> 13;
	return 0;
}

static __always_inline int frag_parse6(void *data, void *data_end, struct pkt *p,
				       struct piece *g)
{
	void *header = data + (p->l4 & L4_OFFSET_MAX);
	__u32 offset;

	if (header + 8 > data_end)
		return -1;
	offset = bpf_ntohs(*(__be16 *)(header + 2));
	__builtin_memcpy(&g->key.id, header + 4, 4);
	g->key.proto = *(__u8 *)header;
	g->from = offset & 0xfff8;
	g->more = offset & 1;
	g->header = p->l4;
	p->l4 += 8;
	return 0;
}

/* FORWARD if it may be a flow's. Refused here: what no honest sender makes. */
static __always_inline int frag_parse(void *data, void *data_end, struct pkt *p,
				      struct piece *g)
{
	__u32 headers, payload;

	__builtin_memset(g, 0, sizeof(*g));
	g->key.saddr = p->key.saddr;
	g->key.daddr = p->key.daddr;
	g->use = vip_address(&p->key.daddr);
	if (p->v6 ? frag_parse6(data, data_end, p, g)
		  : frag_parse4(data, data_end, p, g))
		return PASS;
	p->key.proto = g->key.proto;
	/* RFC 7112 section 5: all headers belong into the first fragment, ports
	 * included, but behind more extension headers nobody would look. */
	if (g->key.proto == IPPROTO_DSTOPTS || g->key.proto == IPPROTO_FRAGMENT ||
	    g->key.proto == IPPROTO_ROUTING || g->key.proto == IPPROTO_HOPOPTS)
		return p->v6 ? frag_refuse(g) : PASS;
	if (g->key.proto != IPPROTO_TCP && g->key.proto != IPPROTO_UDP)
		return PASS;
	headers = p->l4 - p->l3;
	payload = p->len > headers ? p->len - headers : 0;
	g->to = g->from + payload;
	g->first = !g->from;
	if (!payload || (g->more && payload & 7) ||
	    g->to + (p->v6 ? 0 : headers) > DATAGRAM_MAX)
		return frag_refuse(g);
	/* RFC 1858 section 3.2.2: it would overwrite TCP's flags. */
	if (g->key.proto == IPPROTO_TCP && g->from == 8)
		return frag_refuse(g);
	return FORWARD;
}

/* A first fragment must have its whole L4 header (RFC 1858 section 3.2.1). */
static __always_inline int frag_ports(void *data, void *data_end, struct pkt *p,
				      const struct piece *g)
{
	struct cursor c = {
		.pos = data + (p->l4 & L4_OFFSET_MAX),
		.end = data_end,
		.left = g->to,
	};
	int parsed;

	if (g->key.proto == IPPROTO_TCP) {
		parsed = parse_tcp(&c, p);
	} else {
		/* UDP's length is the datagram's. */
		c.left = DATAGRAM_MAX;
		parsed = parse_udp(&c, p);
	}
	if (parsed == MALFORMED)
		return frag_refuse(g);
	return parsed == PARSED ? FORWARD : PASS;
}

static __always_inline int frag_is_live(const struct eg_frag *e,
					const struct eg_frag_key *key)
{
	return e->tag == frag_tag(key) && !(e->flags & EG_FRAG_DONE) &&
	       bpf_ktime_get_ns() - e->born < EG_FRAG_TIMEOUT_MS * 1000000ULL;
}

/* The datagram's entry; a first fragment makes one, and so does any of a
 * stable VIP. NULL otherwise. A dry run gets a copy, in `fresh`. */
static __noinline struct eg_frag *frag_entry(const struct piece *g,
					     struct eg_frag *fresh, int stable)
{
	struct eg_frag *e = bpf_map_lookup_elem(&eg_frags, &g->key);

	if (e && frag_is_live(e, &g->key)) {
		if (!eg_dry_run)
			return e;
		__builtin_memcpy(fresh, e, sizeof(*fresh));
		return fresh;
	}
	if (!g->first && !stable)
		return NULL;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->born = bpf_ktime_get_ns();
	fresh->tag = frag_tag(&g->key);
	if (eg_dry_run)
		return fresh;
	if (bpf_map_update_elem(&eg_frags, &g->key, fresh, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&eg_frags, &g->key);
}

/* What the others need to know. */
static __noinline void frag_remember(struct eg_frag *e, const struct pkt *p,
				     const struct piece *g, int verdict)
{
	struct frag_lock *l = frag_lock_of(frag_tag(&g->key));
	__u8 flags = EG_FRAG_PORTS;

	if (!l || eg_dry_run)
		return;
	if (verdict == PASS)
		flags |= EG_FRAG_PASS;
	else if (verdict != FORWARD)
		flags |= EG_FRAG_REFUSED;
	bpf_spin_lock(&l->lock);
	e->backend = p->backend;
	e->sport = p->key.sport;
	e->dport = p->key.dport;
	e->flags |= flags;
	bpf_spin_unlock(&l->lock);
}

/* The flow's entry that went to this backend. Right after an old flow's end
 * there may be another in the other table. */
static __always_inline struct eg_flow *frag_flow(const struct pkt *p, __u32 backend)
{
	struct eg_flow *f = bpf_map_lookup_elem(&eg_flows, &p->key);

	if (f && f->backend == backend && flow_stands(f))
		return f;
	f = bpf_map_lookup_elem(&eg_opening, &p->key);
	return f && f->backend == backend && flow_stands(f) ? f : NULL;
}

/* guard_hit() without what asks for a TCP header. */
static __always_inline int guard_later(struct pkt *p, const struct eg_vip *v,
				       const struct eg_flow *f)
{
	if (f->dir == EG_FLOW_REVERSE)
		return v->flags & EG_VIP_GUARD_AMPLIFY && p->key.proto == IPPROTO_UDP
			       ? guard_reply(p, &f->addr)
			       : FORWARD;
	return v->flags & GUARD_CLIENT ? guard_client(p, v->flags, 0) : FORWARD;
}

/* A fragment whose first was seen: to where that went. It says nothing about
 * its flow's state, having no TCP header. */
static __noinline int frag_decide_later(struct pkt *p, const struct eg_frag *e,
					struct forward *fw)
{
	struct eg_backend *b;
	__u32 vip, backend;
	struct eg_flow *f;
	struct eg_vip *v;
	int verdict;

	if (e->flags & EG_FRAG_REFUSED)
		return EG_DROP_FRAGMENT;
	p->key.sport = e->sport;
	p->key.dport = e->dport;
	f = frag_flow(p, e->backend);
	if (!f)
		return EG_DROP_NO_FLOW;
	vip = f->vip;
	backend = f->backend;
	v = bpf_map_lookup_elem(&eg_vips, &vip);
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!v || !b)
		return EG_DROP_NO_FLOW;
	p->vip = vip;
	p->backend = backend;
	verdict = guard_later(p, v, f);
	if (verdict != FORWARD)
		return verdict;
	verdict = decide_way(p, f, v, b, fw);
	if (verdict == MISS)
		return EG_DROP_NO_FLOW;
	if (verdict == FORWARD)
		count_forwarded(p, f->dir == EG_FLOW_REVERSE);
	return verdict;
}

/* A fragment of a stable VIP whose first was not seen: by the same hash. */
static __noinline int frag_decide_stable(struct pkt *p, const struct eg_vip *v,
					 struct forward *fw, struct claim *c)
{
	int nat = v->forward == EG_FORWARD_NAT, verdict;
	struct eg_backend *b;
	__u32 id;

	if (guard_bad_source(p))
		return EG_DROP_BAD_SOURCE;
	verdict = v->flags & GUARD_CLIENT ? guard_client(p, v->flags, 0) : FORWARD;
	if (verdict != FORWARD)
		return verdict;
	__builtin_memset(c, 0, sizeof(*c));
	id = pick(v->pool, &p->key, c);
	if (!id)
		return EG_DROP_NO_BACKEND;
	b = bpf_map_lookup_elem(&eg_backends, &id);
	if (!b ||
	    ((nat || v->forward == EG_FORWARD_L2) && addr_is_mapped(&b->addr) == p->v6))
		return EG_DROP_NO_BACKEND;
	p->backend = id;
	if (nat)
		c->flow.addr = v->flags & EG_VIP_SNAT ? b->source : p->key.saddr;
	else
		open_outer(&c->flow, b, c->hash);
	c->flow.tag = flow_tag(&p->key);
	c->flow.dir = EG_FLOW_FORWARD;
	verdict = decide_way(p, &c->flow, v, b, fw);
	if (verdict == FORWARD)
		count_forwarded(p, 0);
	return verdict;
}

/* The packet that the first fragment is the beginning of: FORWARD, PASS, an
 * enum eg_drop, or TAIL_FRAG_OPEN if no established flow is known. */
static __always_inline int frag_decide_first(struct pkt *p, struct forward *fw)
{
	struct eg_flow *f = bpf_map_lookup_elem(&eg_flows, &p->key);
	int verdict = MISS;

	p->vip = 0;
	if (f)
		verdict = decide_flow(p, f, fw);
	if (verdict != MISS && verdict != TAIL(TAIL_OPEN))
		return verdict;
	p->vip = 0;
	p->backend = 0;
	return TAIL(TAIL_FRAG_OPEN);
}

/* FORWARD, PASS, HOLD, an enum eg_drop, or a TAIL that the ordinary packet
 * would take. The entry, if there is one, is left in *at. */
static __always_inline int frag_decide(struct scratch *s, struct eg_frag **at)
{
	struct eg_vip *v = s->piece.use & EG_ADDR_VIP ? vip_stable(&s->p) : NULL;
	const struct piece *g = &s->piece;
	struct pkt *p = &s->p;
	struct eg_frag *e;
	int verdict;

	e = frag_entry(g, &s->frag, v != NULL);
	*at = e;
	if (!e && (g->first || v))
		return EG_DROP_MAP;
	if (!g->first && !v && !(e && e->flags & EG_FRAG_PORTS))
		return HOLD;
	if (e && e->flags & EG_FRAG_PASS)
		return PASS;
	if (e) {
		verdict = frag_note(e, g);
		if (verdict)
			return verdict;
	}
	if (g->first) {
		verdict = frag_decide_first(p, &s->fw);
		if (e && verdict != TAIL(TAIL_FRAG_OPEN))
			frag_remember(e, p, g, verdict);
		return verdict;
	}
	if (e && e->flags & EG_FRAG_PORTS)
		return frag_decide_later(p, e, &s->fw);
	return TAIL(TAIL_FRAG_OPEN);
}

/* What TAIL_FRAG_OPEN does, in the scratch that frag_decide() left: the first
 * fragment of a half-open or new flow, or a stable VIP's whose first was not
 * seen. */
static __always_inline int frag_decide_open(void *ctx, struct scratch *s,
					    struct eg_frag **at)
{
	const struct piece *g = &s->piece;
	struct eg_frag *e =
		eg_dry_run ? &s->frag : bpf_map_lookup_elem(&eg_frags, &g->key);
	struct pkt *p = &s->p;
	struct eg_vip *v;
	int verdict;

	*at = e;
	if (!e)
		return EG_DROP_MAP;
	if (!g->first) {
		v = vip_stable(p);
		return v ? frag_decide_stable(p, v, &s->fw, &s->claim) : HOLD;
	}
	verdict = decide_open(ctx, p, &s->fw, &s->claim, &s->promotion);
	/* A SYN in pieces: the stack knows what to make of it. */
	if (verdict == TAIL(TAIL_COOKIE))
		verdict = PASS;
	if (e)
		frag_remember(e, p, g, verdict);
	return verdict;
}

static __always_inline int frag_parse_frame(void *data, void *data_end,
					    struct scratch *s)
{
	int verdict = frag_parse(data, data_end, &s->p, &s->piece);

	if (verdict != FORWARD || !s->piece.first)
		return verdict;
	return frag_ports(data, data_end, &s->p, &s->piece);
}

/* What is left where one cannot be held, or a program take over that asks for
 * a whole packet. What is no VIP's the stack may hold itself. */
static __always_inline int frag_settle(const struct piece *g, int verdict)
{
	if (verdict == HOLD)
		return g->use & EG_ADDR_VIP ? EG_DROP_FRAGMENT_EARLY : PASS;
	if (verdict == TAIL(TAIL_TOO_BIG))
		return EG_DROP_TOO_BIG;
	if (verdict == TAIL(TAIL_FRAG_OPEN))
		return verdict;
	return IS_TAIL(verdict) ? EG_DROP_FRAGMENT : verdict;
}

#endif
