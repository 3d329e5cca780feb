/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * The backend host's end of direct server return: takes a gateway's packets
 * out of IPIP, IP6IP6, 4in6, 6in4 or GUE where they come in, so that the host
 * needs no tunnel device. Attached to the ingress of an interface by egctl:
 * by tcx, or as a clsact classifier where the kernel has no tcx.
 *
 * What it does not take out passes byte for byte, as if it were not there:
 * the stack then answers as it always would, and a tunnel device that the host
 * does have still gets its own packets. The return value says "next" in either
 * case (TC_ACT_UNSPEC, which is TCX_NEXT): other programs on the interface see
 * the packet as well, after us the inner one.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi_backend.h"
#include "maps/decap.h"

#include "lib/ecn.h"
#include "lib/decap.h"

/* The kernel has the two flags below (6.3 and later). Without them the family
 * is changed by a helper made for translation. */
const volatile __u8 eg_decap_flags = 0;

/* enum bpf_adj_room_flags of 6.3; the headers we build with may be older. */
#define ADJ_ROOM_DECAP_L3_IPV4 (1ull << 7)
#define ADJ_ROOM_DECAP_L3_IPV6 (1ull << 8)

#define VLAN_ID_MASK 0xfff

static __always_inline int count(__u32 result, __u32 packets, __u32 bytes)
{
	struct eg_count *c = bpf_map_lookup_elem(&eg_decap, &result);

	if (c) {
		c->packets += packets;
		c->bytes += bytes;
	}
	return result >= EG_DECAP_ECN ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/*
 * Remove what lies between the Ethernet and the inner header. The kernel keeps
 * checksum offload and segmentation right: it forgets a checksum that was
 * verified outside, and corrects one that covers the whole packet.
 *
 * When the family changes, skb->protocol has to change with it, or the inner
 * packet goes to the wrong protocol's input. Before 6.3 the one helper that
 * does so is bpf_skb_change_proto: it also inserts or removes the 20 bytes by
 * which the headers differ, directly behind the Ethernet header, where all is
 * to be removed anyway.
 */
static __always_inline int cut(struct __sk_buff *skb, const struct outer *o,
			       const struct inner *in)
{
	__be16 type = in->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	__s32 length = o->pos - ETH_HLEN;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (in->v6 != o->v6 && eg_decap_flags) {
		flags |= in->v6 ? ADJ_ROOM_DECAP_L3_IPV6 : ADJ_ROOM_DECAP_L3_IPV4;
	} else if (in->v6 != o->v6) {
		if (bpf_skb_change_proto(skb, type, 0))
			return -1;
		length += in->v6 ? 20 : -20;
	}
	if (bpf_skb_adjust_room(skb, -length, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type,
				sizeof(type), 0))
		return -1;
	/* The device computed it over the outer header. */
	bpf_set_hash_invalid(skb);
	return 0;
}

/* Write the ECN field into the packet, whose IP header begins the frame now.
 * IPv4's header checksum takes up the change, so a checksum over the whole
 * packet stays as it is; IPv6 has none. */
static __always_inline int ecn_write(struct __sk_buff *skb, const struct inner *in,
				     __u32 ecn)
{
	__u16 head = bpf_ntohs(in->head);

	if (in->v6) {
		head = bpf_htons((head & ~(ECN_MASK << 4)) | ecn << 4);
		return bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head),
					   BPF_F_RECOMPUTE_CSUM);
	}
	head = bpf_htons((head & ~ECN_MASK) | ecn);
	if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), in->head,
				head, sizeof(head)))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), 0);
}

SEC("tc/ingress")
int eg_tc_backend(struct __sk_buff *skb)
{
	__u32 packets = skb->gso_segs ? skb->gso_segs : 1;
	__u32 bytes = skb->len - ETH_HLEN;
	struct outer o = {};
	struct inner in = {};
	int result, ecn;

	/* Frames that a promiscuous interface saw by chance, and frames of a
	 * VLAN, which are another interface's: attach there. Priority alone (id
	 * 0, IEEE 802.1Q section 6.9) makes no VLAN. */
	if (skb->pkt_type != PACKET_HOST ||
	    (skb->vlan_present && skb->vlan_tci & VLAN_ID_MASK))
		return count(EG_DECAP_OTHER, packets, bytes);
	result = decap_read(skb, &o, &in);
	if (result)
		return count(result, packets, bytes);
	ecn = ecn_decapsulate(in.ecn, o.ecn);
	if (ecn < 0)
		return count(EG_DECAP_ECN, packets, bytes);
	/* From here on the packet may be half changed: it is whole afterwards,
	 * or it is dropped. */
	if (cut(skb, &o, &in) || (ecn != in.ecn && ecn_write(skb, &in, ecn)))
		return count(EG_DECAP_ROOM, packets, bytes);
	return count(o.result, packets, bytes);
}

char LICENSE[] SEC("license") = "GPL";
