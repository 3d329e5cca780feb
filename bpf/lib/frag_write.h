/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Rewrite a fragment under nat. The first has the L4 header, whose checksum
 * covers the whole datagram: what new addresses and ports change there is that
 * fragment's to carry, and nat.h's to write. All else is here. */
#ifndef EG_LIB_FRAG_WRITE_H
#define EG_LIB_FRAG_WRITE_H

/* The IP header of one that is not the first. */
static __always_inline int frag_write_ip(void *data, void *data_end,
					 const struct pkt *p, const struct forward *fw)
{
	void *l3 = data + (p->l3 & L3_OFFSET_MAX);
	struct ipv6hdr *ip6 = l3;
	struct iphdr *ip = l3;

	if (p->v6) {
		if ((void *)(ip6 + 1) > data_end)
			return -1;
		nat_write_ip6(ip6, fw);
		return 0;
	}
	if ((void *)(ip + 1) > data_end)
		return -1;
	nat_write_ip4(ip, fw, nat_addrs(p, fw));
	return 0;
}

/* The identification of either. */
static __always_inline int frag_write_id(void *data, void *data_end,
					 const struct pkt *p, const struct piece *g,
					 __u32 id)
{
	void *header = data + (g->header & L4_OFFSET_MAX);
	struct iphdr *ip = data + (p->l3 & L3_OFFSET_MAX);
	__be32 id6 = bpf_htonl(id);
	__be16 id4 = bpf_htons(id);

	if (p->v6) {
		if (header + 8 > data_end)
			return -1;
		__builtin_memcpy(header + 4, &id6, 4);
		return 0;
	}
	if ((void *)(ip + 1) > data_end)
		return -1;
	ip->check = csum_apply(ip->check, csum_half(ip->id, id4));
	ip->id = id4;
	return 0;
}

#endif
