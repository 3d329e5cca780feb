/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Who may send, how much, and what no honest client sends. Called where a
 * packet is known to be a VIP's: guard_new() before a flow is opened,
 * guard_hit() for packets of a flow that counts. So what is not a VIP's never
 * comes here. Uses the guards' maps.
 *
 * What is always on looks nothing up on a hit. The rest is asked for by flags
 * of the VIP, which every path has read already: it can be turned on and off
 * while packets pass, and costs a bit test while it is off.
 */
#ifndef EG_LIB_GUARD_H
#define EG_LIB_GUARD_H

/* Flags that make a client's packet worth a look beyond its own headers, and
 * those of them that need the source's entry. */
#define GUARD_CLIENT                                                                   \
	(EG_VIP_GUARD_PREFIX | EG_VIP_GUARD_PACKETS | EG_VIP_GUARD_UDP |               \
	 EG_VIP_GUARD_AMPLIFY)
#define GUARD_UDP (EG_VIP_GUARD_UDP | EG_VIP_GUARD_AMPLIFY)

/* Bytes of replies that a source may get beyond the factor, again every
 * AMPLIFY_FORGIVES_S. A victim of forged requests gets some 400 bytes a second
 * of it at worst. 4 KiB because a first answer of DNS is at most that long
 * (RFC 6891 section 6.2.5 names 4096 bytes), however short the question. */
#define AMPLIFY_ALLOWANCE  4096
#define AMPLIFY_FORGIVES_S 10
/* Credit that a source may have saved, in bytes: when it is reached, asking
 * more saves no more. Otherwise a day of honest questions would be a flood's
 * worth of answers to whoever forges that source. */
#define AMPLIFY_CREDIT (1 << 20)

/* RFC 9293 section 3.10.7.4: "if the ACK bit is off, drop the segment and
 * return" holds for all but SYN and RST, which covers the null, FIN and Xmas
 * scans. SYN with FIN or RST opens and closes at once, which nothing does. A
 * SYN with data is TCP Fast Open (RFC 7413) and fine. */
static __always_inline int guard_bad_flags(const struct pkt *p)
{
	__u8 flags = p->tcp_flags;

	if (p->key.proto != IPPROTO_TCP)
		return 0;
	return !(flags & (TCP_SYN | TCP_RST | TCP_ACK)) |
	       ((flags & TCP_SYN) && (flags & (TCP_FIN | TCP_RST)));
}

/* IPv4 source that cannot be a client's, in host byte order. RFC 1122 section
 * 3.2.1.3: "A host MUST silently discard an incoming datagram containing an IP
 * source address that is invalid by the rules of this section": network 0,
 * loopback, groups, broadcast. Class E is reserved (RFC 1112 section 4). RFC
 * 3927 section 7: a link-local packet is not forwarded to another link. */
static __always_inline int guard_bad_ip4(__u32 source, __u32 vip)
{
	if (source >> 24 == 0 || source >> 24 == 127)
		return 1; /* "this host", loopback */
	if (source >> 28 >= 14)
		return 1; /* multicast, reserved, broadcast */
	return source >> 16 == 0xa9fe && vip >> 16 != 0xa9fe; /* link-local */
}

/* The same for IPv6, by RFC 4291. ::/96 holds the unspecified address (section
 * 2.5.2), loopback (2.5.3) and the withdrawn IPv4-compatible ones (2.5.5.1);
 * groups are never a source (2.7), link-local is not forwarded (2.5.6). */
static __always_inline int guard_bad_ip6(const struct eg_addr *source,
					 const struct eg_addr *vip)
{
	__u32 top = bpf_ntohl(addr_word(source, 0));

	if (!(top | addr_word(source, 1) | addr_word(source, 2)))
		return 1;
	if (top >> 24 == 0xff)
		return 1; /* multicast */
	return top >> 22 == 0x3fa && bpf_ntohl(addr_word(vip, 0)) >> 22 != 0x3fa;
}

/* Nobody on the wire is one of our VIPs: answering such a packet would send a
 * VIP's answer to a VIP, in a circle (the "land" attack), or through the
 * wrong node. */
static __always_inline int guard_source_is_vip(const struct pkt *p)
{
	return !!(vip_address(&p->key.saddr) & EG_ADDR_VIP);
}

static __always_inline int guard_bad_source(const struct pkt *p)
{
	if (p->v6 ? guard_bad_ip6(&p->key.saddr, &p->key.daddr)
		  : guard_bad_ip4(bpf_ntohl(addr_word(&p->key.saddr, 3)),
				  bpf_ntohl(addr_word(&p->key.daddr, 3))))
		return 1;
	return guard_source_is_vip(p);
}

/* A function of its own so that struct eg_prefix is in the object's type
 * information. */
static __noinline int guard_prefix_find(const struct eg_prefix *key)
{
	__u32 zero = 0, *verdict;
	void *trie;

	trie = bpf_map_lookup_elem(&eg_prefixes, &zero);
	if (!trie)
		return EG_PREFIX_ALLOW;
	verdict = bpf_map_lookup_elem(trie, key);
	return verdict ? *verdict : EG_PREFIX_ALLOW;
}

static __always_inline int guard_prefix(const struct pkt *p)
{
	struct eg_prefix key = {.len = 128, .addr = p->key.saddr};
	int verdict = guard_prefix_find(&key);

	if (verdict == EG_PREFIX_DENY)
		return EG_DROP_DENIED;
	return verdict == EG_PREFIX_OTHER ? EG_DROP_NOT_ALLOWED : FORWARD;
}

static __always_inline struct eg_guards *guard_conf(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&eg_guard_conf, &zero);
}

/* The entry of this address's source, made if need be. NULL if the table
 * would not take one: we let the packet pass then, since a table that cannot
 * remember a source must not cost an honest one its service. */
static __always_inline struct eg_source *guard_source(const struct eg_guards *g,
						      const struct eg_addr *addr)
{
	const struct eg_addr *mask = addr_is_mapped(addr) ? &g->mask4 : &g->mask6;
	struct eg_source fresh = {}, *source;
	struct eg_addr key;
	__u32 word;
	int i;

	for (i = 0; i < 4; i++) {
		word = addr_word(addr, i) & addr_word(mask, i);
		__builtin_memcpy(&key.b[4 * i], &word, sizeof(word));
	}
	source = bpf_map_lookup_elem(&eg_sources, &key);
	if (eg_dry_run) {
		/* What is taken now is taken from a copy. */
		explained_source = source ? *source : fresh;
		return &explained_source;
	}
	if (source)
		return source;
	/* The other CPU's, if it was faster. */
	bpf_map_update_elem(&eg_sources, &key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&eg_sources, &key);
}

/*
 * A token bucket as one number: when it will be full again. Taking one adds a
 * step to that, and may not move it more than a window (the burst's steps)
 * beyond now. What is refused takes nothing. Plain loads and stores: of CPUs
 * that take at the same instant only one is counted, so a source whose packets
 * are spread over n CPUs may at worst have n times its rate. One flow's packets
 * come by one CPU, and are counted exactly.
 */
static __always_inline int guard_take(__u64 *full, const struct eg_bucket *b, __u64 now,
				      __u32 count)
{
	__u64 cost = count * (__u64)b->step, at = *full;

	/* A train longer than the burst needs a full bucket, and empties it. */
	if (cost > b->window)
		cost = b->window;

	if (at < now)
		at = now;
	/* Empty under limits that hold no more: empty under these, too, and
	 * from now on filled by their measure. */
	if (at > now + b->window)
		*full = at = now + b->window;
	if (at + cost > now + b->window)
		return 0;
	*full = at + cost;
	return 1;
}

static __always_inline __u64 guard_now(void)
{
	return clock_jiffies() << EG_GUARD_TICK_SHIFT;
}

/* Adds to what a source owes for the replies that it got: above zero it has
 * had more than the factor allows. Debt is forgiven now and then, credit is
 * not, nor grown beyond its bound. */
static __always_inline void guard_owe(struct eg_source *s, __s64 bytes)
{
	__u32 now = (__u32)clock_jiffies();
	__s64 debt = s->debt;

	if (now - s->forgiven >= AMPLIFY_FORGIVES_S * eg_jiffies_hz) {
		s->forgiven = now;
		if (debt > 0)
			debt = 0;
	}
	debt += bytes;
	s->debt = debt < -AMPLIFY_CREDIT ? -AMPLIFY_CREDIT : debt;
}

/* A client's packet against its source's limits. */
static __noinline int guard_rates(const struct pkt *p, __u32 flags, __u32 opens)
{
	int udp = p->key.proto == IPPROTO_UDP;
	struct eg_guards *g = guard_conf();
	__u64 now = guard_now();
	struct eg_source *s;

	if (!g)
		return FORWARD;
	s = guard_source(g, &p->key.saddr);
	if (!s)
		return FORWARD;
	if (flags & EG_VIP_GUARD_PACKETS &&
	    !guard_take(&s->packets, &g->packets, now, pkt_segs(p)))
		return EG_DROP_SOURCE_RATE;
	if (udp && flags & EG_VIP_GUARD_UDP &&
	    !guard_take(&s->udp, &g->udp, now, pkt_segs(p)))
		return EG_DROP_UDP_RATE;
	if (opens && flags & EG_VIP_GUARD_FLOWS &&
	    !guard_take(&s->flows, &g->flows, now, 1))
		return EG_DROP_FLOW_RATE;
	if (udp && flags & EG_VIP_GUARD_AMPLIFY)
		guard_owe(s, -(__s64)((__u64)p->len * g->amplification));
	return FORWARD;
}

/* A reply to a source that has asked for less than it got? A forged request
 * cannot be told from an honest one by anything that UDP says, so this bounds
 * what any source gets, as QUIC does before it has validated an address
 * (RFC 9000 section 8.1). */
static __noinline int guard_reply(const struct pkt *p, const struct eg_addr *client)
{
	struct eg_guards *g = guard_conf();
	struct eg_source *s;

	if (!g)
		return FORWARD;
	s = guard_source(g, client);
	if (!s)
		return FORWARD;
	guard_owe(s, 0);
	if (s->debt + p->len > AMPLIFY_ALLOWANCE)
		return EG_DROP_AMPLIFICATION;
	guard_owe(s, p->len);
	return FORWARD;
}

/* The guards that a VIP's flags ask for, once for each packet: what opens a
 * flow comes by again as its first hit. */
static __noinline int guard_client(struct pkt *p, __u32 flags, __u32 opens)
{
	__u32 rates = EG_VIP_GUARD_PACKETS | (opens ? EG_VIP_GUARD_FLOWS : 0);
	int verdict;

	if (p->guarded)
		return FORWARD;
	p->guarded = 1;
	if (flags & EG_VIP_GUARD_PREFIX) {
		verdict = guard_prefix(p);
		if (verdict != FORWARD)
			return verdict;
	}
	if (p->key.proto == IPPROTO_UDP)
		rates |= GUARD_UDP;
	return flags & rates ? guard_rates(p, flags, opens) : FORWARD;
}

/* A packet that would open a flow to this VIP. TCP that cannot open one is
 * refused by the caller for that, which is cheaper than any of these. */
static __noinline int guard_new(struct pkt *p, const struct eg_vip *vip)
{
	__u32 flags = vip->flags;

	if (guard_bad_flags(p))
		return EG_DROP_BAD_FLAGS;
	if (p->key.proto == IPPROTO_TCP && !tcp_opens(p) &&
	    vip->forward == EG_FORWARD_NAT)
		return FORWARD;
	/* An answer to it could not be received. */
	if (!p->key.sport)
		return EG_DROP_PORT_ZERO;
	if (guard_bad_source(p))
		return EG_DROP_BAD_SOURCE;
	if (flags & (GUARD_CLIENT | EG_VIP_GUARD_FLOWS))
		return guard_client(p, flags, 1);
	return FORWARD;
}

/* A packet of a flow that counts. Its source was judged when it began. */
static __always_inline int guard_hit(struct pkt *p, const struct eg_vip *vip,
				     const struct eg_flow *f)
{
	__u32 flags = vip->flags;

	if (f->dir == EG_FLOW_REVERSE)
		return flags & EG_VIP_GUARD_AMPLIFY && p->key.proto == IPPROTO_UDP
			       ? guard_reply(p, &f->addr)
			       : FORWARD;
	if (guard_bad_flags(p))
		return EG_DROP_BAD_FLAGS;
	return flags & GUARD_CLIENT ? guard_client(p, flags, 0) : FORWARD;
}

#endif
