/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Source ports. The reverse key of a flow, {backend, source}, is the claim of
 * its port: inserted in eg_opening by the SYN, in eg_flows when the flow is
 * established, and for a moment in both. So a port is free only if neither
 * table knows it, and a claim counts only if, once it is made, eg_flows still
 * does not.
 */
#ifndef EG_LIB_CLAIM_H
#define EG_LIB_CLAIM_H

/* Ports tried before the flow is refused. Below nine tenths of the range in
 * use all sixteen fail for fewer than one flow in five; each costs a lookup
 * in either table. */
#define PORT_TRIES 16

/* The same client at the same VIP: a port it already has stays its own. */
static __always_inline int claim_is_mine(const struct eg_flow *mine,
					 const struct eg_flow *there)
{
	return (there->vip == mine->vip) & (there->port == mine->port) &
	       addr_equal(&there->addr, &mine->addr);
}

/* Is this reverse entry's flow over, so that its port may be given away?
 * Not while either half lives. Both halves lie in the same table. */
static __noinline int claim_is_dead(void *table, const struct claim *c,
				    const struct eg_flow *there)
{
	struct eg_flow_key key;
	struct eg_flow *forward;

	if (!flow_stands(there))
		return 1;
	if (!flow_expired(there, c->key.proto, c->now))
		return 0;
	if (flow_forward_key(&key, there, c->key.proto))
		return 1;
	forward = bpf_map_lookup_elem(table, &key);
	if (!forward)
		return 1;
	if (!(flow_same(forward, there) & (forward->port == c->key.dport) &
	      addr_equal(&forward->addr, &c->key.daddr)))
		return 1;
	return flow_expired(forward, c->key.proto, c->now);
}

static __always_inline int claim_is_free_in(void *table, const struct claim *c)
{
	struct eg_flow *there = bpf_map_lookup_elem(table, &c->key);

	return !there || claim_is_mine(&c->flow, there) ||
	       claim_is_dead(table, c, there);
}

/*
 * Put the claim where a dead one lies, or ours. Looking and overwriting is
 * two steps, and no instruction of ours does both at once on 5.10: a second
 * entry, under the same key with pad[0] set, says that somebody is at it.
 * Programs are not preempted between the two, so it lives for microseconds;
 * who meets it takes another port.
 */
static __always_inline int claim_take_over(struct claim *c)
{
	long err;

	c->key.pad[0] = EG_FLOW_CLAIM;
	err = bpf_map_update_elem(&eg_opening, &c->key, &c->flow, BPF_NOEXIST);
	c->key.pad[0] = 0;
	if (err)
		return -1;
	err = -1;
	if (claim_is_free_in(&eg_opening, c))
		err = bpf_map_update_elem(&eg_opening, &c->key, &c->flow, BPF_ANY);
	c->key.pad[0] = EG_FLOW_CLAIM;
	bpf_map_delete_elem(&eg_opening, &c->key);
	c->key.pad[0] = 0;
	return err ? -1 : 0;
}

/* Looked up first, because an insert that fails takes a free node first, and
 * may evict a flow for it. */
static __always_inline int claim_insert(struct claim *c)
{
	int err;

	c->flow.tag = flow_tag(&c->key);
	if (bpf_map_lookup_elem(&eg_opening, &c->key))
		err = claim_take_over(c);
	else
		err = bpf_map_update_elem(&eg_opening, &c->key, &c->flow, BPF_NOEXIST);
	if (err)
		return -1;
	/* Whoever had it may have moved to eg_flows while we looked. */
	if (claim_is_free_in(&eg_flows, c))
		return 0;
	bpf_map_delete_elem(&eg_opening, &c->key);
	return -1;
}

/* With c->only, that port or none; else `wish` first, if there is one. Each flow
 * strides by a step of its own, so that used ports do not heap up where many
 * searches pass; no step meets a port twice. The loop looks, and one claim
 * follows: should another CPU have been faster, the packet is dropped and the
 * client's next one begins at another port. */
static __noinline int claim_port(struct claim *c, __be16 wish)
{
	__u32 ports = eg_snat_port_max - eg_snat_port_min + 1;
	__u32 steps = ports < PORT_TRIES ? 1 : ports / PORT_TRIES;
	__u32 step = (__u32)(c->hash >> 32) % steps + 1;
	__u32 port = ((__u32)c->hash + c->now) % ports;
	int i;

	for (i = 0; i < PORT_TRIES; i++) {
		c->key.dport = wish ? wish : bpf_htons(eg_snat_port_min + port);
		if (claim_is_free_in(&eg_flows, c) && claim_is_free_in(&eg_opening, c))
			return eg_dry_run ? 0 : claim_insert(c);
		if (c->only)
			break;
		if (wish) {
			wish = 0;
			continue;
		}
		port += step;
		if (port >= ports)
			port -= ports;
	}
	return -1;
}

#endif
