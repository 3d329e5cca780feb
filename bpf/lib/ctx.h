/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What the steps of a decision hand to one another: a packet as parsed, and
 * how to forward it. Neither knows of XDP or skb, so that one decide() serves
 * a writer for each.
 */
#ifndef EG_LIB_CTX_H
#define EG_LIB_CTX_H

/* A decision: forward, pass, (greater than zero) an enum eg_drop, or one of
 * the programs that take over, each with a stack of its own. */
#define FORWARD		 0
#define PASS		 (-1)
#define MISS		 (-2) /* a known flow that does not count */
#define TAIL(n)		 (-16 - (n))
#define IS_TAIL(verdict) ((verdict) <= TAIL(0))
#define TAIL_OF(verdict) (-16 - (verdict))

/* Index of the object's own table of programs. */
enum tail {
	TAIL_OPEN = 0,	    /* no established flow is known */
	TAIL_ICMP = 1,	    /* to an address of ours */
	TAIL_TOO_BIG = 2,   /* tell the sender */
	TAIL_RESET = 3,	    /* reset the client's connection */
	TAIL_FRAG = 4,	    /* a fragment that may be a flow's */
	TAIL_FRAG_OPEN = 5, /* and that no established flow is known for */
	TAIL_COOKIE = 6,    /* a SYN that this host's own stack would answer */
	TAILS = 7,
};

struct pkt {
	struct eg_flow_key key; /* as it arrived */
	__u32 len;		/* L3 bytes, for accounting */
	__u32 ifindex;		/* where it came in */
	__u32 vip;		/* known so far: whose figures it counts in */
	__u32 backend;
	__u32 seq; /* TCP, host order: its first sequence number */
	__u32 end; /* and the one behind its last */
	__u32 ack;
	__u16 l3; /* offset of the IP header, */
	__u16 l4; /* of the TCP, UDP or ICMP header */
	__u8 ttl;
	__u8 tos;
	__u8 tcp_flags; /* byte 13 of the TCP header, 0 for UDP */
	__u8 v6;
	__u8 guarded; /* guard_client() has let it pass */
	__u8 dmac[6];
	__u8 smac[6];
	__u16 segs; /* what an skb holds: packets on the wire, */
	__u16 size; /* and L3 bytes of the largest; see pkt_segs, pkt_size */
} __attribute__((aligned(8)));

/* Where it goes: rewritten ends under nat, the outer header's otherwise. */
struct forward {
	struct eg_addr saddr;
	struct eg_addr daddr;
	__be16 sport;
	__be16 dport;
	__u32 ifindex;
	__u8 dmac[6];
	__u8 smac[6];
	__u16 mtu;   /* of the way, 0: unknown */
	__u8 mode;   /* enum eg_forward */
	__u8 outer6; /* the outer header is IPv6's */
};

/* Somebody who could get a flow: what is counted, and the share; weight 0
 * takes nothing now. */
struct candidate {
	__u32 id;
	__u32 load;
	__u32 weight;
};

/* A choice under way. In memory, not on the stack: the verifier follows what
 * lies on a stack, and would walk each loop once for every value. */
struct choice {
	struct candidate best;
	struct candidate other;
	__u64 random;
	__u32 equals;
};

/* A new flow on its way into the table. */
struct claim {
	struct eg_flow_key key; /* of the reverse half */
	struct eg_flow flow;	/* the reverse half */
	struct choice choice;
	__u64 hash;
	__u32 now;
	__u32 stateless; /* to be forwarded, and not remembered */
	/* Its port, or none. Here and not an argument of claim_port: verifiers
	 * up to 6.1 at least take a constant that is spilled around calls for the
	 * only one, and cut out what only another leads to (the search). */
	__u32 only;
};

/* Both halves as they will lie in eg_flows. */
struct promotion {
	struct eg_flow_key key; /* of the other half */
	struct eg_flow this;
	struct eg_flow other;
};

/* What the error quotes. */
struct quote {
	struct eg_flow_key key; /* turned round: of the flow's half */
	__u16 l3;		/* offsets of the quoted headers */
	__u16 l4;
	__u16 mtu; /* of a "too big", else 0 */
	__u8 proto;
};

/* Which part of which datagram a fragment is. */
struct piece {
	struct eg_frag_key key;
	__u32 from; /* bytes of the datagram, from <= byte < to */
	__u32 to;
	__u16 header; /* IPv6: offset of the fragment header */
	__u8 more;    /* it is not the last */
	__u8 first;   /* it has the ports */
	__u32 use;    /* enum eg_addr_use of the destination */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Sequence numbers this near to what is expected count as in window: a blind
 * guess hits one time in 32,768 (RFC 5961 section 1.2 reckons alike). */
#define SEQ_WINDOW 65536

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

/* RFC 9293 section 3.4: numbers wrap, so their difference decides. */
static __always_inline int seq_near(__u32 seq, __u32 expected)
{
	return seq - expected + SEQ_WINDOW <= 2 * SEQ_WINDOW;
}

#endif
