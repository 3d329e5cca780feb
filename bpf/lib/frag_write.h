/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Rewrite a fragment under nat: nat.h's part for the first, which has the L4
 * header, the IP header alone for the others, and the identification. */
#ifndef EG_LIB_FRAG_WRITE_H
#define EG_LIB_FRAG_WRITE_H

static __always_inline void frag_write_addrs4(struct iphdr *ip, const struct pkt *p,
					      const struct forward *fw)
{
	__u64 delta = csum_addr(&p->key.saddr, &fw->saddr, 0) +
		      csum_addr(&p->key.daddr, &fw->daddr, 0);

	ip->ttl--;
	ip->check = csum_apply(ip->check, delta + csum_half(bpf_htons(0x100), 0));
	__builtin_memcpy(&ip->saddr, &fw->saddr.b[12], 4);
	__builtin_memcpy(&ip->daddr, &fw->daddr.b[12], 4);
}

static __always_inline void frag_write_addrs6(struct ipv6hdr *ip, const struct forward *fw)
{
	__builtin_memcpy(&ip->saddr, &fw->saddr, 16);
	__builtin_memcpy(&ip->daddr, &fw->daddr, 16);
	ip->hop_limit--;
}

/* The L4 checksum covers the whole datagram, and lies in the first fragment:
 * what the addresses change there is that fragment's to carry. */
static __always_inline int frag_write(void *data, void *data_end, const struct pkt *p,
				      const struct piece *g, const struct forward *fw,
				      __u32 id)
{
	void *header = data + (g->header & L4_OFFSET_MAX);
	void *l3 = data + (p->l3 & L3_OFFSET_MAX);
	struct ipv6hdr *ip6 = l3;
	struct iphdr *ip = l3;
	__be32 id6 = bpf_htonl(id);
	__be16 id4 = bpf_htons(id);

	if (p->v6) {
		if ((void *)(ip6 + 1) > data_end || header + 8 > data_end)
			return -1;
		if (!g->first)
			frag_write_addrs6(ip6, fw);
		else if (nat_write(data, data_end, p, fw))
			return -1;
		__builtin_memcpy(header + 4, &id6, 4);
		return 0;
	}
	if ((void *)(ip + 1) > data_end)
		return -1;
	if (!g->first)
		frag_write_addrs4(ip, p, fw);
	else if (nat_write(data, data_end, p, fw))
		return -1;
	ip->check = csum_apply(ip->check, csum_half(ip->id, id4));
	ip->id = id4;
	return 0;
}

#endif
