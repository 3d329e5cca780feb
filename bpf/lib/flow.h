/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * The flow table. Under nat a flow is a pair of entries that can rebuild each
 * other:
 *   forward  {client, vip}      holds the source address and port we write
 *   reverse  {backend, source}  holds the client's
 * The reverse key is the claim of the source port: whoever inserts it owns
 * the port. Under the other modes there is only the forward half. Nothing
 * here deletes a flow; dead entries are evicted, or taken over (claim.h).
 */
#ifndef EG_LIB_FLOW_H
#define EG_LIB_FLOW_H

static __always_inline __u32 flow_now(void)
{
	return (__u32)clock_jiffies();
}

/*
 * What an entry says about its key. An LRU gives an evicted element to
 * another flow at once, also while a program still reads it; the value is
 * written from its first word on, so whoever reads the tag last, and finds it
 * right, has read nothing of another flow's.
 */
static __always_inline __u32 flow_tag(const struct eg_flow_key *key)
{
	__u32 ports = (__u32)key->sport << 16 | key->dport;

	return ports ^ addr_word(&key->saddr, 3) ^
	       addr_word(&key->daddr, 3) * 0x9e3779b1;
}

static __always_inline int flow_is(const struct eg_flow *f,
				   const struct eg_flow_key *key)
{
	return *(volatile const __u32 *)&f->tag == flow_tag(key);
}

static __always_inline __u32 flow_timeout(const struct eg_flow *f, __u8 proto)
{
	if (proto == IPPROTO_UDP)
		return eg_timeout_udp_s * eg_jiffies_hz;
	if (f->state == EG_FLOW_OPEN)
		return eg_timeout_open_s * eg_jiffies_hz;
	if (f->state == EG_FLOW_CLOSING)
		return eg_timeout_closing_s * eg_jiffies_hz;
	return eg_timeout_opening_s * eg_jiffies_hz;
}

static __always_inline int flow_expired(const struct eg_flow *f, __u8 proto, __u32 now)
{
	return now - f->seen >= flow_timeout(f, proto);
}

/* RST and FIN never end a flow, and only those in window shorten its life;
 * data, which a closed connection does not carry, gives it back. */
static __always_inline __u8 flow_next_state(const struct pkt *p,
					    const struct eg_flow *f)
{
	if (p->key.proto == IPPROTO_UDP || p->tcp_flags & TCP_SYN)
		return f->state;
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		return seq_near(p->seq, f->next) ? EG_FLOW_CLOSING : f->state;
	if (f->state == EG_FLOW_CLOSING && p->end != p->seq)
		return EG_FLOW_OPEN;
	return f->state;
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

/* Is `reverse` the other half of the forward one whose packet came? */
static __always_inline int flow_answers(const struct pkt *p, const struct eg_flow *f,
					const struct eg_flow *reverse)
{
	return flow_same(f, reverse) & (reverse->dir == EG_FLOW_REVERSE) &
	       (reverse->port == p->key.sport) &
	       addr_equal(&reverse->addr, &p->key.saddr);
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

static __always_inline int flow_other_key(struct eg_flow_key *key,
					  const struct eg_flow *f, __u8 proto)
{
	return f->dir == EG_FLOW_FORWARD ? flow_reverse_key(key, f, proto)
					 : flow_forward_key(key, f, proto);
}

/* The other half of a flow, made from this one's packet. */
static __always_inline void flow_twin(struct eg_flow *twin, const struct pkt *p,
				      const struct eg_flow *f,
				      const struct eg_flow_key *key)
{
	int forward = f->dir == EG_FLOW_FORWARD;

	__builtin_memcpy(twin, f, sizeof(*twin));
	twin->tag = flow_tag(key);
	twin->dir = forward ? EG_FLOW_REVERSE : EG_FLOW_FORWARD;
	twin->addr = forward ? p->key.saddr : p->key.daddr;
	twin->port = forward ? p->key.sport : p->key.dport;
	twin->next = p->ack;
	if (forward) {
		twin->ifindex = p->ifindex;
		__builtin_memcpy(twin->dmac, p->smac, 6);
		__builtin_memcpy(twin->smac, p->dmac, 6);
	} else {
		twin->ifindex = 0;
		__builtin_memset(twin->dmac, 0, 6);
		__builtin_memset(twin->smac, 0, 6);
	}
}

/* The client now comes another way than it did. */
static __always_inline int flow_moved(const struct pkt *p,
				      const struct eg_flow *reverse)
{
	return !(reverse->ifindex == p->ifindex && mac_equal(reverse->dmac, p->smac) &&
		 mac_equal(reverse->smac, p->dmac));
}

/*
 * Once a second, or sooner (lib/haste.h), for each half that carries packets: is the
 * flow still in time, and is its other half there, its own, and up to date? Refreshing
 * both also keeps the hottest flows from looking idle to the LRU. Returns
 * FORWARD or a negative -1 - enum eg_miss.
 */
#define MISSED(miss) (-1 - (miss))

static __noinline int flow_refresh_pair(const struct pkt *p, struct eg_flow *f,
					__u32 now)
{
	struct eg_flow_key key;
	struct eg_flow *other;
	struct eg_flow twin;
	int forward = f->dir == EG_FLOW_FORWARD;

	if (flow_other_key(&key, f, p->key.proto))
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
	if (eg_dry_run)
		return FORWARD;
	f->seen = now;
	if (other && !forward) {
		/* What the backend acknowledges did arrive: the client's
		 * numbers are in window again, however many we missed. */
		if ((__s32)(p->ack - other->next) > 0)
			other->next = p->ack;
		return FORWARD;
	}
	if (other && !flow_moved(p, other))
		return FORWARD;

	/* It was evicted, or the client now comes another way. */
	flow_twin(&twin, p, f, &key);
	if (other) {
		twin.state = other->state;
		twin.seen = other->seen;
		twin.next = other->next;
	}
	if (bpf_map_update_elem(&eg_flows, &key, &twin,
				other ? BPF_EXIST : BPF_NOEXIST) &&
	    !other)
		return MISSED(EG_MISS_TAKEN);
	haste_note(1);
	return FORWARD;
}

static __always_inline int flow_refresh(const struct pkt *p, struct eg_flow *f,
					const struct eg_vip *v, __u32 now)
{
	if (v->forward == EG_FORWARD_NAT)
		return flow_refresh_pair(p, f, now);
	if (flow_expired(f, p->key.proto, now))
		return MISSED(EG_MISS_EXPIRED);
	if (!eg_dry_run)
		f->seen = now;
	return FORWARD;
}

/* A reset ends both directions: the other half's life is shortened too. */
static __noinline int flow_reset_other(const struct pkt *p, const struct eg_flow *f)
{
	struct eg_flow_key key;
	struct eg_flow *other;
	__u8 before;

	if (flow_other_key(&key, f, p->key.proto))
		return 0;
	other = bpf_map_lookup_elem(&eg_flows, &key);
	if (!other || !flow_same(f, other) || other->dir == f->dir)
		return 0;
	before = other->state;
	other->state = EG_FLOW_CLOSING;
	/* Only the forward half is counted, so that a flow is counted once. */
	return other->dir == EG_FLOW_FORWARD && before == EG_FLOW_OPEN;
}

/* A packet went by: the flow's state and what comes next. */
static __always_inline void flow_follow(const struct pkt *p, struct eg_flow *f,
					const struct eg_vip *v)
{
	__u8 before = f->state, state;
	int closed, opened, reset;

	if (p->key.proto != IPPROTO_TCP || eg_dry_run)
		return;
	/* Also where a FIN went before: the other half may not know yet. */
	reset = p->tcp_flags & TCP_RST && v->forward == EG_FORWARD_NAT &&
		seq_near(p->seq, f->next);
	state = flow_next_state(p, f);
	if ((__s32)(p->end - f->next) > 0 && seq_near(p->seq, f->next))
		f->next = p->end;
	if (state == before && !reset)
		return;
	f->state = state;
	closed = f->dir == EG_FLOW_FORWARD && state == EG_FLOW_CLOSING &&
		 before != state;
	opened = f->dir == EG_FLOW_FORWARD && state == EG_FLOW_OPEN && before != state;
	if (reset)
		closed |= flow_reset_other(p, f);
	if (closed)
		count_load(f->backend, -1, -1);
	if (opened)
		count_load(f->backend, 1, 1);
}

#endif
