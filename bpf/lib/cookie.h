/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * SYN cookies for what this host terminates (RFC 4987 section 3.6): SYNs beyond
 * those that the stack is to answer are answered here, with a sequence number
 * that the kernel makes of the packet and a secret, and nothing is remembered.
 * The ACK that brings it back passes to the stack, which makes the connection.
 *
 * The stack believes a cookie only at a listener that was short of room in the
 * last two minutes (tcp_synq_no_recent_overflow). So the listener that the SYN
 * would reach is looked up, by socket lookup and all, and bpf_tcp_gen_syncookie
 * tells it of a shortage as it makes the cookie. The ACK may reach another
 * worker's listener: they are one SO_REUSEPORT group, which the kernel notes
 * the shortage of. The helper makes no cookie where the stack would not: unless
 * net.ipv4.tcp_syncookies is 2, not before the listener's queue is full.
 */
#ifndef EG_LIB_COOKIE_H
#define EG_LIB_COOKIE_H

/* What becomes of a SYN that a cookie answers. */
#define ANSWERED (-5)

/* The SYN-ACK carries one option, the MSS. Window scaling and SACK would have
 * to come back in a timestamp, which the stack offsets by a secret of the
 * connection that no program gets (secure_tcp_ts_off). */
#define COOKIE_TCP_LEN 24
#define COOKIE_MSS_LEN 4
#define COOKIE_TCP_OPT 2
#define COOKIE_IP6_MSS 1440
/* What the client may send before it hears the stack's own window: ten
 * segments, RFC 6928 section 2. */
#define COOKIE_WINDOW 14600
/* To a dry run, which must not tell a listener of a shortage, any will do. */
#define COOKIE_ANY (536LL << 32)

static __always_inline void cookie_count(__u32 became)
{
	__u64 *count = bpf_map_lookup_elem(&eg_cookie_stats, &became);

	if (count && !eg_dry_run)
		(*count)++;
}

/* More than the stack is to answer? */
static __always_inline int cookie_due(const struct pkt *p)
{
	struct eg_listener_key key = {};
	struct eg_budget *b;

	key.addr = p->key.daddr;
	key.port = p->key.dport;
	key.proto = p->key.proto;
	b = bpf_map_lookup_elem(&eg_cookies, &key);
	return b && (!b->step || !budget_spend(b));
}

/* The SYN's headers to where the helper can read them: of the IP header it
 * wants version and addresses. */
static __always_inline int cookie_copy(void *data, void *data_end, struct scratch *s)
{
	__u32 *word = data + (s->p.l4 & L4_OFFSET_MAX);
	const struct eg_flow_key *key = &s->p.key;
	__u32 words, i;

	__builtin_memset(s->syn_ip, 0, sizeof(s->syn_ip));
	if (s->p.v6) {
		s->syn_ip[0] = 0x60;
		__builtin_memcpy(s->syn_ip + 8, &key->saddr, 16);
		__builtin_memcpy(s->syn_ip + 24, &key->daddr, 16);
	} else {
		s->syn_ip[0] = 0x45;
		__builtin_memcpy(s->syn_ip + 12, &key->saddr.b[12], 4);
		__builtin_memcpy(s->syn_ip + 16, &key->daddr.b[12], 4);
	}
	if ((void *)(word + 5) > data_end)
		return -1;
	words = ((struct tcphdr *)word)->doff;
	/* As long as four bits can say. */
	for (i = 0; i < 15 && i < words; i++) {
		if ((void *)(word + i + 1) > data_end)
			return -1;
		s->syn_tcp[i] = word[i];
	}
	return 0;
}

/* The cookie, with its MSS in the upper half; 0: nobody listens, or the SYN
 * is for a connection that exists; negative: the kernel makes none. */
static __noinline __s64 cookie_make(void *ctx, struct scratch *s)
{
	struct tcphdr *tcp = (void *)s->syn_tcp;
	struct bpf_sock_tuple tuple = {};
	__u32 size = vip_tuple(&tuple, &s->p);
	struct bpf_sock *sk;
	__s64 made = 0;
	__u32 length;

	sk = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	if (sk->state == BPF_TCP_LISTEN) {
		EXPLAIN(cookie, 1);
		length = tcp->doff * 4;
		if (eg_dry_run)
			made = COOKIE_ANY;
		else if (length >= sizeof(*tcp))
			made = bpf_tcp_gen_syncookie(sk, s->syn_ip, s->p.v6 ? 40 : 20,
						     tcp, length);
	}
	bpf_sk_release(sk);
	return made;
}

/* The cookie that answers this SYN; 0: it is the stack's. What cannot be a
 * client's is left to the stack too, which drops it. */
static __always_inline __s64 cookie_decide(void *ctx, void *data, void *data_end,
					   struct scratch *s)
{
	__s64 made;

	if (!eg_syn_cookies || !cookie_due(&s->p) || !s->p.key.sport ||
	    guard_bad_source(&s->p) || cookie_copy(data, data_end, s))
		return 0;
	made = cookie_make(ctx, s);
	if (made >= 0)
		return made;
	cookie_count(EG_COOKIE_DECLINED);
	return 0;
}

static __always_inline __u64 cookie_tcp(struct tcphdr *tcp, const struct pkt *p,
					__s64 made)
{
	__be32 *option = (void *)(tcp + 1);
	__be16 *word = (void *)tcp;
	__u32 mss = (__u64)made >> 32;

	/* The cookie knows of jumbo frames in IPv6, the link perhaps not. */
	if (p->v6 && mss > COOKIE_IP6_MSS)
		mss = COOKIE_IP6_MSS;
	tcp->source = p->key.dport;
	tcp->dest = p->key.sport;
	tcp->seq = bpf_htonl((__u32)made);
	tcp->ack_seq = bpf_htonl(p->seq + 1);
	word[6] = bpf_htons(COOKIE_TCP_LEN / 4 << 12 | TCP_SYN | TCP_ACK);
	tcp->window = bpf_htons(COOKIE_WINDOW);
	tcp->check = 0;
	tcp->urg_ptr = 0;
	*option =
		bpf_htonl(COOKIE_TCP_OPT << 24 | COOKIE_MSS_LEN << 16 | (mss & 0xffff));
	return csum_header(tcp) + *option + bpf_htons(IPPROTO_TCP) +
	       bpf_htons(COOKIE_TCP_LEN);
}

static __always_inline int cookie_write4(void *l3, void *data_end, const struct pkt *p,
					 __s64 made)
{
	struct iphdr *ip = l3;
	struct tcphdr *tcp = (void *)(ip + 1);
	__u64 sum;

	if ((void *)tcp + COOKIE_TCP_LEN > data_end)
		return -1;
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = 0;
	ip->tot_len = bpf_htons(IP4_LEN + COOKIE_TCP_LEN);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = OUTER_TTL;
	ip->protocol = IPPROTO_TCP;
	ip->check = 0;
	__builtin_memcpy(&ip->saddr, &p->key.daddr.b[12], 4);
	__builtin_memcpy(&ip->daddr, &p->key.saddr.b[12], 4);
	ip->check = csum_fold(csum_header(ip));
	sum = cookie_tcp(tcp, p, made) + ip->saddr + ip->daddr;
	tcp->check = csum_fold(sum);
	return 0;
}

static __always_inline int cookie_write6(void *l3, void *data_end, const struct pkt *p,
					 __s64 made)
{
	__be32 first = bpf_htonl(6u << 28);
	struct ipv6hdr *ip = l3;
	struct tcphdr *tcp = (void *)(ip + 1);
	__u64 sum;
	int i;

	if ((void *)tcp + COOKIE_TCP_LEN > data_end)
		return -1;
	__builtin_memcpy(ip, &first, 4);
	ip->payload_len = bpf_htons(COOKIE_TCP_LEN);
	ip->nexthdr = IPPROTO_TCP;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &p->key.daddr, 16);
	__builtin_memcpy(&ip->daddr, &p->key.saddr, 16);
	sum = cookie_tcp(tcp, p, made);
#pragma unroll
	for (i = 0; i < 4; i++)
		sum += (__u64)addr_word(&p->key.saddr, i) + addr_word(&p->key.daddr, i);
	tcp->check = csum_fold(sum);
	return 0;
}

static __always_inline int cookie_write(void *l3, void *data_end, const struct pkt *p,
					__s64 made)
{
	return p->v6 ? cookie_write6(l3, data_end, p, made)
		     : cookie_write4(l3, data_end, p, made);
}

#endif
