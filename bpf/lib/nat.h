/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Write new addresses, ports and a smaller TTL into the packet, and correct
 * its checksums by the difference. All bounds are checked before the first
 * write: a packet is rewritten whole or not at all. */
#ifndef EG_LIB_NAT_H
#define EG_LIB_NAT_H

/* Beyond Ethernet, IPv6 and seven extension headers of the largest size. */
#define L4_OFFSET_MAX 0x3fff
/* Beyond Ethernet with two tags. */
#define L3_OFFSET_MAX 0x1f

/* What changes in the pseudo-header, and in the header of TCP or UDP itself. */
static __always_inline __u64 nat_addrs(const struct pkt *p, const struct forward *fw)
{
	return csum_addr(&p->key.saddr, &fw->saddr, p->v6) +
	       csum_addr(&p->key.daddr, &fw->daddr, p->v6);
}

static __always_inline __u64 nat_ports(const struct pkt *p, const struct forward *fw)
{
	return csum_half(p->key.sport, fw->sport) + csum_half(p->key.dport, fw->dport);
}

/* TCP's or UDP's part; `delta` is what changes in the pseudo-header. */
static __always_inline int nat_write_l4(void *l4, void *data_end, const struct pkt *p,
					const struct forward *fw, __u64 delta)
{
	struct tcphdr *tcp = l4;
	struct udphdr *udp = l4;
	__u16 check;

	delta += nat_ports(p, fw);
	if (p->key.proto == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > data_end)
			return -1;
		tcp->check = csum_apply(tcp->check, delta);
		tcp->source = fw->sport;
		tcp->dest = fw->dport;
		return 0;
	}
	if ((void *)(udp + 1) > data_end)
		return -1;
	/* RFC 768: zero says "no checksum", and what computes to zero
	 * is sent as all ones. RFC 6936 lets IPv6 tunnels do the same. */
	if (udp->check) {
		check = csum_apply(udp->check, delta);
		udp->check = check ? check : 0xffff;
	}
	udp->source = fw->sport;
	udp->dest = fw->dport;
	return 0;
}

static __always_inline void nat_write_ip6(struct ipv6hdr *ip, const struct forward *fw)
{
	__builtin_memcpy(&ip->saddr, &fw->saddr, 16);
	__builtin_memcpy(&ip->daddr, &fw->daddr, 16);
	ip->hop_limit--;
}

static __always_inline void nat_write_ip4(struct iphdr *ip, const struct forward *fw,
					  __u64 addrs)
{
	ip->ttl--;
	ip->check = csum_apply(ip->check, addrs + csum_half(bpf_htons(0x100), 0));
	__builtin_memcpy(&ip->saddr, &fw->saddr.b[12], 4);
	__builtin_memcpy(&ip->daddr, &fw->daddr.b[12], 4);
}

/* Each family checks its header and writes it in one branch: 6.1's
 * verifier does not see that two tests of p->v6 have the same outcome. */
static __always_inline int nat_write(void *data, void *data_end, const struct pkt *p,
				     const struct forward *fw)
{
	void *l4 = data + (p->l4 & L4_OFFSET_MAX);
	void *l3 = data + (p->l3 & L3_OFFSET_MAX);
	__u64 addrs = nat_addrs(p, fw);
	struct ipv6hdr *ip6 = l3;
	struct iphdr *ip = l3;

	if (p->v6) {
		if ((void *)(ip6 + 1) > data_end ||
		    nat_write_l4(l4, data_end, p, fw, addrs))
			return -1;
		nat_write_ip6(ip6, fw);
		return 0;
	}
	if ((void *)(ip + 1) > data_end || nat_write_l4(l4, data_end, p, fw, addrs))
		return -1;
	nat_write_ip4(ip, fw, addrs);
	return 0;
}

/* As a router does before it sends a packet on, or into a tunnel: RFC 1812
 * section 5.3.1, RFC 2003 section 3.1. */
static __always_inline int ttl_write(void *data, void *data_end, const struct pkt *p)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (p->v6) {
		ip6 = data + (p->l3 & L3_OFFSET_MAX);
		if ((void *)(ip6 + 1) > data_end)
			return -1;
		ip6->hop_limit--;
		return 0;
	}
	ip = data + (p->l3 & L3_OFFSET_MAX);
	if ((void *)(ip + 1) > data_end)
		return -1;
	ip->ttl--;
	ip->check = csum_apply(ip->check, csum_half(bpf_htons(0x100), 0));
	return 0;
}

#endif
