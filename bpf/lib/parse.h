/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * From bytes to struct pkt. Each step takes the cursor, moves it behind what
 * it read, and returns the next protocol or a negative reason. The addresses
 * are filled in first: a packet is refused only if it was meant for a VIP.
 */
#ifndef EG_LIB_PARSE_H
#define EG_LIB_PARSE_H

#define PARSED	  0
#define NOT_OURS  (-1) /* cannot be an L4 VIP's: the stack knows better */
#define MALFORMED (-2) /* headers that contradict the frame or each other */
#define FRAGMENT  (-3) /* not whole; l4 is IPv6's fragment header (frag.h) */
#define ICMP	  (-4) /* an ICMP or ICMPv6 error, whole */

struct cursor {
	void *pos;
	void *end; /* of the linear part */
	void *data;
	__u32 frame; /* bytes in the frame, linear or not */
	__u32 left;  /* bytes of L3 behind the cursor */
};

/* RFC 8200 section 4.1 knows six extension headers, one of them twice. */
#define EXT_HEADERS_MAX 7

/* Tags that are looked behind: IEEE 802.1Q, and 802.1ad with one inside. The
 * frame keeps them. */
#define VLAN_TAGS_MAX 2
#define VLAN_TAG_LEN  4

static __always_inline int is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

static __always_inline int parse_eth(struct cursor *c, struct pkt *p)
{
	struct ethhdr *eth = c->pos;
	__u32 header = ETH_HLEN;
	__be16 type, *inner;
	int i;

	p->len = c->frame > ETH_HLEN ? c->frame - ETH_HLEN : 0;
	if ((void *)(eth + 1) > c->end)
		return NOT_OURS;
	/* A group address: were a VIP's packet sent to many hosts, each would
	 * forward its copy. */
	if (eth->h_dest[0] & 1)
		return NOT_OURS;
	__builtin_memcpy(p->dmac, eth->h_dest, 6);
	__builtin_memcpy(p->smac, eth->h_source, 6);
	type = eth->h_proto;
	c->pos = eth + 1;
#pragma unroll
	for (i = 0; i < VLAN_TAGS_MAX; i++) {
		if (!is_vlan(type))
			break;
		inner = c->pos + 2;
		if ((void *)(inner + 1) > c->end)
			return NOT_OURS;
		type = *inner;
		c->pos += VLAN_TAG_LEN;
		header += VLAN_TAG_LEN;
	}
	p->len = c->frame > header ? c->frame - header : 0;
	p->l3 = header;
	c->left = p->len;
	return bpf_ntohs(type);
}

/* RFC 791 section 3.1 */
static __always_inline int parse_ip4(struct cursor *c, struct pkt *p)
{
	struct iphdr *ip = c->pos;
	__u32 mapped = bpf_htonl(0xffff);
	__u32 header, total;

	if ((void *)(ip + 1) > c->end || ip->version != 4)
		return NOT_OURS;
	__builtin_memcpy(&p->key.saddr.b[8], &mapped, 4);
	__builtin_memcpy(&p->key.saddr.b[12], &ip->saddr, 4);
	__builtin_memcpy(&p->key.daddr.b[8], &mapped, 4);
	__builtin_memcpy(&p->key.daddr.b[12], &ip->daddr, 4);
	p->ttl = ip->ttl;
	p->tos = ip->tos;

	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (header < sizeof(*ip) || total < header || total > c->left)
		return MALFORMED;
	p->len = total;
	/* "more fragments", or an offset */
	if (ip->frag_off & bpf_htons(0x3fff)) {
		p->l4 = p->l3 + header;
		return FRAGMENT;
	}
	c->left = total - header;
	c->pos += header;
	return ip->protocol;
}

/* RFC 8200 sections 3 and 4 */
static __always_inline int parse_ip6(struct cursor *c, struct pkt *p)
{
	struct ipv6hdr *ip = c->pos;
	__u32 payload, off, size;
	__u8 next, *ext;
	int i;

	if ((void *)(ip + 1) > c->end || ip->version != 6)
		return NOT_OURS;
	__builtin_memcpy(&p->key.saddr, &ip->saddr, 16);
	__builtin_memcpy(&p->key.daddr, &ip->daddr, 16);
	/* Inside, this form means IPv4. On the wire it has no business, and
	 * would reach an IPv4 VIP's flows by a packet of the other family. */
	if (addr_is_mapped(&p->key.saddr) || addr_is_mapped(&p->key.daddr))
		return NOT_OURS;
	p->v6 = 1;
	p->ttl = ip->hop_limit;
	p->tos = bpf_ntohs(*(__be16 *)ip) >> 4;

	payload = bpf_ntohs(ip->payload_len);
	if (c->left < sizeof(*ip) || payload > c->left - sizeof(*ip))
		return MALFORMED;
	p->len = payload + sizeof(*ip);
	next = ip->nexthdr;
	off = p->l3 + sizeof(*ip);

	for (i = 0; i < EXT_HEADERS_MAX; i++) {
		if (next == IPPROTO_TCP || next == IPPROTO_UDP ||
		    next == IPPROTO_ICMPV6)
			break;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			return NOT_OURS;
		ext = c->data + off;
		if ((void *)(ext + 8) > c->end || payload < 8)
			return payload < 8 ? MALFORMED : NOT_OURS;
		if (next == IPPROTO_FRAGMENT) {
			/* An atomic fragment is a whole packet, RFC 6946
			 * section 4; the two reserved bits do not count. */
			if (ext[2] || ext[3] & 0xf9) {
				p->l4 = off;
				return FRAGMENT;
			}
			size = 8;
		} else {
			/* We are not the last stop of a source route: the
			 * checksum covers another destination. */
			if (next == IPPROTO_ROUTING && ext[3])
				return NOT_OURS;
			size = 8 + ext[1] * 8;
		}
		if (size > payload)
			return MALFORMED;
		next = ext[0];
		payload -= size;
		off += size;
	}
	if (next != IPPROTO_TCP && next != IPPROTO_UDP && next != IPPROTO_ICMPV6)
		return MALFORMED;
	c->left = payload;
	c->pos = c->data + off;
	return next;
}

/* RFC 9293 section 3.1 */
static __always_inline int parse_tcp(struct cursor *c, struct pkt *p)
{
	struct tcphdr *tcp = c->pos;
	__u32 header;

	if (c->left < sizeof(*tcp))
		return MALFORMED;
	if ((void *)(tcp + 1) > c->end)
		return NOT_OURS;
	header = tcp->doff * 4;
	if (header < sizeof(*tcp) || header > c->left)
		return MALFORMED;
	p->key.sport = tcp->source;
	p->key.dport = tcp->dest;
	p->tcp_flags = ((__u8 *)tcp)[13];
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack_seq);
	p->end = p->seq + c->left - header;
	/* RFC 9293 section 3.4: SYN and FIN take a number each. */
	p->end += (p->tcp_flags & TCP_SYN) / TCP_SYN + (p->tcp_flags & TCP_FIN);
	return PARSED;
}

/* RFC 768. Bytes behind the UDP length are the sender's business. */
static __always_inline int parse_udp(struct cursor *c, struct pkt *p)
{
	struct udphdr *udp = c->pos;
	__u32 len;

	if (c->left < sizeof(*udp))
		return MALFORMED;
	if ((void *)(udp + 1) > c->end)
		return NOT_OURS;
	len = bpf_ntohs(udp->len);
	if (len < sizeof(*udp) || len > c->left)
		return MALFORMED;
	p->key.sport = udp->source;
	p->key.dport = udp->dest;
	return PARSED;
}

/* Errors alone: RFC 1122 section 3.2.2 and RFC 4443 section 2.1. Questions,
 * echo and neighbour discovery among them, are the stack's to answer. */
static __always_inline int parse_icmp(struct cursor *c, const struct pkt *p)
{
	__u8 *type = c->pos;

	if ((void *)(type + 8) > c->end || c->left < 8)
		return NOT_OURS;
	if (p->v6)
		return *type && *type < 128 ? ICMP : NOT_OURS;
	return *type == 3 || *type == 11 || *type == 12 ? ICMP : NOT_OURS;
}

static __always_inline int parse(void *data, void *data_end, __u32 frame, struct pkt *p)
{
	struct cursor c = {
		.pos = data,
		.end = data_end,
		.data = data,
		.frame = frame,
	};
	int proto = parse_eth(&c, p);

	if (proto == ETH_P_IP)
		proto = parse_ip4(&c, p);
	else if (proto == ETH_P_IPV6)
		proto = parse_ip6(&c, p);
	else
		return NOT_OURS;

	if (proto < 0)
		return proto;
	p->key.proto = proto;
	p->l4 = c.pos - data;
	if (proto == IPPROTO_TCP)
		return parse_tcp(&c, p);
	if (proto == IPPROTO_UDP)
		return parse_udp(&c, p);
	if (proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return parse_icmp(&c, p);
	return NOT_OURS;
}

#endif
