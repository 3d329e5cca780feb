/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* A new flow: pick a backend, claim a port, remember both halves. */
#ifndef EG_LIB_OPEN_H
#define EG_LIB_OPEN_H

/* Ports tried before the flow is refused. Below nine tenths of the range in
 * use all sixteen fail for fewer than one flow in five; each costs a lookup. */
#define PORT_TRIES 16

struct opening {
	struct eg_flow_key key; /* of the reverse half */
	struct eg_flow flow;	/* the reverse half, then the forward one */
	__u64 hash;
	__u32 now;
};

/* With `only`, that port or none; else `wish` first, if there is one. The
 * loop looks, and one claim follows: should another CPU have been faster, the
 * packet is dropped and the client's next one begins at another port. */
static __noinline int open_claim_port(struct opening *o, __be16 wish, int only)
{
	__u32 ports = eg_snat_port_max - eg_snat_port_min + 1;
	__u32 port = ((__u32)o->hash + o->now) % ports;
	int i;

	for (i = 0; i < PORT_TRIES; i++) {
		o->key.dport = wish ? wish : bpf_htons(eg_snat_port_min + port);
		if (flow_is_free(&o->key, &o->flow, o->now))
			return flow_claim(&o->key, &o->flow, o->now);
		if (only)
			break;
		if (wish)
			wish = 0;
		else if (++port == ports)
			port = 0;
	}
	return -1;
}

/*
 * Returns FORWARD or an enum eg_drop. `prefer` and `wish`, if not zero: the
 * backend and source port that the flow should have. `flags` are those of the
 * forward half's insert: BPF_ANY where an entry that did not count lies.
 */
static __noinline int flow_open(struct pkt *p, struct eg_vip *vip, __u32 prefer,
				__be16 wish, __u64 flags)
{
	struct opening o = {};
	struct eg_backend *b;
	__u32 id, snat;

	id = pick(vip->pool, &p->key, &o.hash);
	if (prefer)
		id = prefer;
	if (!id)
		return EG_DROP_NO_BACKEND;
	b = bpf_map_lookup_elem(&eg_backends, &id);
	if (!b || addr_is_mapped(&b->addr) == p->v6)
		return EG_DROP_NO_BACKEND;
	p->backend = id;
	if (!b->ifindex)
		return EG_DROP_NO_NEXT_HOP;

	o.now = flow_now();
	o.key.saddr = b->addr;
	o.key.sport = b->port;
	o.key.proto = p->key.proto;
	o.flow.addr = p->key.saddr;
	o.flow.port = p->key.sport;
	o.flow.dir = EG_FLOW_REVERSE;
	o.flow.state = flow_next_state(p, EG_FLOW_OPENING);
	o.flow.vip = p->vip;
	o.flow.epoch = vip->epoch;
	o.flow.backend = id;
	o.flow.generation = b->generation;
	o.flow.seen = o.now;
	o.flow.ifindex = p->ifindex;
	__builtin_memcpy(o.flow.dmac, p->smac, 6);
	__builtin_memcpy(o.flow.smac, p->dmac, 6);

	snat = vip->flags & EG_VIP_SNAT;
	o.key.daddr = snat ? b->source : p->key.saddr;
	if (open_claim_port(&o, snat ? wish : p->key.sport, !snat))
		return EG_DROP_NO_PORT;

	o.flow.addr = o.key.daddr;
	o.flow.port = o.key.dport;
	o.flow.dir = EG_FLOW_FORWARD;
	o.flow.ifindex = 0;
	__builtin_memset(o.flow.dmac, 0, 6);
	__builtin_memset(o.flow.smac, 0, 6);
	/* Another CPU may have opened the same flow meanwhile: the first stays,
	 * and the packet is dropped as if lost; the client sends it again. Our
	 * claim then ages away. */
	if (bpf_map_update_elem(&eg_flows, &p->key, &o.flow, flags))
		return EG_DROP_MAP;
	count_flow(p);
	return FORWARD;
}

#endif
