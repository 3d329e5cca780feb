/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* A new flow: pick a backend, and remember it half-open. */
#ifndef EG_LIB_OPEN_H
#define EG_LIB_OPEN_H

/* The half that the process and the tests know as the flow. */
static __always_inline void open_fill(struct eg_flow *f, const struct pkt *p,
				      const struct eg_vip *vip,
				      const struct eg_backend *b, __u32 now)
{
	f->state = EG_FLOW_OPENING;
	f->vip = p->vip;
	f->epoch = vip->epoch;
	f->backend = p->backend;
	f->generation = b->generation;
	f->seen = now;
}

/* Under nat: claim a port by the reverse half. Returns 0 or an enum eg_drop;
 * the forward half's source is then in c->key. */
static __always_inline int open_claim(struct claim *c, const struct pkt *p,
				      const struct eg_vip *vip,
				      const struct eg_backend *b, __be16 wish)
{
	__u32 snat = vip->flags & EG_VIP_SNAT;

	c->key.saddr = b->addr;
	c->key.sport = b->port;
	c->key.daddr = snat ? b->source : p->key.saddr;
	c->key.proto = p->key.proto;
	c->flow.addr = p->key.saddr;
	c->flow.port = p->key.sport;
	c->flow.dir = EG_FLOW_REVERSE;
	c->flow.ifindex = p->ifindex;
	__builtin_memcpy(c->flow.dmac, p->smac, 6);
	__builtin_memcpy(c->flow.smac, p->dmac, 6);
	c->only = !snat;
	return claim_port(c, snat ? wish : p->key.sport) ? EG_DROP_NO_PORT : 0;
}

/* What the pool hashes: the packet's key, or only what each fragment has. */
static __always_inline const struct eg_flow_key *
open_hashed(struct claim *c, const struct pkt *p, const struct eg_vip *vip)
{
	if (!(vip->flags & EG_VIP_STABLE))
		return &p->key;
	c->key = p->key;
	c->key.sport = 0;
	c->key.dport = 0;
	return &c->key;
}

/* Where the pool has hashed less than the flow's key: by that all flows of a
 * client would begin the search for a source port at the same one. */
static __always_inline void open_spread(struct claim *c, const struct pkt *p,
					const struct eg_vip *vip)
{
	struct eg_pool *pool;
	__u32 id = vip->pool;

	if (!(vip->flags & EG_VIP_STABLE))
		return;
	pool = bpf_map_lookup_elem(&eg_pools, &id);
	if (pool)
		c->hash = hash_flow(pool->hash_key, &p->key);
}

static __always_inline int open_insert(const struct pkt *p, struct claim *c,
				       __u64 flags)
{
	if (eg_dry_run) {
		explained.p.vip = p->vip;
		explained.p.backend = p->backend;
		return FORWARD;
	}
	c->flow.tag = flow_tag(&p->key);
	/* Another CPU may have opened the same flow meanwhile: the first stays,
	 * and the packet is dropped as if lost; the client sends it again. Our
	 * claim then ages away. */
	if (bpf_map_update_elem(&eg_opening, &p->key, &c->flow, flags))
		return EG_DROP_MAP;
	count_flow(p);
	count_load(p->backend, 0, 1);
	return FORWARD;
}

/*
 * Returns FORWARD or an enum eg_drop, with the forward half in c->flow, which
 * is in no table if c->stateless says so.
 * `prefer` and `wish`, if not zero: the backend and source port that the flow
 * should have. `flags` are those of the forward half's insert: BPF_ANY where
 * an entry that did not count lies.
 */
static __noinline int flow_open(struct pkt *p, struct eg_vip *vip, struct claim *c,
				__u32 prefer, __u64 flags)
{
	int nat = vip->forward == EG_FORWARD_NAT, verdict;
	__be16 wish = c->key.dport;
	struct eg_backend *b;
	__u32 id;

	id = pick(vip->pool, open_hashed(c, p, vip), c);
	open_spread(c, p, vip);
	if (prefer) {
		EXPLAIN(chosen, CHOSEN_CLOSING);
		id = prefer;
	}
	if (!id)
		return EG_DROP_NO_BACKEND;
	b = bpf_map_lookup_elem(&eg_backends, &id);
	/* An encapsulated packet may change its family, a rewritten one not. */
	if (!b || ((nat || vip->forward == EG_FORWARD_L2) &&
		   addr_is_mapped(&b->addr) == p->v6))
		return EG_DROP_NO_BACKEND;
	p->backend = id;
	if (!b->ifindex)
		return EG_DROP_NO_NEXT_HOP;

	c->now = flow_now();
	open_fill(&c->flow, p, vip, b, c->now);
	c->flow.born = pick_wants_latency(vip->pool) ? latency_clock() | 1 : 0;
	if (nat) {
		verdict = open_claim(c, p, vip, b, wish);
		if (verdict)
			return verdict;
		c->flow.addr = c->key.daddr;
		c->flow.port = c->key.dport;
		c->flow.ifindex = 0;
		__builtin_memset(c->flow.dmac, 0, 6);
		__builtin_memset(c->flow.smac, 0, 6);
	} else {
		open_outer(&c->flow, b, c->hash);
	}
	c->flow.dir = EG_FLOW_FORWARD;
	c->flow.next = opening_next(p);
	return c->stateless ? FORWARD : open_insert(p, c, flags);
}

#endif
