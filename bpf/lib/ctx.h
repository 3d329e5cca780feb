/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What the steps of a decision hand to one another: a packet as parsed, and
 * how to forward it. Neither knows of XDP or skb, so that one decide() serves
 * a writer for each.
 */
#ifndef EG_LIB_CTX_H
#define EG_LIB_CTX_H

/* A decision: forward, pass, or (greater than zero) an enum eg_drop. */
#define FORWARD 0
#define PASS	(-1)

struct pkt {
	struct eg_flow_key key; /* as it arrived */
	__u32 len;		/* L3 bytes, for accounting */
	__u32 ifindex;		/* where it came in */
	__u32 vip;		/* known so far: whose figures it counts in */
	__u32 backend;
	__u16 l4; /* offset of the TCP or UDP header */
	__u8 ttl;
	__u8 tcp_flags; /* byte 13 of the TCP header, 0 for UDP */
	__u8 v6;
	__u8 data;    /* it has L4 payload */
	__u8 guarded; /* guard_client() has let it pass */
	__u8 dmac[6];
	__u8 smac[6];
} __attribute__((aligned(8)));

struct forward {
	struct eg_addr saddr;
	struct eg_addr daddr;
	__be16 sport;
	__be16 dport;
	__u32 ifindex;
	__u8 dmac[6];
	__u8 smac[6];
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

static __always_inline __u32 addr_word(const struct eg_addr *a, int i)
{
	__u32 word;

	__builtin_memcpy(&word, &a->b[4 * i], sizeof(word));
	return word;
}

/* Comparisons without branches: fewer paths for the verifier to walk. */
static __always_inline int addr_equal(const struct eg_addr *a, const struct eg_addr *b)
{
	return !((addr_word(a, 0) ^ addr_word(b, 0)) |
		 (addr_word(a, 1) ^ addr_word(b, 1)) |
		 (addr_word(a, 2) ^ addr_word(b, 2)) |
		 (addr_word(a, 3) ^ addr_word(b, 3)));
}

static __always_inline int addr_is_mapped(const struct eg_addr *a)
{
	return !addr_word(a, 0) && !addr_word(a, 1) &&
	       addr_word(a, 2) == bpf_htonl(0xffff);
}

static __always_inline int mac_equal(const __u8 *a, const __u8 *b)
{
	return __builtin_memcmp(a, b, 6) == 0;
}

/* A client that wants a new connection: RFC 9293 section 3.5, figure 6. */
static __always_inline int tcp_opens(const struct pkt *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

#endif
