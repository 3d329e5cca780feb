/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Outer headers: IP in IP (RFC 2003), IPv6 tunnels (RFC 2473), and Generic
 * UDP Encapsulation (draft-ietf-intarea-gue section 3, variant 0 without
 * options). What both writers share: how much room, and what goes there.
 */
#ifndef EG_LIB_ENCAP_H
#define EG_LIB_ENCAP_H

#define IP4_LEN 20
#define IP6_LEN 40
#define GUE_LEN 4

/* RFC 2003 section 3.1 leaves the number open: 64 is what hosts send by
 * default (the IANA's recommendation in the IP parameters registry). */
#define OUTER_TTL 64

struct guehdr {
	__u8 version_hlen; /* variant 0, data message, no options */
	__u8 proto;
	__be16 flags;
};

static __always_inline __u32 encap_room(__u8 mode, __u8 outer6)
{
	if (mode == EG_FORWARD_IPIP)
		return outer6 ? IP6_LEN : IP4_LEN;
	if (mode == EG_FORWARD_GUE)
		return (outer6 ? IP6_LEN : IP4_LEN) + sizeof(struct udphdr) + GUE_LEN;
	return 0;
}

static __always_inline __u8 encap_inner_proto(const struct pkt *p)
{
	return p->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
}

/* RFC 2003 section 3.1: DF, since path MTU discovery is ours to do; then the
 * identification means nothing (RFC 6864 section 4.1). RFC 6040 section 4.1,
 * normal mode: ECN is copied, and so is the DSCP (RFC 2983, uniform). */
static __always_inline void encap_ip4(struct iphdr *ip, const struct pkt *p,
				      const struct forward *fw, __u32 len, __u8 proto)
{
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = p->tos;
	ip->tot_len = bpf_htons(len);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = OUTER_TTL;
	ip->protocol = proto;
	ip->check = 0;
	__builtin_memcpy(&ip->saddr, &fw->saddr.b[12], 4);
	__builtin_memcpy(&ip->daddr, &fw->daddr.b[12], 4);
	ip->check = csum_fold(csum_header(ip));
}

/* RFC 6438 section 3: the flow label carries the flow's entropy. */
static __always_inline void encap_ip6(struct ipv6hdr *ip, const struct pkt *p,
				      const struct forward *fw, __u32 len, __u8 proto)
{
	__be32 first = bpf_htonl(6u << 28 | (__u32)p->tos << 20 | bpf_ntohs(fw->sport));

	__builtin_memcpy(ip, &first, 4);
	ip->payload_len = bpf_htons(len - IP6_LEN);
	ip->nexthdr = proto;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &fw->saddr, 16);
	__builtin_memcpy(&ip->daddr, &fw->daddr, 16);
}

/* No checksum: the inner packet has its own, and RFC 6935 section 5 allows
 * its absence in tunnels over IPv6. */
static __always_inline void encap_gue(struct udphdr *udp, const struct pkt *p,
				      const struct forward *fw, __u32 inner)
{
	struct guehdr *gue = (void *)(udp + 1);

	udp->source = fw->sport;
	udp->dest = fw->dport;
	udp->len = bpf_htons(inner + sizeof(*udp) + GUE_LEN);
	udp->check = 0;
	gue->version_hlen = 0;
	gue->proto = encap_inner_proto(p);
	gue->flags = 0;
}

/* All of it at `l3`, around `inner` bytes; not 0 if the room is not there. */
static __always_inline int encap_write(void *l3, void *data_end, const struct pkt *p,
				       const struct forward *fw, __u32 inner)
{
	__u32 len = inner + encap_room(fw->mode, fw->outer6);
	int gue = fw->mode == EG_FORWARD_GUE;
	__u8 proto = gue ? IPPROTO_UDP : encap_inner_proto(p);

	if (fw->outer6) {
		if (l3 + IP6_LEN > data_end)
			return -1;
		encap_ip6(l3, p, fw, len, proto);
		l3 += IP6_LEN;
	} else {
		if (l3 + IP4_LEN > data_end)
			return -1;
		encap_ip4(l3, p, fw, len, proto);
		l3 += IP4_LEN;
	}
	if (!gue)
		return 0;
	if (l3 + sizeof(struct udphdr) + GUE_LEN > data_end)
		return -1;
	encap_gue(l3, p, fw, inner);
	return 0;
}

#endif
