/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Turn an skb into what is said to its sender: an ICMP error about it
 * (lib/too_big.h), the reset that answers it (lib/reset.h), or a SYN cookie's
 * SYN-ACK (lib/cookie.h). */
#ifndef EG_TC_ANSWER_H
#define EG_TC_ANSWER_H

/* Is the checksum left to the device? Then the kernel's helper leaves the
 * field alone when data changes, and nothing else tells a program. */
static __always_inline int skb_is_partial(struct __sk_buff *skb, __u32 at, __u16 *field)
{
	__u16 after;

	if (bpf_skb_load_bytes(skb, at, field, sizeof(*field)) ||
	    bpf_l4_csum_replace(skb, at, 0, bpf_htons(1), 0) ||
	    bpf_skb_load_bytes(skb, at, &after, sizeof(after)))
		return -1;
	if (after == *field)
		return 1;
	return bpf_skb_store_bytes(skb, at, field, sizeof(*field), 0) ? -1 : 0;
}

/*
 * The error's checksum where the device will fill in that of the packet which
 * it quotes: it sums up what follows the quoted IP header, `field` included,
 * and puts the complement into the field. So all that comes to ~field, whatever
 * the data is. The quoted IPv4 header sums up to nothing.
 */
static __always_inline int complain_sum(void *l3, void *data_end, const struct pkt *p,
					__u16 field)
{
	__be16 *icmp = l3 + (p->v6 ? IP6_LEN : IP4_LEN);
	void *quote = (void *)icmp + ICMP_LEN;
	struct ipv6hdr *ip6 = l3;
	__u64 sum = (__u16)~field;

	if (quote + IP6_LEN > data_end)
		return -1;
	sum += icmp[0];
	sum += icmp[3];
	if (p->v6) {
		sum = bpf_csum_diff(NULL, 0, (void *)&ip6->saddr, 32, csum_32(sum));
		sum = bpf_csum_diff(NULL, 0, quote, IP6_LEN, sum);
		sum = (__u32)sum + (__u64)ip6->payload_len + bpf_htons(IPPROTO_ICMPV6);
	}
	icmp[1] = csum_fold(sum);
	return 0;
}

/* Cut the skb to what is to stay of its packet, make it `head` bytes longer in
 * front of that, and address it back to its sender. */
static __always_inline int skb_turn_round(struct __sk_buff *skb, const struct pkt *p,
					  __u32 head, __u32 stays)
{
	__u32 l3 = p->l3 & L3_OFFSET_MAX;
	struct l2_tags tags;
	void *data, *data_end;

	if (bpf_skb_change_tail(skb, l3 + stays, 0) || skb_pull(skb, l3 + stays))
		return -1;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	if (l2_save_tags(&tags, data, data_end))
		return -1;
	if (head && skb_room(skb, p, head, 0))
		return -1;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	return l2_build(data, data_end, l3, &tags, p->smac, p->dmac,
			p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP));
}

/* Does something lie between the IP header and TCP's or UDP's? */
static __always_inline int skb_has_more(const struct pkt *p)
{
	return p->l4 != p->l3 + (p->v6 ? IP6_LEN : IP4_LEN);
}

/* Turn the skb into the ICMP error about it. */
static __always_inline int skb_complain(struct __sk_buff *skb, const struct pkt *p,
					__u32 mtu)
{
	__u32 head = (p->v6 ? IP6_LEN : IP4_LEN) + ICMP_LEN;
	__u32 at = p->l4 + offsetof(struct udphdr, check);
	void *l3, *data_end;
	__u16 field = 0;
	int partial;

	if (p->key.proto == IPPROTO_TCP)
		at = p->l4 + offsetof(struct tcphdr, check);
	partial = skb_is_partial(skb, at, &field);
	/* Extension headers do not add up to nothing. */
	if (partial < 0 || (partial && p->v6 && skb_has_more(p)))
		return -1;
	if (skb_turn_round(skb, p, head, p->v6 ? QUOTE6 : QUOTE4))
		return -1;
	data_end = (void *)(long)skb->data_end;
	l3 = (void *)(long)skb->data + (p->l3 & L3_OFFSET_MAX);
	if (p->v6 ? too_big_write6(l3, data_end, p, mtu)
		  : too_big_write4(l3, data_end, p, mtu))
		return -1;
	return partial ? complain_sum(l3, data_end, p, field) : 0;
}

/* The field of an answer whose checksum the device will fill in, where the
 * segment's was: the sum over the pseudo-header. */
static __always_inline int answer_sum(void *l3, void *data_end, const struct pkt *p,
				      __u32 length)
{
	struct tcphdr *tcp = l3 + (p->v6 ? IP6_LEN : IP4_LEN);
	__u64 sum = bpf_htons(IPPROTO_TCP) + bpf_htons(length);
	int i;

	if ((void *)(tcp + 1) > data_end)
		return -1;
	/* The mapped form's own words are the same in both addresses, and
	 * no part of IPv4's pseudo-header. */
#pragma unroll
	for (i = 0; i < 4; i++)
		if (p->v6 || i == 3)
			sum += (__u64)addr_word(&p->key.saddr, i) +
			       addr_word(&p->key.daddr, i);
	tcp->check = ~csum_fold(sum);
	return 0;
}

/* Turn the skb into the reset that answers it. */
static __always_inline int skb_refuse(struct __sk_buff *skb, const struct pkt *p)
{
	void *l3, *data_end;
	__u16 field = 0;
	int partial;

	partial = skb_is_partial(skb, p->l4 + offsetof(struct tcphdr, check), &field);
	/* The device would sum from where the segment's header was. */
	if (partial < 0 || (partial && skb_has_more(p)))
		return -1;
	if (skb_turn_round(skb, p, 0, (p->v6 ? IP6_LEN : IP4_LEN) + TCP_LEN))
		return -1;
	data_end = (void *)(long)skb->data_end;
	l3 = (void *)(long)skb->data + (p->l3 & L3_OFFSET_MAX);
	if (p->v6 ? reset_write6(l3, data_end, p) : reset_write4(l3, data_end, p))
		return -1;
	return partial ? answer_sum(l3, data_end, p, TCP_LEN) : 0;
}

/* Turn the SYN into the SYN-ACK with this cookie. */
static __always_inline int skb_greet(struct __sk_buff *skb, const struct pkt *p,
				     __s64 made)
{
	void *l3, *data_end;
	__u16 field = 0;
	int partial;

	partial = skb_is_partial(skb, p->l4 + offsetof(struct tcphdr, check), &field);
	if (partial < 0 || (partial && skb_has_more(p)))
		return -1;
	if (skb_turn_round(skb, p, 0, (p->v6 ? IP6_LEN : IP4_LEN) + COOKIE_TCP_LEN))
		return -1;
	data_end = (void *)(long)skb->data_end;
	l3 = (void *)(long)skb->data + (p->l3 & L3_OFFSET_MAX);
	if (cookie_write(l3, data_end, p, made))
		return -1;
	return partial ? answer_sum(l3, data_end, p, COOKIE_TCP_LEN) : 0;
}

#endif
