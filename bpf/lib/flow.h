/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * The flow table. A flow is a pair of entries that can rebuild each other:
 *   forward  {client, vip}      holds the source address and port we write
 *   reverse  {backend, source}  holds the client's
 * The reverse key is the claim of the source port: whoever inserts it owns
 * the port. Nothing here deletes a flow; dead entries are evicted, or taken
 * over under a claim of their own (flow_claim).
 */
#ifndef EG_LIB_FLOW_H
#define EG_LIB_FLOW_H

static __always_inline __u32 flow_now(void)
{
	return (__u32)bpf_jiffies64();
}

static __always_inline __u32 flow_timeout(const struct eg_flow *f, __u8 proto)
{
	if (proto == IPPROTO_UDP)
		return eg_timeout_udp_s * eg_jiffies_hz;
	if (f->state == EG_FLOW_OPENING)
		return eg_timeout_opening_s * eg_jiffies_hz;
	if (f->state == EG_FLOW_CLOSING)
		return eg_timeout_closing_s * eg_jiffies_hz;
	return eg_timeout_open_s * eg_jiffies_hz;
}

static __always_inline int flow_expired(const struct eg_flow *f, __u8 proto, __u32 now)
{
	return now - f->seen >= flow_timeout(f, proto);
}

/* RST and FIN never end a flow, they only shorten its life; data, which a
 * closed connection does not carry, gives it back. */
static __always_inline __u8 flow_next_state(const struct pkt *p, __u8 state)
{
	if (p->key.proto == IPPROTO_UDP)
		return EG_FLOW_OPEN;
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		return EG_FLOW_CLOSING;
	if (p->tcp_flags & TCP_SYN)
		return state;
	if (state == EG_FLOW_OPENING)
		return EG_FLOW_OPEN;
	if (state == EG_FLOW_CLOSING && p->data)
		return EG_FLOW_OPEN;
	return state;
}

/* Do its VIP and its backend still exist, as they were when it began? */
static __always_inline int flow_stands(const struct eg_flow *f)
{
	__u32 vip = f->vip, backend = f->backend;
	struct eg_backend *b;
	struct eg_vip *v;

	v = bpf_map_lookup_elem(&eg_vips, &vip);
	if (!v || v->epoch != f->epoch)
		return 0;
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	return b && b->generation == f->generation && b->state != EG_BACKEND_NONE;
}

static __always_inline int flow_same(const struct eg_flow *a, const struct eg_flow *b)
{
	return (a->vip == b->vip) & (a->epoch == b->epoch) &
	       (a->backend == b->backend) & (a->generation == b->generation);
}

/* The forward half's key, from what the reverse half remembers. */
static __always_inline int flow_forward_key(struct eg_flow_key *key,
					    const struct eg_flow *reverse, __u8 proto)
{
	__u32 vip = reverse->vip;
	struct eg_vip *v = bpf_map_lookup_elem(&eg_vips, &vip);

	if (!v)
		return -1;
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr = reverse->addr;
	key->sport = reverse->port;
	key->daddr = v->addr;
	key->dport = v->port;
	key->proto = proto;
	return 0;
}

/* The reverse half's key, from what the forward half remembers. */
static __always_inline int flow_reverse_key(struct eg_flow_key *key,
					    const struct eg_flow *forward, __u8 proto)
{
	__u32 backend = forward->backend;
	struct eg_backend *b = bpf_map_lookup_elem(&eg_backends, &backend);

	if (!b)
		return -1;
	__builtin_memset(key, 0, sizeof(*key));
	key->saddr = b->addr;
	key->sport = b->port;
	key->daddr = forward->addr;
	key->dport = forward->port;
	key->proto = proto;
	return 0;
}

/* Is this reverse entry's flow over, so that its port may be given away?
 * Not while either half lives. */
static __noinline int flow_dead(const struct eg_flow_key *reverse_key,
				const struct eg_flow *reverse, __u32 now)
{
	struct eg_flow_key key;
	struct eg_flow *forward;

	if (!flow_stands(reverse))
		return 1;
	if (!flow_expired(reverse, reverse_key->proto, now))
		return 0;
	if (flow_forward_key(&key, reverse, reverse_key->proto))
		return 1;
	forward = bpf_map_lookup_elem(&eg_flows, &key);
	if (!forward)
		return 1;
	if (!(flow_same(forward, reverse) & (forward->port == reverse_key->dport) &
	      addr_equal(&forward->addr, &reverse_key->daddr)))
		return 1;
	return flow_expired(forward, reverse_key->proto, now);
}

/* The same client at the same VIP: a port it already has stays its own. */
static __always_inline int flow_is_mine(const struct eg_flow *mine,
					const struct eg_flow *there)
{
	return (there->vip == mine->vip) & (there->port == mine->port) &
	       addr_equal(&there->addr, &mine->addr);
}

/*
 * Put a reverse entry where another one lies that is dead, or ours. Looking
 * and overwriting is two steps, and no instruction of ours does both at once
 * on 5.10: a second entry, under the same key with pad[0] set, says that
 * somebody is at it. Programs are not preempted between the two, so it lives
 * for microseconds; who meets it takes another port.
 */
static __always_inline int flow_take_over(struct eg_flow_key *key,
					  const struct eg_flow *value, __u32 now)
{
	struct eg_flow *there;
	long err;

	key->pad[0] = EG_FLOW_CLAIM;
	err = bpf_map_update_elem(&eg_flows, key, value, BPF_NOEXIST);
	key->pad[0] = 0;
	if (err)
		return -1;
	err = -1;
	there = bpf_map_lookup_elem(&eg_flows, key);
	if (!there)
		err = bpf_map_update_elem(&eg_flows, key, value, BPF_NOEXIST);
	else if (flow_is_mine(value, there) || flow_dead(key, there, now))
		err = bpf_map_update_elem(&eg_flows, key, value, BPF_ANY);
	key->pad[0] = EG_FLOW_CLAIM;
	bpf_map_delete_elem(&eg_flows, key);
	key->pad[0] = 0;
	return err ? -1 : 0;
}

/* May this key be claimed, as far as one look can tell? */
static __always_inline int flow_is_free(const struct eg_flow_key *key,
					const struct eg_flow *value, __u32 now)
{
	struct eg_flow *there = bpf_map_lookup_elem(&eg_flows, key);

	return !there || flow_is_mine(value, there) || flow_dead(key, there, now);
}

/* Claim a port by inserting the reverse entry. Looked up first, because an
 * insert that fails takes a free node first, and may evict a flow for it. */
static __always_inline int flow_claim(struct eg_flow_key *key,
				      const struct eg_flow *value, __u32 now)
{
	if (!bpf_map_lookup_elem(&eg_flows, key))
		return bpf_map_update_elem(&eg_flows, key, value, BPF_NOEXIST) ? -1 : 0;
	return flow_take_over(key, value, now);
}

/*
 * Once a second for each half that carries packets: is the flow still in
 * time, and is its other half there, its own, and up to date? Refreshing
 * both also keeps the hottest flows from looking idle to the LRU. Returns
 * FORWARD or a negative -1 - enum eg_miss.
 */
#define MISSED(miss) (-1 - (miss))

static __noinline int flow_refresh(const struct pkt *p, struct eg_flow *f, __u32 now)
{
	struct eg_flow_key key;
	struct eg_flow *other;
	struct eg_flow twin;
	int forward = f->dir == EG_FLOW_FORWARD;

	if (forward ? flow_reverse_key(&key, f, p->key.proto)
		    : flow_forward_key(&key, f, p->key.proto))
		return MISSED(EG_MISS_TAKEN);
	other = bpf_map_lookup_elem(&eg_flows, &key);
	if (other &&
	    (!flow_same(f, other) || other->dir == f->dir ||
	     other->port != (forward ? p->key.sport : p->key.dport) ||
	     !addr_equal(&other->addr, forward ? &p->key.saddr : &p->key.daddr)))
		return MISSED(EG_MISS_TAKEN);
	if (flow_expired(f, p->key.proto, now) &&
	    (!other || flow_expired(other, p->key.proto, now)))
		return MISSED(EG_MISS_EXPIRED);
	f->seen = now;
	if (other && (!forward || (other->ifindex == p->ifindex &&
				   mac_equal(other->dmac, p->smac) &&
				   mac_equal(other->smac, p->dmac))))
		return FORWARD;

	/* It was evicted, or the client now comes another way. */
	__builtin_memcpy(&twin, f, sizeof(twin));
	if (other) {
		twin.state = other->state;
		twin.seen = other->seen;
	}
	twin.dir = forward ? EG_FLOW_REVERSE : EG_FLOW_FORWARD;
	twin.addr = forward ? p->key.saddr : p->key.daddr;
	twin.port = forward ? p->key.sport : p->key.dport;
	if (forward) {
		twin.ifindex = p->ifindex;
		__builtin_memcpy(twin.dmac, p->smac, 6);
		__builtin_memcpy(twin.smac, p->dmac, 6);
	} else {
		twin.ifindex = 0;
		__builtin_memset(twin.dmac, 0, 6);
		__builtin_memset(twin.smac, 0, 6);
	}
	if (bpf_map_update_elem(&eg_flows, &key, &twin,
				other ? BPF_EXIST : BPF_NOEXIST) &&
	    !other)
		return MISSED(EG_MISS_TAKEN);
	return FORWARD;
}

#endif
