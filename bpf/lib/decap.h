/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Reading an encapsulated packet: the outer header, GUE, the inner header,
 * and whether we may take it out. Nothing is written here. Each step returns
 * NONE to go on, or the enum eg_decap that the packet ends with.
 *
 * Headers are copied (bpf_skb_load_bytes) rather than pointed at: drivers put
 * as little as they like into the linear part of an skb, and the inner header
 * may begin 200 bytes into the packet.
 */
#ifndef EG_LIB_DECAP_H
#define EG_LIB_DECAP_H

/* The port that is registered with IANA for GUE. */
const volatile __u16 eg_gue_port = 6080;

struct outer {
	struct eg_addr saddr;
	struct eg_addr daddr;
	__u32 pos;  /* offset in the frame of what comes next */
	__u32 end;  /* offset behind the last byte that belongs to the packet */
	__u8 proto; /* of what comes next */
	__u8 ecn;
	__u8 v6;
	__u8 fragment;
	__u8 result; /* what to count when all goes well */
};

struct inner {
	struct eg_addr daddr;
	__u32 len;  /* as its header says */
	__u16 head; /* its first two bytes: they hold the ECN field */
	__u8 proto;
	__u8 ecn;
	__u8 v6;
};

static __always_inline void addr_from_ip4(struct eg_addr *a, __be32 ip)
{
	__u32 mapped = bpf_htonl(0xffff);

	__builtin_memset(a, 0, sizeof(*a));
	__builtin_memcpy(&a->b[8], &mapped, 4);
	__builtin_memcpy(&a->b[12], &ip, 4);
}

/* On the wire this form has no business; inside it means IPv4, and would
 * let an IPv6 packet match what was allowed to the other family. */
static __always_inline int ip6_is_mapped(const struct in6_addr *ip)
{
	return !ip->s6_addr32[0] && !ip->s6_addr32[1] &&
	       ip->s6_addr32[2] == bpf_htonl(0xffff);
}

/* RFC 791 section 3.1 */
static __always_inline int outer_ip4(struct __sk_buff *skb, struct outer *o)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return EG_DECAP_OTHER;
	if (ip.version != 4 || ip.ihl < 5)
		return EG_DECAP_OTHER;
	addr_from_ip4(&o->saddr, ip.saddr);
	addr_from_ip4(&o->daddr, ip.daddr);
	o->ecn = ip.tos & ECN_MASK;
	o->proto = ip.protocol;
	o->pos = ETH_HLEN + ip.ihl * 4;
	o->end = ETH_HLEN + bpf_ntohs(ip.tot_len);
	/* "more fragments", or an offset */
	o->fragment = !!(ip.frag_off & bpf_htons(0x3fff));
	/* A later fragment of a datagram does not say to which port. */
	if (o->proto == IPPROTO_UDP && ip.frag_off & bpf_htons(0x1fff))
		return EG_DECAP_OTHER;
	return EG_DECAP_NONE;
}

/* RFC 8200 sections 3 and 4.5. Of the extension headers only the fragment's
 * is known: encapsulators write no other (RFC 2473 section 4.1.1 allows one
 * option, which nobody needs within a data centre). */
static __always_inline int outer_ip6(struct __sk_buff *skb, struct outer *o)
{
	struct ipv6hdr ip;
	__u8 ext[8];

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return EG_DECAP_OTHER;
	if (ip.version != 6 || ip6_is_mapped(&ip.saddr) || ip6_is_mapped(&ip.daddr))
		return EG_DECAP_OTHER;
	__builtin_memcpy(&o->saddr, &ip.saddr, sizeof(o->saddr));
	__builtin_memcpy(&o->daddr, &ip.daddr, sizeof(o->daddr));
	o->v6 = 1;
	o->ecn = ip.flow_lbl[0] >> 4 & ECN_MASK;
	o->proto = ip.nexthdr;
	o->pos = ETH_HLEN + sizeof(ip);
	o->end = o->pos + bpf_ntohs(ip.payload_len);
	if (o->proto != IPPROTO_FRAGMENT)
		return EG_DECAP_NONE;

	if (bpf_skb_load_bytes(skb, o->pos, ext, sizeof(ext)))
		return EG_DECAP_OTHER;
	o->fragment = 1;
	o->proto = ext[0];
	o->pos += sizeof(ext);
	if (o->proto == IPPROTO_UDP && (ext[2] || ext[3] & 0xf8))
		return EG_DECAP_OTHER;
	return EG_DECAP_NONE;
}

/* Is it a tunnel's packet at all? */
static __always_inline int outer_read(struct __sk_buff *skb, struct outer *o)
{
	struct udphdr udp;
	int result;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		result = outer_ip4(skb, o);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		result = outer_ip6(skb, o);
	else
		return EG_DECAP_OTHER;
	if (result)
		return result;
	if (o->proto == IPPROTO_IPIP || o->proto == IPPROTO_IPV6)
		return EG_DECAP_NONE;
	if (o->proto != IPPROTO_UDP ||
	    bpf_skb_load_bytes(skb, o->pos, &udp, sizeof(udp)))
		return EG_DECAP_OTHER;
	return udp.dest == bpf_htons(eg_gue_port) ? EG_DECAP_NONE : EG_DECAP_OTHER;
}

/* Meant for this host, from somebody we listen to? */
static __always_inline int outer_admit(struct __sk_buff *skb, const struct outer *o)
{
	struct eg_dec_prefix from = {
		.bits = 8 * (sizeof(from) - sizeof(from.bits)),
		.ifindex = skb->ifindex,
		.addr = o->saddr,
	};
	struct eg_dec_addr to = {
		.ifindex = skb->ifindex,
		.addr = o->daddr,
	};
	__u32 *accept;

	if (!bpf_map_lookup_elem(&eg_dec_to, &to))
		return EG_DECAP_NOT_HERE;
	accept = bpf_map_lookup_elem(&eg_dec_from, &from);
	if (!accept || !*accept)
		return EG_DECAP_NOT_FROM;
	return EG_DECAP_NONE;
}

/*
 * draft-ietf-intarea-gue-09,
 * https://datatracker.ietf.org/doc/html/draft-ietf-intarea-gue-09 section 3 (variant 0)
 * and section 4 (variant 1).
 *
 * The UDP checksum is not looked at: the gateway sends none (RFC 6935 and RFC
 * 6936 permit that to tunnels over IPv6), and where another sender computes
 * one, what we deliver is still covered by the checksums inside.
 */
static __always_inline int gue_read(struct __sk_buff *skb, struct outer *o)
{
	struct udphdr udp;
	__u32 len;
	__u8 g[4];

	if (bpf_skb_load_bytes(skb, o->pos, &udp, sizeof(udp)))
		return EG_DECAP_MALFORMED;
	len = bpf_ntohs(udp.len);
	if (len < sizeof(udp) || o->pos + len > o->end)
		return EG_DECAP_MALFORMED;
	o->end = o->pos + len;
	o->pos += sizeof(udp);
	if (o->pos + sizeof(g) > o->end ||
	    bpf_skb_load_bytes(skb, o->pos, g, sizeof(g)))
		return EG_DECAP_MALFORMED;

	switch (g[0] >> 4) {
	case 4:
		o->result = EG_DECAP_GUE1;
		o->proto = IPPROTO_IPIP;
		return EG_DECAP_NONE;
	case 6:
		o->result = EG_DECAP_GUE1;
		o->proto = IPPROTO_IPV6;
		return EG_DECAP_NONE;
	}
	/* The version's two bits and the control bit are zero in a data packet
	 * of variant 0. A flag may say that the payload is a fragment, or was
	 * transformed: what we do not know, we do not guess. Bytes that no flag
	 * announces are the sender's private data, and skipped. */
	if (g[0] & 0xe0 || g[2] || g[3])
		return EG_DECAP_UNSUPPORTED;
	o->result = EG_DECAP_GUE;
	o->proto = g[1];
	o->pos += sizeof(g) + (g[0] & 0x1f) * 4;
	if (o->proto != IPPROTO_IPIP && o->proto != IPPROTO_IPV6)
		return EG_DECAP_UNSUPPORTED;
	return EG_DECAP_NONE;
}

static __always_inline int inner_ip4(struct __sk_buff *skb, const struct outer *o,
				     struct inner *in)
{
	struct iphdr ip;

	if (o->pos + sizeof(ip) > o->end ||
	    bpf_skb_load_bytes(skb, o->pos, &ip, sizeof(ip)))
		return EG_DECAP_MALFORMED;
	in->len = bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || ip.ihl < 5 || in->len < ip.ihl * 4)
		return EG_DECAP_MALFORMED;
	addr_from_ip4(&in->daddr, ip.daddr);
	__builtin_memcpy(&in->head, &ip, sizeof(in->head));
	in->ecn = ip.tos & ECN_MASK;
	in->proto = ip.protocol;
	return EG_DECAP_NONE;
}

static __always_inline int inner_ip6(struct __sk_buff *skb, const struct outer *o,
				     struct inner *in)
{
	struct ipv6hdr ip;

	if (o->pos + sizeof(ip) > o->end ||
	    bpf_skb_load_bytes(skb, o->pos, &ip, sizeof(ip)))
		return EG_DECAP_MALFORMED;
	if (ip.version != 6 || ip6_is_mapped(&ip.saddr) || ip6_is_mapped(&ip.daddr))
		return EG_DECAP_MALFORMED;
	in->len = sizeof(ip) + bpf_ntohs(ip.payload_len);
	__builtin_memcpy(&in->daddr, &ip.daddr, sizeof(in->daddr));
	__builtin_memcpy(&in->head, &ip, sizeof(in->head));
	in->ecn = ip.flow_lbl[0] >> 4 & ECN_MASK;
	in->proto = ip.nexthdr;
	in->v6 = 1;
	return EG_DECAP_NONE;
}

/* A whole packet inside, to one of our VIPs? */
static __always_inline int inner_read(struct __sk_buff *skb, const struct outer *o,
				      struct inner *in)
{
	struct eg_dec_addr vip = {.ifindex = skb->ifindex};
	int result;

	if (o->proto == IPPROTO_IPIP)
		result = inner_ip4(skb, o, in);
	else
		result = inner_ip6(skb, o, in);
	if (result)
		return result;
	if (in->len > o->end - o->pos)
		return EG_DECAP_MALFORMED;
	/* Datagrams of one GUE flow that were merged into a large one: only
	 * the first would be found. Merged TCP inside one tunnel packet has
	 * lengths that agree. */
	if (skb->gso_size && o->result >= EG_DECAP_GUE && in->len != o->end - o->pos)
		return EG_DECAP_COALESCED;
	vip.addr = in->daddr;
	if (!bpf_map_lookup_elem(&eg_dec_vips, &vip))
		return EG_DECAP_NOT_VIP;
	/* One layer is what the gateway adds. Taking one off a second would
	 * hand the stack a tunnel packet that its firewall never saw. */
	if (in->proto == IPPROTO_IPIP || in->proto == IPPROTO_IPV6)
		return EG_DECAP_NESTED;
	return EG_DECAP_NONE;
}

/* All of it; NONE: take it out. */
static __always_inline int decap_read(struct __sk_buff *skb, struct outer *o,
				      struct inner *in)
{
	int result = outer_read(skb, o);

	if (!result)
		result = outer_admit(skb, o);
	if (result)
		return result;
	if (o->fragment)
		return EG_DECAP_FRAGMENT;
	if (o->end < o->pos || o->end > skb->len)
		return EG_DECAP_MALFORMED;
	if (o->proto == IPPROTO_UDP)
		result = gue_read(skb, o);
	else if (o->v6)
		o->result = o->proto == IPPROTO_IPIP ? EG_DECAP_4IN6 : EG_DECAP_IP6IP6;
	else
		o->result = o->proto == IPPROTO_IPIP ? EG_DECAP_IPIP : EG_DECAP_6IN4;
	if (result)
		return result;
	return inner_read(skb, o, in);
}

#endif
