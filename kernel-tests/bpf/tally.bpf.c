/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Counts numbered datagrams where they leave a client (tc) and where they
 * arrive at a backend (XDP), which also takes them out: no socket's buffer,
 * and no answer, has a part in the figures.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAGIC 0x4e524745 /* "EGRN", as it lies in the frame */

/* What a numbered datagram carries. */
struct numbered {
	__u32 magic;
	__u32 number;
};

struct tally {
	__u64 packets;
	__u64 sum;
};

/* How many, and the sum of their numbers: one lost and one doubled show. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tally SEC(".maps");

static __always_inline struct numbered *numbered(void *data, void *end)
{
	struct ethhdr *eth = data;
	struct numbered *found;
	struct ipv6hdr *ip6;
	struct udphdr *udp;
	struct iphdr *ip;

	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end || ip->ihl != 5 ||
		    ip->protocol != IPPROTO_UDP)
			return 0;
		udp = (void *)(ip + 1);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		ip6 = (void *)(eth + 1);
		if ((void *)(ip6 + 1) > end || ip6->nexthdr != IPPROTO_UDP)
			return 0;
		udp = (void *)(ip6 + 1);
	} else {
		return 0;
	}
	found = (void *)(udp + 1);
	if ((void *)(found + 1) > end || found->magic != MAGIC)
		return 0;
	return found;
}

static __always_inline int counted(void *data, void *end)
{
	struct numbered *it = numbered(data, end);
	struct tally *mine;
	__u32 zero = 0;

	if (!it)
		return 0;
	mine = bpf_map_lookup_elem(&tally, &zero);
	if (!mine)
		return 0;
	mine->packets++;
	mine->sum += it->number;
	return 1;
}

SEC("xdp")
int eg_test_arrive(struct xdp_md *ctx)
{
	return counted((void *)(long)ctx->data, (void *)(long)ctx->data_end) ? XDP_DROP
									     : XDP_PASS;
}

SEC("tc")
int eg_test_leave(struct __sk_buff *skb)
{
	counted((void *)(long)skb->data, (void *)(long)skb->data_end);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
