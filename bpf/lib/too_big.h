/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * "Too big": what a router would say where a packet does not fit the way to
 * its backend (RFC 1191 section 4, RFC 4443 section 3.2). It comes from the
 * VIP, since that is whom the client sent to. Sent for IPv4 without DF as
 * well, which a router would fragment and we do not: a sender that hears it
 * sends smaller fragments itself.
 */
#ifndef EG_LIB_TOO_BIG_H
#define EG_LIB_TOO_BIG_H

/* Bytes quoted: RFC 1812 section 4.3.2.3 wants the whole at most 576 bytes,
 * RFC 4443 section 3.2 at most the least MTU, 1280. No more than any packet
 * has that does not fit the least MTU that the process believes in, 552 and
 * 1280, behind GUE's header. Multiples of 4, summed in pieces of at most 512,
 * which is what bpf_csum_diff takes on kernels before 6.13. */
#define QUOTE4	    520
#define QUOTE6	    1228
#define QUOTE_PIECE 512

/* RFC 8200 section 5. */
#define IP6_MTU_MIN 1280

static __always_inline int too_big_write4(void *l3, void *data_end, const struct pkt *p,
					  __u32 mtu)
{
	struct iphdr *ip = l3;
	__be16 *icmp = (void *)(ip + 1);
	void *quote = (void *)icmp + ICMP_LEN;
	__u64 sum;

	if (quote + QUOTE4 > data_end)
		return -1;
	icmp[0] = bpf_htons(ICMP4_UNREACHABLE << 8 | ICMP4_FRAG_NEEDED);
	icmp[1] = 0;
	icmp[2] = 0;
	icmp[3] = bpf_htons(mtu);
	sum = bpf_csum_diff(NULL, 0, quote, QUOTE_PIECE, 0);
	sum = bpf_csum_diff(NULL, 0, quote + QUOTE_PIECE, QUOTE4 - QUOTE_PIECE, sum);
	icmp[1] = csum_fold(sum + icmp[0] + icmp[3]);

	ip->version = 4;
	ip->ihl = 5;
	ip->tos = 0xc0; /* RFC 1812 section 5.3.2: internetwork control */
	ip->tot_len = bpf_htons(IP4_LEN + ICMP_LEN + QUOTE4);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = OUTER_TTL;
	ip->protocol = IPPROTO_ICMP;
	ip->check = 0;
	__builtin_memcpy(&ip->saddr, &p->key.daddr.b[12], 4);
	__builtin_memcpy(&ip->daddr, &p->key.saddr.b[12], 4);
	ip->check = csum_fold(csum_header(ip));
	return 0;
}

static __always_inline int too_big_write6(void *l3, void *data_end, const struct pkt *p,
					  __u32 mtu)
{
	__be32 first = bpf_htonl(6u << 28);
	struct ipv6hdr *ip = l3;
	__be16 *icmp = (void *)(ip + 1);
	void *quote = (void *)icmp + ICMP_LEN;
	__u64 sum;

	if (quote + QUOTE6 > data_end)
		return -1;
	icmp[0] = bpf_htons(ICMP6_TOO_BIG << 8);
	icmp[1] = 0;
	icmp[2] = 0;
	icmp[3] = bpf_htons(mtu);
	__builtin_memcpy(ip, &first, 4);
	ip->payload_len = bpf_htons(ICMP_LEN + QUOTE6);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &p->key.daddr, 16);
	__builtin_memcpy(&ip->daddr, &p->key.saddr, 16);
	sum = bpf_csum_diff(NULL, 0, (void *)&ip->saddr, 32, 0);
	sum = bpf_csum_diff(NULL, 0, quote, QUOTE_PIECE, sum);
	sum = bpf_csum_diff(NULL, 0, quote + QUOTE_PIECE, QUOTE_PIECE, sum);
	sum = bpf_csum_diff(NULL, 0, quote + 2 * QUOTE_PIECE, QUOTE6 - 2 * QUOTE_PIECE,
			    sum);
	icmp[1] = csum_fold(sum + icmp[0] + icmp[3] + bpf_htons(ICMP_LEN + QUOTE6) +
			    bpf_htons(IPPROTO_ICMPV6));
	return 0;
}

/* The MTU to tell a client whose packet goes to this flow's backend; 0 if it
 * is no flow's, or fits by now. */
static __always_inline __u32 too_big_mtu(struct pkt *p)
{
	struct eg_backend *b;
	struct eg_flow *f;
	struct eg_vip *v;
	__u32 vip, backend, room;

	f = bpf_map_lookup_elem(&eg_flows, &p->key);
	if (!f)
		f = bpf_map_lookup_elem(&eg_opening, &p->key);
	if (f) {
		vip = f->vip;
		backend = f->backend;
	} else if (eg_dry_run) {
		/* A new one, that a dry run did not remember. */
		vip = explained.p.vip;
		backend = explained.p.backend;
	} else {
		return 0;
	}
	v = bpf_map_lookup_elem(&eg_vips, &vip);
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!v || !b)
		return 0;
	p->vip = vip;
	p->backend = backend;
	room = encap_room(v->forward, !addr_is_mapped(&b->addr));
	if (!b->mtu || pkt_size(p) + room <= b->mtu)
		return 0;
	/* A way too narrow for IPv6, or for anything: no number would help, and
	 * there is less than what we quote. */
	if (p->len < (p->v6 ? QUOTE6 : QUOTE4))
		return 0;
	if (p->v6)
		return b->mtu - room > IP6_MTU_MIN ? b->mtu - room : IP6_MTU_MIN;
	return b->mtu > room ? b->mtu - room : 0;
}

#endif
