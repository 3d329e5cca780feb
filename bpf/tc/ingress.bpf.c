/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * bpf/xdp/ingress.bpf.c for interfaces that cannot run it: the same decisions,
 * written into an skb. Outer VLAN tags are in the skb's own fields and stay
 * there. What passes goes on to whoever else is attached.
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
#include "maps/cookies.h"
#include "maps/counters.h"
#include "maps/events.h"
#include "maps/flows.h"
#include "maps/frags.h"
#include "maps/guards.h"
#include "maps/meta.h"
#include "maps/rings.h"
#include "maps/vips.h"

#include "lib/tunables.h"
#include "lib/clock.h"
#include "lib/ctx.h"
#include "maps/scratch.h"
#include "lib/parse.h"
#include "lib/csum.h"
#include "lib/hash.h"
#include "tc/pkt.h"
#include "lib/explain.h"
#include "lib/count.h"
#include "lib/event.h"
#include "lib/drop.h"
#include "lib/vip.h"
#include "lib/ewma.h"
#include "lib/guard.h"
#include "lib/budget.h"
#include "lib/pick.h"
#include "lib/haste.h"
#include "lib/flow.h"
#include "lib/claim.h"
#include "lib/latency.h"
#include "lib/opening.h"
#include "lib/outer.h"
#include "lib/open.h"
#include "lib/encap.h"
#include "lib/decide.h"
#include "lib/nat.h"
#include "lib/l2.h"
#include "lib/icmp.h"
#include "lib/too_big.h"
#include "lib/reset.h"
#include "lib/cookie.h"
#include "lib/frag_note.h"
#include "lib/frag.h"
#include "lib/frag_write.h"
#include "lib/capture.h"
#include "tc/write.h"
#include "tc/answer.h"

int eg_tc_ingress(struct __sk_buff *skb);
int eg_tc_open(struct __sk_buff *skb);
int eg_tc_icmp(struct __sk_buff *skb);
int eg_tc_too_big(struct __sk_buff *skb);
int eg_tc_reset(struct __sk_buff *skb);
int eg_tc_cookie(struct __sk_buff *skb);
int eg_tc_frag(struct __sk_buff *skb);
int eg_tc_frag_new(struct __sk_buff *skb);

/* Which program takes over (enum tail)? Each load has a table of its own,
 * filled before anything is attached and pinned with the links: the kernel
 * empties it when the last descriptor and pin are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, TAILS);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct __sk_buff *));
} tc_tails SEC(".maps") = {
	.values =
		{
			[TAIL_OPEN] = (void *)&eg_tc_open,
			[TAIL_ICMP] = (void *)&eg_tc_icmp,
			[TAIL_TOO_BIG] = (void *)&eg_tc_too_big,
			[TAIL_RESET] = (void *)&eg_tc_reset,
			[TAIL_FRAG] = (void *)&eg_tc_frag,
			[TAIL_FRAG_OPEN] = (void *)&eg_tc_frag_new,
			[TAIL_COOKIE] = (void *)&eg_tc_cookie,
		},
};

static __always_inline int parse_skb(struct __sk_buff *skb, struct pkt *p)
{
	void *data_end = (void *)(long)skb->data_end;
	void *data = (void *)(long)skb->data;
	int parsed;

	p->ifindex = skb->ifindex;
	parsed = parse(data, data_end, skb->len, p);
	pkt_train(skb, data, data_end, p);
	return parsed;
}

/* Drivers put the headers into the linear part as far as they know them. */
static __always_inline int parse_frame(struct __sk_buff *skb, struct pkt *p)
{
	__u32 linear = skb->data_end - skb->data;
	int parsed = parse_skb(skb, p);

	if (parsed == NOT_OURS && linear < PULL_HEADERS && linear < skb->len &&
	    !skb_pull(skb, PULL_HEADERS)) {
		__builtin_memset(p, 0, sizeof(*p));
		parsed = parse_skb(skb, p);
	}
	/* The interface hears what is sent to other hosts (it is a port of a
	 * bridge, or somebody listens). XDP cannot tell, and here the kernel
	 * has told. */
	return skb->pkt_type == PACKET_OTHERHOST ? NOT_OURS : parsed;
}

static __always_inline int forward(struct __sk_buff *skb, const struct pkt *p,
				   const struct forward *fw)
{
	int err;

	if (fw->mode == EG_FORWARD_NAT)
		err = skb_nat(skb, p, fw);
	else if (fw->mode == EG_FORWARD_L2)
		err = skb_readdress(skb, p, fw);
	else
		err = skb_encapsulate(skb, p, fw);
	return err ? TC_ACT_SHOT : bpf_redirect(fw->ifindex, 0);
}

/* Carry out a decision. */
static __always_inline int carry_out(struct __sk_buff *skb, const struct pkt *p,
				     int verdict, const struct forward *fw)
{
	if (verdict == FORWARD) {
		CAPTURE(skb, p, FORWARD);
		return forward(skb, p, fw);
	}
	if (verdict == PASS) {
		CAPTURE(skb, p, PASS);
		count_total(EG_VERDICT_PASSED, p);
		return TC_ACT_UNSPEC;
	}
	if (IS_TAIL(verdict)) {
		bpf_tail_call(skb, &tc_tails, TAIL_OF(verdict));
		verdict = EG_DROP_TAIL;
	}
	CAPTURE(skb, p, verdict);
	drop(p, verdict);
	return TC_ACT_SHOT;
}

SEC("tc")
int eg_tc_ingress(struct __sk_buff *skb)
{
	struct forward fw = {};
	struct pkt p = {};

	return carry_out(skb, &p, decide(&p, parse_frame(skb, &p), &fw), &fw);
}

SEC("tc")
int eg_tc_open(struct __sk_buff *skb)
{
	struct scratch *s = scratch_begin();
	int verdict;

	if (!s || parse_frame(skb, &s->p) != PARSED)
		return TC_ACT_SHOT;
	verdict = decide_open(skb, &s->p, &s->fw, &s->claim, &s->promotion);
	return carry_out(skb, &s->p, verdict, &s->fw);
}

SEC("tc")
int eg_tc_icmp(struct __sk_buff *skb)
{
	struct scratch *s = scratch_begin();
	void *data, *data_end;
	int verdict = PASS;
	__u8 dir = 0;

	if (!s || skb_pull(skb, PULL_HEADERS) || parse_frame(skb, &s->p) != ICMP)
		return TC_ACT_SHOT;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	__builtin_memset(&s->quote, 0, sizeof(s->quote));
	if (!quote_parse(data, data_end, &s->p, &s->quote))
		verdict = icmp_decide(&s->p, &s->quote, &s->fw, &dir);
	if (verdict != FORWARD)
		return carry_out(skb, &s->p, verdict, &s->fw);
	CAPTURE(skb, &s->p, FORWARD);
	count_forwarded(&s->p, dir == EG_FLOW_REVERSE);
	if (s->fw.mode != EG_FORWARD_NAT)
		return forward(skb, &s->p, &s->fw);
	if (icmp_write(data, data_end, &s->p, &s->quote, &s->fw, dir) ||
	    l2_write(data, data_end, &s->fw))
		return TC_ACT_SHOT;
	skb_sum_ttl(skb, &s->p);
	return bpf_redirect(s->fw.ifindex, 0);
}

/* The packet is dropped, and its sender told why, at a bounded rate. */
static __always_inline int too_big(struct __sk_buff *skb, struct pkt *p)
{
	__u32 mtu = too_big_mtu(p);

	CAPTURE(skb, p, EG_DROP_TOO_BIG);
	drop(p, EG_DROP_TOO_BIG);
	if (!mtu || !gate_passes(GATE_ICMP, eg_icmp_rate) || skb_complain(skb, p, mtu))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

SEC("tc")
int eg_tc_too_big(struct __sk_buff *skb)
{
	struct scratch *s = scratch_begin();

	if (!s || parse_frame(skb, &s->p) != PARSED)
		return TC_ACT_SHOT;
	return too_big(skb, &s->p);
}

SEC("tc")
int eg_tc_reset(struct __sk_buff *skb)
{
	struct scratch *s = scratch_begin();
	__u32 reason = EG_DROP_BACKEND_DOWN;

	if (!s || parse_frame(skb, &s->p) != PARSED)
		return TC_ACT_SHOT;
	if (!vip_lookup(&s->p))
		reason = EG_DROP_UNUSED_PORT;
	CAPTURE(skb, &s->p, reason);
	drop(&s->p, reason);
	if (!gate_passes(GATE_RESET, eg_reset_rate) || skb_refuse(skb, &s->p))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

SEC("tc")
int eg_tc_cookie(struct __sk_buff *skb)
{
	struct scratch *s = scratch_begin();
	void *data, *data_end;
	__s64 made;

	if (!s || skb_pull(skb, PULL_HEADERS) || parse_frame(skb, &s->p) != PARSED)
		return TC_ACT_SHOT;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	made = cookie_decide(skb, data, data_end, s);
	if (!made)
		return carry_out(skb, &s->p, PASS, &s->fw);
	CAPTURE(skb, &s->p, ANSWERED);
	count_total(EG_VERDICT_ANSWERED, &s->p);
	if (skb_greet(skb, &s->p, made)) {
		cookie_count(EG_COOKIE_FAILED);
		return TC_ACT_SHOT;
	}
	cookie_count(EG_COOKIE_SENT);
	return bpf_redirect(skb->ifindex, 0);
}

/* One that is not the first: no L4 header, so no checksum but skb->csum. */
static __always_inline int skb_frag_ip(struct __sk_buff *skb, const struct pkt *p,
				       const struct forward *fw)
{
	void *data_end = (void *)(long)skb->data_end;
	void *data = (void *)(long)skb->data;

	if (frag_write_ip(data, data_end, p, fw) || l2_write(data, data_end, fw))
		return -1;
	if (p->v6)
		bpf_csum_update(skb, csum_32(nat_addrs(p, fw)));
	skb_sum_ttl(skb, p);
	return 0;
}

static __always_inline int frag_forward(struct __sk_buff *skb, struct scratch *s,
					struct eg_frag *e)
{
	const struct piece *g = &s->piece;
	const struct pkt *p = &s->p;
	void *data_end, *data;
	__u32 id = 0;

	CAPTURE(skb, p, FORWARD);
	if (s->fw.mode != EG_FORWARD_NAT)
		return forward(skb, p, &s->fw);
	if (e)
		id = frag_identify(e, g, &s->fw);
	if (g->first ? skb_nat(skb, p, &s->fw) : skb_frag_ip(skb, p, &s->fw))
		return TC_ACT_SHOT;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	if (frag_write_id(data, data_end, p, g, id))
		return TC_ACT_SHOT;
	if (p->v6)
		bpf_csum_update(skb, csum_32(csum_word(g->key.id, bpf_htonl(id))));
	return bpf_redirect(s->fw.ifindex, 0);
}

/* As in XDP, but for those that come before their first: nothing lets an skb
 * come in again, so they are not held. */
SEC("tc")
int eg_tc_frag(struct __sk_buff *skb)
{
	struct scratch *s = scratch_begin();
	struct eg_frag *e = NULL;
	void *data, *data_end;
	int verdict;

	if (!s || skb_pull(skb, PULL_HEADERS) || parse_frame(skb, &s->p) != FRAGMENT)
		return TC_ACT_SHOT;
	data_end = (void *)(long)skb->data_end;
	data = (void *)(long)skb->data;
	verdict = frag_parse_frame(data, data_end, s);
	if (verdict == FORWARD)
		verdict = frag_decide(s, &e);
	if (verdict == FORWARD)
		return frag_forward(skb, s, e);
	if (verdict == TAIL(TAIL_TOO_BIG) && s->piece.first)
		return too_big(skb, &s->p);
	return carry_out(skb, &s->p, frag_settle(&s->piece, verdict), &s->fw);
}

SEC("tc")
int eg_tc_frag_new(struct __sk_buff *skb)
{
	struct scratch *s = scratch_go_on();
	struct eg_frag *e = NULL;
	int verdict;

	if (!s)
		return TC_ACT_SHOT;
	verdict = frag_decide_open(skb, s, &e);
	if (verdict == FORWARD)
		return frag_forward(skb, s, e);
	if (verdict == TAIL(TAIL_TOO_BIG) && s->piece.first)
		return too_big(skb, &s->p);
	return carry_out(skb, &s->p, frag_settle(&s->piece, verdict), &s->fw);
}

char LICENSE[] SEC("license") = "GPL";
