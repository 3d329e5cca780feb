/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Is the packet for a VIP? Asked only when no flow is known. */
#ifndef EG_LIB_VIP_H
#define EG_LIB_VIP_H

/* What is this address to us (enum eg_addr_use)? Asked first: it lets foreign
 * packets go after one lookup, and is all that one without ports can be asked. */
static __always_inline __u32 vip_address(const struct eg_addr *addr)
{
	struct eg_vip_key key = {};
	__u32 *use;

	key.addr = *addr;
	use = bpf_map_lookup_elem(&eg_vip_ids, &key);
	return use ? *use : 0;
}

static __always_inline struct eg_vip *vip_lookup(struct pkt *p)
{
	struct eg_vip_key key = {};
	__u32 *id, vip;

	/* No VIP is there: what lies under it means something else. */
	if (!p->key.dport)
		return NULL;
	key.addr = p->key.daddr;
	key.port = p->key.dport;
	key.proto = p->key.proto;
	id = bpf_map_lookup_elem(&eg_vip_ids, &key);
	if (!id || !*id)
		return NULL;
	vip = *id;
	p->vip = vip;
	return bpf_map_lookup_elem(&eg_vips, &vip);
}

/* The VIP that takes fragments without ports at this address, if there is one:
 * then it is the only one of its protocol there. */
static __always_inline struct eg_vip *vip_stable(struct pkt *p)
{
	struct eg_vip_key key = {};
	struct eg_vip *vip;
	__u32 *id, number;

	key.addr = p->key.daddr;
	key.proto = p->key.proto;
	id = bpf_map_lookup_elem(&eg_vip_ids, &key);
	if (!id || !*id)
		return NULL;
	number = *id;
	vip = bpf_map_lookup_elem(&eg_vips, &number);
	if (!vip || !vip->epoch || !(vip->flags & EG_VIP_STABLE))
		return NULL;
	p->vip = number;
	return vip;
}

/* What the kernel looks for sockets by, and its length. */
static __always_inline __u32 vip_tuple(struct bpf_sock_tuple *tuple,
				       const struct pkt *p)
{
	if (p->v6) {
		__builtin_memcpy(tuple->ipv6.saddr, &p->key.saddr, 16);
		__builtin_memcpy(tuple->ipv6.daddr, &p->key.daddr, 16);
		tuple->ipv6.sport = p->key.sport;
		tuple->ipv6.dport = p->key.dport;
		return sizeof(tuple->ipv6);
	}
	__builtin_memcpy(&tuple->ipv4.saddr, &p->key.saddr.b[12], 4);
	__builtin_memcpy(&tuple->ipv4.daddr, &p->key.daddr.b[12], 4);
	tuple->ipv4.sport = p->key.sport;
	tuple->ipv4.dport = p->key.dport;
	return sizeof(tuple->ipv4);
}

/* Does a socket of this host want the packet? An address may be a VIP on one
 * port and the host's own on others: replies to its own connections, L7
 * listeners (the lookup runs our sk_lookup program) and other services. */
static __noinline int vip_local_socket(void *ctx, const struct pkt *p)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = vip_tuple(&tuple, p);
	struct bpf_sock *sk;

	if (p->key.proto == IPPROTO_TCP)
		sk = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	EXPLAIN(local, 1);
	return 1;
}

/* A SYN to an address with ports in eg_cookies. */
static __always_inline int vip_asks_cookie(const struct pkt *p, __u32 use)
{
	return use & EG_ADDR_COOKIE && p->key.proto == IPPROTO_TCP && tcp_opens(p);
}

#endif
