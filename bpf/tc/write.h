/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * The skb's part of writing. A checksum may be whole, or only begun and left
 * to the device (CHECKSUM_PARTIAL: from a local sender, or GRO), or the device
 * may have summed the whole packet (CHECKSUM_COMPLETE, skb->csum). The field
 * of TCP and UDP is therefore left to bpf_l4_csum_replace, which knows; all
 * else is written as in XDP, and skb->csum told where the sum changes.
 */
#ifndef EG_TC_WRITE_H
#define EG_TC_WRITE_H

/* Headers that may lie behind the linear part: an ICMP error with the headers
 * that it quotes, options in both, and two tags: 158 bytes for IPv4; IPv6's
 * extension headers in the rest. Drivers leave headers alone there by 128 or
 * 256 bytes. */
#define PULL_HEADERS 256

/* An IPv6 hop limit less by one; IPv4's header sums up to the same again. */
static __always_inline void skb_sum_ttl(struct __sk_buff *skb, const struct pkt *p)
{
	if (p->v6)
		bpf_csum_update(skb, csum_32(csum_half(bpf_htons(1), 0)));
}

static __always_inline int skb_pull(struct __sk_buff *skb, __u32 bytes)
{
	__u32 linear = skb->data_end - skb->data;

	if (bytes > skb->len)
		bytes = skb->len;
	return linear < bytes ? bpf_skb_pull_data(skb, bytes) : 0;
}

static __always_inline int skb_nat_l4(struct __sk_buff *skb, const struct pkt *p,
				      const struct forward *fw)
{
	__u32 at = p->l4 + offsetof(struct tcphdr, check);
	__u64 flags = 0;

	if (p->key.proto == IPPROTO_UDP) {
		at = p->l4 + offsetof(struct udphdr, check);
		flags = BPF_F_MARK_MANGLED_0;
	}
	if (bpf_l4_csum_replace(skb, at, 0, csum_32(nat_addrs(p, fw)),
				flags | BPF_F_PSEUDO_HDR))
		return -1;
	return bpf_l4_csum_replace(skb, at, 0, csum_32(nat_ports(p, fw)), flags);
}

static __always_inline int skb_nat(struct __sk_buff *skb, const struct pkt *p,
				   const struct forward *fw)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	void *data_end;
	__be16 *ports;
	void *data;

	if (skb_nat_l4(skb, p, fw))
		return -1;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	ports = data + (p->l4 & L4_OFFSET_MAX);
	if ((void *)(ports + 2) > data_end || l2_write(data, data_end, fw))
		return -1;
	ports[0] = fw->sport;
	ports[1] = fw->dport;
	if (p->v6) {
		ip6 = data + (p->l3 & L3_OFFSET_MAX);
		if ((void *)(ip6 + 1) > data_end)
			return -1;
		nat_write_ip6(ip6, fw);
		/* bpf_l4_csum_replace reckons with a header that sums up to
		 * the same again, which IPv6's does not. */
		bpf_csum_update(skb, csum_32(nat_addrs(p, fw)));
		skb_sum_ttl(skb, p);
		return 0;
	}
	ip = data + (p->l3 & L3_OFFSET_MAX);
	if ((void *)(ip + 1) > data_end)
		return -1;
	nat_write_ip4(ip, fw, nat_addrs(p, fw));
	return 0;
}

/* Room in front of the IP header, for the caller to fill. Where tags lie in
 * the frame itself, which is so for the inner one of two, the kernel takes
 * them for the packet, and the room is made in front of all. */
static __always_inline int skb_room(struct __sk_buff *skb, const struct pkt *p,
				    __u32 room, __u64 flags)
{
	if (p->l3 == ETH_HLEN)
		return bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, flags);
	return bpf_skb_change_head(skb, room, 0);
}

static __always_inline __u64 encap_flags(const struct forward *fw)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	flags |= fw->outer6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
			    : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	if (fw->mode == EG_FORWARD_GUE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	return flags;
}

/* IPv4's header sums up to nothing; IPv6's and UDP's do not. */
static __always_inline void skb_sum_outer(struct __sk_buff *skb, void *l3,
					  const struct forward *fw)
{
	void *data_end = (void *)(long)skb->data_end;
	__s64 sum = 0;

	if (fw->outer6) {
		if (l3 + IP6_LEN > data_end)
			return;
		sum = bpf_csum_diff(NULL, 0, l3, IP6_LEN, 0);
		l3 += IP6_LEN;
	} else {
		l3 += IP4_LEN;
	}
	if (fw->mode == EG_FORWARD_GUE) {
		if (l3 + sizeof(struct udphdr) + GUE_LEN > data_end)
			return;
		sum = bpf_csum_diff(NULL, 0, l3, sizeof(struct udphdr) + GUE_LEN, sum);
	}
	bpf_csum_update(skb, sum);
}

static __always_inline int skb_encapsulate(struct __sk_buff *skb, const struct pkt *p,
					   const struct forward *fw)
{
	void *data_end = (void *)(long)skb->data_end;
	void *data = (void *)(long)skb->data;
	__u32 l3 = p->l3 & L3_OFFSET_MAX;
	__u32 inner = pkt_held(skb, p);
	struct l2_tags tags;

	if (l2_save_tags(&tags, data, data_end) || ttl_write(data, data_end, p))
		return -1;
	skb_sum_ttl(skb, p);
	if (skb_room(skb, p, encap_room(fw->mode, fw->outer6), encap_flags(fw)))
		return -1;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	if (l2_build(data, data_end, l3, &tags, fw->dmac, fw->smac,
		     fw->outer6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP)) ||
	    encap_write(data + l3, data_end, p, fw, inner))
		return -1;
	skb_sum_outer(skb, data + l3, fw);
	return 0;
}

/* As it is, to another MAC address. */
static __always_inline int skb_readdress(struct __sk_buff *skb, const struct pkt *p,
					 const struct forward *fw)
{
	void *data_end = (void *)(long)skb->data_end;
	void *data = (void *)(long)skb->data;

	if (ttl_write(data, data_end, p) || l2_write(data, data_end, fw))
		return -1;
	skb_sum_ttl(skb, p);
	return 0;
}

#endif
