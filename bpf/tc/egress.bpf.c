/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Health probes on the traffic's own way. A prober on this host binds a socket
 * to an address of the host, marks it (SO_MARK) with the number of a VIP and a
 * backend, and connects to the VIP itself. Here the VIP is local, so the packet
 * leaves by the loopback device: eg_tc_egress, at the egress of that device,
 * sends it to the backend as a client's packet would be sent, by the same code.
 *
 * The backend answers from the VIP to the host. IPv4's stack refuses what comes
 * from outside with an address of its own as the source, whoever sent it, so
 * eg_tc_answer, at the ingress of the datapath's interfaces, hands answers to
 * sockets of probes, and nothing else, to the loopback device, which is told to
 * accept them (accept_local). IPv6's stack takes them as they are.
 *
 * Attached while some VIP is forwarded without nat; under nat a backend is
 * probed at its own address. What is not a probe's passes untouched.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps/backends.h"
#include "maps/meta.h"
#include "maps/rings.h"
#include "maps/probes.h"
#include "maps/vips.h"

#include "lib/ctx.h"
#include "lib/parse.h"
#include "lib/csum.h"
#include "lib/hash.h"
#include "tc/pkt.h"
#include "lib/outer.h"
#include "lib/encap.h"
#include "lib/nat.h"
#include "lib/l2.h"
#include "tc/write.h"

/* The same in each network namespace (LOOPBACK_IFINDEX of the kernel). */
#define LOOPBACK 1

/* No probe's: it passes. Beside enum eg_probed. */
#define NO_PROBE EG_PROBEDS

static __always_inline void count(__u32 result, __u32 packets, __u32 bytes)
{
	struct eg_count *c = bpf_map_lookup_elem(&eg_probed, &result);

	if (c) {
		c->packets += packets;
		c->bytes += bytes;
	}
}

/* What is this CPU working on? In a map and not on the stack, where the
 * verifier would walk each step once for every value. Private to the object:
 * nothing that uses it interrupts another on the same CPU. */
struct probing {
	struct pkt p;
	struct forward fw;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct probing);
} probing SEC(".maps");

static __always_inline struct probing *probing_begin(void)
{
	struct probing *work;
	__u32 zero = 0;

	work = bpf_map_lookup_elem(&probing, &zero);
	if (work)
		__builtin_memset(work, 0, sizeof(*work));
	return work;
}

static __always_inline int parse_leaving(struct __sk_buff *skb, struct pkt *p)
{
	void *data, *data_end;
	int parsed;

	if (skb_pull(skb, PULL_HEADERS))
		return NOT_OURS;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	parsed = parse(data, data_end, skb->len, p);
	pkt_train(skb, data, data_end, p);
	return parsed;
}

/* Of an answer, which is IPv4's. */
static __always_inline int parse_answer(struct __sk_buff *skb, struct pkt *p)
{
	struct cursor c = {};
	int proto;

	if (skb_pull(skb, PULL_HEADERS))
		return NOT_OURS;
	c.data = (void *)(long)skb->data;
	c.end = (void *)(long)skb->data_end;
	c.pos = c.data;
	c.frame = skb->len;
	if (parse_eth(&c, p) != ETH_P_IP)
		return NOT_OURS;
	proto = parse_ip4(&c, p);
	p->key.proto = proto;
	if (proto == IPPROTO_TCP)
		return parse_tcp(&c, p);
	return proto == IPPROTO_UDP ? parse_udp(&c, p) : NOT_OURS;
}

/* The number of the VIP there, 0: none. */
static __always_inline __u32 vip_at(const struct eg_addr *addr, __be16 port, __u8 proto)
{
	struct eg_vip_key key = {.addr = *addr, .port = port, .proto = proto};
	__u32 *id;

	/* What lies under port 0 means something else. */
	if (!port)
		return 0;
	id = bpf_map_lookup_elem(&eg_vip_ids, &key);
	return id ? *id : 0;
}

/* The outer source is the one that a client with this packet's ends would get. */
static __always_inline int probe_way(const struct pkt *p, const struct eg_vip *v,
				     const struct eg_backend *b, struct forward *fw)
{
	__u32 id = v->pool;
	struct eg_pool *pool = bpf_map_lookup_elem(&eg_pools, &id);
	struct eg_flow f = {};

	if (!pool)
		return EG_PROBED_GONE;
	open_outer(&f, b, hash_flow(pool->hash_key, &p->key));
	decide_out(&f, v, b, fw);
	/* As decide_way has it. */
	if (!fw->ifindex)
		return EG_PROBED_NO_NEXT_HOP;
	if (fw->mtu && pkt_size(p) + encap_room(fw->mode, fw->outer6) > fw->mtu)
		return EG_PROBED_TOO_BIG;
	return EG_PROBED_SENT;
}

/* We fail closed: at its own VIP the host would answer the probe itself, and
 * say something about itself. */
static __always_inline int probe_decide(const struct pkt *p, __u32 mark,
					struct forward *fw)
{
	__u32 vip = vip_at(&p->key.daddr, p->key.dport, p->key.proto);
	struct eg_probe *probe;
	struct eg_backend *b;
	struct eg_vip *v;
	__u32 backend;

	if (!vip)
		return NO_PROBE;
	probe = bpf_map_lookup_elem(&eg_probes, &mark);
	if (!probe || probe->vip != vip)
		return EG_PROBED_GONE;
	v = bpf_map_lookup_elem(&eg_vips, &vip);
	if (!v || v->epoch != probe->epoch || v->forward == EG_FORWARD_NAT)
		return EG_PROBED_GONE;
	backend = probe->backend;
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!b || b->generation != probe->generation || b->state == EG_BACKEND_NONE)
		return EG_PROBED_GONE;
	if (v->forward == EG_FORWARD_L2 && addr_is_mapped(&b->addr) == p->v6)
		return EG_PROBED_GONE;
	return probe_way(p, v, b, fw);
}

SEC("tc")
int eg_tc_egress(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;
	struct probing *work;
	int result, err;

	if ((mark & EG_PROBE_MASK) != EG_PROBE_MARK)
		return TC_ACT_UNSPEC;
	work = probing_begin();
	if (!work || parse_leaving(skb, &work->p) != PARSED)
		return TC_ACT_UNSPEC;
	result = probe_decide(&work->p, mark, &work->fw);
	if (result == NO_PROBE)
		return TC_ACT_UNSPEC;
	if (result == EG_PROBED_SENT) {
		if (work->fw.mode == EG_FORWARD_L2)
			err = skb_readdress(skb, &work->p, &work->fw);
		else
			err = skb_encapsulate(skb, &work->p, &work->fw);
		if (err)
			result = EG_PROBED_NO_ROOM;
	}
	count(result, pkt_segs(&work->p), work->p.len);
	if (result != EG_PROBED_SENT)
		return TC_ACT_SHOT;
	/* The traffic's packets have none, and rules may go by it. */
	skb->mark = 0;
	return bpf_redirect(work->fw.ifindex, 0);
}

/* Does a probe wait for this packet? A connection that was closed here first
 * has no mark any more, and yet must hear the other end's last words. */
static __always_inline int probe_waits(struct __sk_buff *skb, const struct pkt *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk, *full;
	int waits;

	__builtin_memcpy(&tuple.ipv4.saddr, &p->key.saddr.b[12], 4);
	__builtin_memcpy(&tuple.ipv4.daddr, &p->key.daddr.b[12], 4);
	tuple.ipv4.sport = p->key.sport;
	tuple.ipv4.dport = p->key.dport;
	if (p->key.proto == IPPROTO_UDP) {
		sk = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4),
				       BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return 0;
		waits = (sk->mark & EG_PROBE_MASK) == EG_PROBE_MARK;
		bpf_sk_release(sk);
		return waits;
	}
	sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS,
				0);
	if (!sk)
		return 0;
	waits = sk->state == BPF_TCP_TIME_WAIT;
	full = bpf_sk_fullsock(sk);
	if (full)
		waits = (full->mark & EG_PROBE_MASK) == EG_PROBE_MARK;
	bpf_sk_release(sk);
	return waits;
}

SEC("tc")
int eg_tc_answer(struct __sk_buff *skb)
{
	__u32 packets = skb->gso_segs ? skb->gso_segs : 1;
	__u8 nobody[ETH_ALEN] = {};
	struct probing *work;
	struct pkt *p;

	/* A frame with a tag is another interface's: attached there as well. */
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != PACKET_HOST ||
	    skb->vlan_present)
		return TC_ACT_UNSPEC;
	work = probing_begin();
	if (!work)
		return TC_ACT_UNSPEC;
	p = &work->p;
	if (parse_answer(skb, p) != PARSED ||
	    !vip_at(&p->key.saddr, p->key.sport, p->key.proto) || !probe_waits(skb, p))
		return TC_ACT_UNSPEC;
	/* The loopback device's own address, or it is another host's frame. */
	if (bpf_skb_store_bytes(skb, 0, nobody, sizeof(nobody), 0))
		return TC_ACT_UNSPEC;
	count(EG_PROBED_ANSWERED, packets, p->len);
	return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "GPL";
