/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What an skb holds: one packet, or a train of them that the sender's stack
 * (GSO) or the receiver's (GRO) has not cut up or has put together. Figures
 * and the MTU are about packets as they are on the wire.
 */
#ifndef EG_TC_PKT_H
#define EG_TC_PKT_H

static __always_inline __u32 pkt_segs(const struct pkt *p)
{
	return p->segs;
}

static __always_inline __u32 pkt_size(const struct pkt *p)
{
	return p->size;
}

/* Bytes of the whole frame. */
static __always_inline __u32 pkt_frame(const struct __sk_buff *skb)
{
	return skb->len;
}

/* As L4_OFFSET_MAX of lib/nat.h, which counts by these. */
#define TCP_OFFSET_MAX 0x3fff

/* L3 bytes that lie in the skb, without the padding of a short frame: what
 * p->len was before it became the sum over the train. */
static __always_inline __u32 pkt_held(const struct __sk_buff *skb, const struct pkt *p)
{
	return p->segs > 1 ? skb->len - p->l3 : p->len;
}

/* Not skb->gso_segs, which some drivers leave at 0. The headers in front of
 * each piece are those that parse() has seen: a tunnel's inner ones, to a VIP
 * that carries a tunnel, count once. */
static __always_inline void pkt_train(const struct __sk_buff *skb, void *data,
				      void *data_end, struct pkt *p)
{
	__u32 size = skb->gso_size, head = sizeof(struct udphdr), segs;
	struct tcphdr *tcp = data + (p->l4 & TCP_OFFSET_MAX);

	p->segs = 1;
	p->size = p->len > 0xffff ? 0xffff : p->len;
	if (!size || !p->l4)
		return;
	if (p->key.proto == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > data_end)
			return;
		head = tcp->doff * 4;
	}
	head += p->l4 - p->l3;
	if (p->len <= head + size)
		return;
	segs = (p->len - head + size - 1) / size;
	p->segs = segs;
	p->size = head + size;
	p->len += (segs - 1) * head;
}

#endif
