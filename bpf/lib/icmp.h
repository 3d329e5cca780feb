/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * ICMP errors about flows. The packet that the error quotes went the other
 * way, so the flow is found under the quoted ends turned round: its forward
 * half if the client, or a router on its side, complains about a reply; its
 * reverse half if the backend's side complains about what we sent there. RFC
 * 5508 section 4.2 says what a translator must rewrite.
 */
#ifndef EG_LIB_ICMP_H
#define EG_LIB_ICMP_H

#define ICMP_LEN 8
/* RFC 1191 section 4, RFC 4443 section 3.2. */
#define ICMP4_UNREACHABLE 3
#define ICMP4_FRAG_NEEDED 4
#define ICMP6_TOO_BIG	  2

static __always_inline void quote_ip4_addrs(struct quote *q, const struct iphdr *ip)
{
	__u32 mapped = bpf_htonl(0xffff);

	__builtin_memcpy(&q->key.saddr.b[8], &mapped, 4);
	__builtin_memcpy(&q->key.saddr.b[12], &ip->daddr, 4);
	__builtin_memcpy(&q->key.daddr.b[8], &mapped, 4);
	__builtin_memcpy(&q->key.daddr.b[12], &ip->saddr, 4);
}

/* RFC 792 quotes the IP header and eight bytes: ports, for TCP and UDP. */
static __always_inline int quote_parse(void *data, void *data_end, const struct pkt *p,
				       struct quote *q)
{
	void *icmp = data + (p->l4 & L4_OFFSET_MAX);
	void *l3 = icmp + ICMP_LEN, *l4;
	struct ipv6hdr *ip6 = l3;
	struct iphdr *ip = l3;
	__u8 *head = icmp;
	__be16 *ports;
	__u32 len;

	if (l3 > data_end)
		return -1;
	q->l3 = p->l4 + ICMP_LEN;
	if (p->v6) {
		if ((void *)(ip6 + 1) > data_end)
			return -1;
		q->key.saddr = *(struct eg_addr *)&ip6->daddr;
		q->key.daddr = *(struct eg_addr *)&ip6->saddr;
		/* As in parse_ip6(): not a way to an IPv4 flow. */
		if (addr_is_mapped(&q->key.saddr) || addr_is_mapped(&q->key.daddr))
			return -1;
		q->proto = ip6->nexthdr;
		len = sizeof(*ip6);
		if (head[0] == ICMP6_TOO_BIG)
			q->mtu = bpf_ntohs(*(__be16 *)(icmp + 6));
	} else {
		if ((void *)(ip + 1) > data_end)
			return -1;
		quote_ip4_addrs(q, ip);
		q->proto = ip->protocol;
		len = ip->ihl * 4;
		if (len < sizeof(*ip) || ip->frag_off & bpf_htons(0x1fff))
			return -1;
		if (head[0] == ICMP4_UNREACHABLE && head[1] == ICMP4_FRAG_NEEDED)
			q->mtu = bpf_ntohs(*(__be16 *)(icmp + 6));
	}
	q->l4 = q->l3 + len;
	l4 = l3 + len;
	ports = l4;
	if ((void *)(ports + 4) > data_end)
		return -1;
	q->key.sport = ports[1];
	q->key.dport = ports[0];
	q->key.proto = q->proto;
	return 0;
}

/* Is this address one that outer headers take from the operator's prefix? */
static __always_inline int icmp_is_outer(const struct eg_addr *addr)
{
	struct eg_conf *conf;
	__u32 zero = 0, bits;
	const struct eg_addr *prefix;
	int v4 = addr_is_mapped(addr);
	__u32 mask;

	conf = bpf_map_lookup_elem(&eg_conf, &zero);
	if (!conf)
		return 0;
	bits = v4 ? conf->outer4_bits : conf->outer6_bits;
	prefix = v4 ? &conf->outer4 : &conf->outer6;
	if (!bits)
		return 0;
	mask = bits >= 32 ? 0 : ~0u << bits;
	return addr_word(addr, 0) == addr_word(prefix, 0) &&
	       addr_word(addr, 1) == addr_word(prefix, 1) &&
	       addr_word(addr, 2) == addr_word(prefix, 2) &&
	       !((addr_word(addr, 3) ^ addr_word(prefix, 3)) & bpf_htonl(mask));
}

static __always_inline int quote_is_outer(const struct quote *q)
{
	return q->proto == IPPROTO_IPIP || q->proto == IPPROTO_IPV6 ||
	       q->proto == IPPROTO_UDP;
}

/*
 * An error about an outer header of ours. The process lowers the MTU that it
 * keeps for the backend; the client learns of it by its next packet that does
 * not fit, from us and with its own header quoted, which the routers of RFC
 * 792 do not quote far enough to do at once (RFC 2003 section 4).
 */
static __always_inline int icmp_outer(struct pkt *p, const struct quote *q)
{
	struct eg_addr at = p->key.daddr;

	if (!q->mtu || !quote_is_outer(q))
		return PASS;
	p->key.daddr = q->key.saddr;
	event_send(p, EG_EVENT_MTU, q->mtu);
	p->key.daddr = at;
	return PASS;
}

/* Which flow is it about? eg_opening counts: refusals are errors too. */
static __always_inline struct eg_flow *icmp_flow(const struct quote *q)
{
	struct eg_flow *f = bpf_map_lookup_elem(&eg_flows, &q->key);

	return f ? f : bpf_map_lookup_elem(&eg_opening, &q->key);
}

/* FORWARD, PASS, or an enum eg_drop. */
static __always_inline int icmp_decide(struct pkt *p, struct quote *q,
				       struct forward *fw, __u8 *dir)
{
	struct eg_backend *b;
	struct eg_flow *f;
	struct eg_vip *v;
	__u32 vip, backend;

	if (q->proto != IPPROTO_TCP && q->proto != IPPROTO_UDP)
		return icmp_outer(p, q);
	f = icmp_flow(q);
	if (!f)
		return vip_address(&p->key.daddr) & EG_ADDR_SOURCE ||
				       icmp_is_outer(&p->key.daddr)
			       ? icmp_outer(p, q)
			       : PASS;
	vip = f->vip;
	backend = f->backend;
	v = bpf_map_lookup_elem(&eg_vips, &vip);
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!v || !b || v->epoch != f->epoch || b->generation != f->generation ||
	    b->state == EG_BACKEND_NONE)
		return PASS;
	*dir = f->dir;
	if (f->dir == EG_FLOW_REVERSE)
		decide_back(f, v, fw);
	else
		decide_out(f, v, b, fw);
	if (!flow_is(f, &q->key))
		return PASS;
	p->vip = vip;
	p->backend = backend;
	if (p->ttl <= TTL_LAST)
		return EG_DROP_TTL;
	if (!fw->ifindex)
		return EG_DROP_NO_NEXT_HOP;
	return FORWARD;
}

/*
 * Rewrite an error under nat. The quoted ends become those that the receiver
 * knows; the error goes on to where the packet came from. It keeps its own
 * source, the router that complains, unless that is the backend, which the
 * client knows as the VIP.
 */
static __always_inline int icmp_write4(void *data, void *data_end, const struct pkt *p,
				       const struct quote *q, const struct forward *fw,
				       int from_backend)
{
	struct iphdr *ip = data + (p->l3 & L3_OFFSET_MAX);
	struct iphdr *inner = data + (q->l3 & L4_OFFSET_MAX);
	__be16 *ports = data + (q->l4 & L4_OFFSET_MAX);
	__be16 *icmp = data + (p->l4 & L4_OFFSET_MAX);
	__be32 from, to, source = 0;
	__u64 addrs, outer;

	if ((void *)(ip + 1) > data_end || (void *)(inner + 1) > data_end ||
	    (void *)(ports + 2) > data_end || (void *)(icmp + 4) > data_end)
		return -1;
	/* who receives it sent `from` what we know as `to` */
	__builtin_memcpy(&from, &fw->daddr.b[12], 4);
	__builtin_memcpy(&to, &fw->saddr.b[12], 4);
	addrs = csum_word(inner->saddr, from) + csum_word(inner->daddr, to);
	inner->check = csum_apply(inner->check, addrs);
	inner->saddr = from;
	inner->daddr = to;
	/* The quoted header's words still add up to what they did: only the
	 * ports change the sum over the message. */
	icmp[1] = csum_apply(icmp[1], csum_half(ports[0], fw->dport) +
					      csum_half(ports[1], fw->sport));
	ports[0] = fw->dport;
	ports[1] = fw->sport;

	outer = csum_half(bpf_htons(0x100), 0) + csum_word(ip->daddr, from);
	ip->ttl--;
	ip->daddr = from;
	if (from_backend) {
		source = to;
		outer += csum_word(ip->saddr, source);
		ip->saddr = source;
	}
	ip->check = csum_apply(ip->check, outer);
	return 0;
}

static __always_inline int icmp_write6(void *data, void *data_end, const struct pkt *p,
				       const struct quote *q, const struct forward *fw,
				       int from_backend)
{
	struct ipv6hdr *ip = data + (p->l3 & L3_OFFSET_MAX);
	struct ipv6hdr *inner = data + (q->l3 & L4_OFFSET_MAX);
	__be16 *ports = data + (q->l4 & L4_OFFSET_MAX);
	__be16 *icmp = data + (p->l4 & L4_OFFSET_MAX);
	__u64 delta;

	if ((void *)(ip + 1) > data_end || (void *)(inner + 1) > data_end ||
	    (void *)(ports + 2) > data_end || (void *)(icmp + 4) > data_end)
		return -1;
	/* the quote, and the pseudo-header of RFC 4443 section 2.3 */
	delta = csum_addr((struct eg_addr *)&inner->saddr, &fw->daddr, 1) +
		csum_addr((struct eg_addr *)&inner->daddr, &fw->saddr, 1) +
		csum_half(ports[0], fw->dport) + csum_half(ports[1], fw->sport);
	icmp[1] = csum_apply(icmp[1], delta);
	delta = csum_addr((struct eg_addr *)&ip->daddr, &fw->daddr, 1);
	if (from_backend)
		delta += csum_addr((struct eg_addr *)&ip->saddr, &fw->saddr, 1);
	icmp[1] = csum_apply(icmp[1], delta);
	__builtin_memcpy(&inner->saddr, &fw->daddr, 16);
	__builtin_memcpy(&inner->daddr, &fw->saddr, 16);
	ports[0] = fw->dport;
	ports[1] = fw->sport;
	ip->hop_limit--;
	__builtin_memcpy(&ip->daddr, &fw->daddr, 16);
	if (from_backend)
		__builtin_memcpy(&ip->saddr, &fw->saddr, 16);
	return 0;
}

static __always_inline int icmp_write(void *data, void *data_end, const struct pkt *p,
				      const struct quote *q, const struct forward *fw,
				      __u8 dir)
{
	int from_backend =
		dir == EG_FLOW_REVERSE && addr_equal(&p->key.saddr, &q->key.saddr);

	return p->v6 ? icmp_write6(data, data_end, p, q, fw, from_backend)
		     : icmp_write4(data, data_end, p, q, fw, from_backend);
}

#endif
