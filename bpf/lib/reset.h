/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * A reset in answer to a client's segment (RFC 9293 section 3.10.7.1: it
 * takes its number from the segment's acknowledgement, or acknowledges the
 * segment if that acknowledged nothing). From the VIP, whom the client
 * believes that it talks to.
 */
#ifndef EG_LIB_RESET_H
#define EG_LIB_RESET_H

#define TCP_LEN 20
/* The words of a TCP header's fourth line: data offset 5, and flags. */
#define RESET_FLAGS(flags) (0x5000 | (flags))

static __always_inline __u64 reset_tcp(struct tcphdr *tcp, const struct pkt *p)
{
	__be16 *word = (void *)tcp;
	int acked = p->tcp_flags & TCP_ACK;

	tcp->source = p->key.dport;
	tcp->dest = p->key.sport;
	tcp->seq = acked ? bpf_htonl(p->ack) : 0;
	tcp->ack_seq = acked ? 0 : bpf_htonl(p->end);
	word[6] = bpf_htons(RESET_FLAGS(acked ? TCP_RST : TCP_RST | TCP_ACK));
	tcp->window = 0;
	tcp->check = 0;
	tcp->urg_ptr = 0;
	return csum_header(tcp) + bpf_htons(IPPROTO_TCP) + bpf_htons(TCP_LEN);
}

static __always_inline int reset_write4(void *l3, void *data_end, const struct pkt *p)
{
	struct iphdr *ip = l3;
	struct tcphdr *tcp = (void *)(ip + 1);
	__u64 sum;

	if ((void *)(tcp + 1) > data_end)
		return -1;
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = 0;
	ip->tot_len = bpf_htons(IP4_LEN + TCP_LEN);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = OUTER_TTL;
	ip->protocol = IPPROTO_TCP;
	ip->check = 0;
	__builtin_memcpy(&ip->saddr, &p->key.daddr.b[12], 4);
	__builtin_memcpy(&ip->daddr, &p->key.saddr.b[12], 4);
	ip->check = csum_fold(csum_header(ip));
	sum = reset_tcp(tcp, p) + ip->saddr + ip->daddr;
	tcp->check = csum_fold(sum);
	return 0;
}

static __always_inline int reset_write6(void *l3, void *data_end, const struct pkt *p)
{
	__be32 first = bpf_htonl(6u << 28);
	struct ipv6hdr *ip = l3;
	struct tcphdr *tcp = (void *)(ip + 1);
	__u64 sum;
	int i;

	if ((void *)(tcp + 1) > data_end)
		return -1;
	__builtin_memcpy(ip, &first, 4);
	ip->payload_len = bpf_htons(TCP_LEN);
	ip->nexthdr = IPPROTO_TCP;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &p->key.daddr, 16);
	__builtin_memcpy(&ip->daddr, &p->key.saddr, 16);
	sum = reset_tcp(tcp, p);
#pragma unroll
	for (i = 0; i < 4; i++)
		sum += (__u64)addr_word(&p->key.saddr, i) + addr_word(&p->key.daddr, i);
	tcp->check = csum_fold(sum);
	return 0;
}

#endif
