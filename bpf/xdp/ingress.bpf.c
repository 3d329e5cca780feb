/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Where packets come in: parse, flow, forward. What needs more than a known
 * flow goes on in a program of its own, by a tail call: a new or half-open
 * flow, an ICMP error, a packet that is too big, a fragment. Attached to each interface
 * of [datapath]. What is not an L4 VIP's passes untouched.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
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
#include "xdp/pkt.h"
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

int eg_xdp_ingress(struct xdp_md *ctx);
int eg_xdp_open(struct xdp_md *ctx);
int eg_xdp_icmp(struct xdp_md *ctx);
int eg_xdp_too_big(struct xdp_md *ctx);
int eg_xdp_cookie(struct xdp_md *ctx);
int eg_xdp_frag(struct xdp_md *ctx);
int eg_xdp_frag_new(struct xdp_md *ctx);
int eg_xdp_reset(struct xdp_md *ctx);

/* Which program takes over (enum tail)? Each load has a table of its own,
 * filled before anything is attached and pinned with the links: the kernel
 * empties it when the last descriptor and pin are gone. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, TAILS);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct xdp_md *));
} xdp_tails SEC(".maps") = {
	.values =
		{
			[TAIL_OPEN] = (void *)&eg_xdp_open,
			[TAIL_ICMP] = (void *)&eg_xdp_icmp,
			[TAIL_TOO_BIG] = (void *)&eg_xdp_too_big,
			[TAIL_RESET] = (void *)&eg_xdp_reset,
			[TAIL_FRAG] = (void *)&eg_xdp_frag,
			[TAIL_FRAG_OPEN] = (void *)&eg_xdp_frag_new,
			[TAIL_COOKIE] = (void *)&eg_xdp_cookie,
		},
};

static __always_inline int parse_frame(struct xdp_md *ctx, struct pkt *p)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	__u32 frame = ctx->data_end - ctx->data;

	if (eg_xdp_frags)
		frame = bpf_xdp_get_buff_len(ctx);
	p->ifindex = ctx->ingress_ifindex;
	return parse(data, data_end, frame, p);
}

static __always_inline int send(const struct xdp_md *ctx, __u32 ifindex)
{
	if (ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(ifindex, 0);
}

/* Make room for an outer header, and write it. */
static __always_inline int encapsulate(struct xdp_md *ctx, const struct pkt *p,
				       const struct forward *fw)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	__u32 l3 = p->l3 & L3_OFFSET_MAX;
	struct l2_tags tags;

	if (l2_save_tags(&tags, data, data_end) || ttl_write(data, data_end, p))
		return -1;
	if (bpf_xdp_adjust_head(ctx, -(int)encap_room(fw->mode, fw->outer6)))
		return -1;
	data_end = (void *)(long)ctx->data_end;
	data = (void *)(long)ctx->data;
	if (l2_build(data, data_end, l3, &tags, fw->dmac, fw->smac,
		     fw->outer6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP)))
		return -1;
	return encap_write(data + l3, data_end, p, fw, p->len);
}

/* As it is, to another MAC address. */
static __always_inline int readdress(struct xdp_md *ctx, const struct pkt *p,
				     const struct forward *fw)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;

	return ttl_write(data, data_end, p) || l2_write(data, data_end, fw);
}

static __always_inline int translate(struct xdp_md *ctx, const struct pkt *p,
				     const struct forward *fw)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;

	return nat_write(data, data_end, p, fw) || l2_write(data, data_end, fw);
}

static __always_inline int forward(struct xdp_md *ctx, const struct pkt *p,
				   const struct forward *fw)
{
	int err;

	if (fw->mode == EG_FORWARD_NAT)
		err = translate(ctx, p, fw);
	else if (fw->mode == EG_FORWARD_L2)
		err = readdress(ctx, p, fw);
	else
		err = encapsulate(ctx, p, fw);
	return err ? XDP_ABORTED : send(ctx, fw->ifindex);
}

/* Carry out a decision. */
static __always_inline int carry_out(struct xdp_md *ctx, const struct pkt *p,
				     int verdict, const struct forward *fw)
{
	if (verdict == FORWARD) {
		CAPTURE(ctx, p, FORWARD);
		return forward(ctx, p, fw);
	}
	if (verdict == PASS) {
		CAPTURE(ctx, p, PASS);
		count_total(EG_VERDICT_PASSED, p);
		return XDP_PASS;
	}
	if (IS_TAIL(verdict)) {
		bpf_tail_call(ctx, &xdp_tails, TAIL_OF(verdict));
		verdict = EG_DROP_TAIL;
	}
	CAPTURE(ctx, p, verdict);
	drop(p, verdict);
	return XDP_DROP;
}

SEC("xdp")
int eg_xdp_ingress(struct xdp_md *ctx)
{
	struct forward fw = {};
	struct pkt p = {};

	return carry_out(ctx, &p, decide(&p, parse_frame(ctx, &p), &fw), &fw);
}

SEC("xdp")
int eg_xdp_open(struct xdp_md *ctx)
{
	struct scratch *s = scratch_begin();
	int verdict;

	if (!s || parse_frame(ctx, &s->p) != PARSED)
		return XDP_ABORTED;
	verdict = decide_open(ctx, &s->p, &s->fw, &s->claim, &s->promotion);
	return carry_out(ctx, &s->p, verdict, &s->fw);
}

SEC("xdp")
int eg_xdp_icmp(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct scratch *s = scratch_begin();
	int verdict = PASS;
	__u8 dir = 0;

	if (!s || parse_frame(ctx, &s->p) != ICMP)
		return XDP_ABORTED;
	__builtin_memset(&s->quote, 0, sizeof(s->quote));
	if (!quote_parse(data, data_end, &s->p, &s->quote))
		verdict = icmp_decide(&s->p, &s->quote, &s->fw, &dir);
	if (verdict != FORWARD)
		return carry_out(ctx, &s->p, verdict, &s->fw);
	CAPTURE(ctx, &s->p, FORWARD);
	count_forwarded(&s->p, dir == EG_FLOW_REVERSE);
	if (s->fw.mode != EG_FORWARD_NAT)
		return forward(ctx, &s->p, &s->fw);
	if (icmp_write(data, data_end, &s->p, &s->quote, &s->fw, dir) ||
	    l2_write(data, data_end, &s->fw))
		return XDP_ABORTED;
	return send(ctx, s->fw.ifindex);
}

/* Make the frame `head` bytes longer in front of the packet and then exactly
 * `length` long behind its Ethernet header, addressed back to its sender. */
static __always_inline int turn_round(struct xdp_md *ctx, const struct pkt *p, int head,
				      __u32 length)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	__u32 l3 = p->l3 & L3_OFFSET_MAX;
	struct l2_tags tags;
	__u32 frame;

	if (l2_save_tags(&tags, data, data_end))
		return -1;
	if (head && bpf_xdp_adjust_head(ctx, -head))
		return -1;
	frame = ctx->data_end - ctx->data;
	if (eg_xdp_frags)
		frame = bpf_xdp_get_buff_len(ctx);
	if (bpf_xdp_adjust_tail(ctx, (int)(l3 + length) - (int)frame))
		return -1;
	data_end = (void *)(long)ctx->data_end;
	data = (void *)(long)ctx->data;
	return l2_build(data, data_end, l3, &tags, p->smac, p->dmac,
			p->v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP));
}

/* Turn the frame into the error about it: the packet moves behind new headers,
 * and its end is cut off. */
static __always_inline int complain(struct xdp_md *ctx, const struct pkt *p, __u32 mtu)
{
	__u32 head = (p->v6 ? IP6_LEN : IP4_LEN) + ICMP_LEN;
	void *data_end, *l3;

	if (turn_round(ctx, p, head, head + (p->v6 ? QUOTE6 : QUOTE4)))
		return -1;
	data_end = (void *)(long)ctx->data_end;
	l3 = (void *)(long)ctx->data + (p->l3 & L3_OFFSET_MAX);
	return p->v6 ? too_big_write6(l3, data_end, p, mtu)
		     : too_big_write4(l3, data_end, p, mtu);
}

/* Turn the frame into the reset that answers it. */
static __always_inline int refuse(struct xdp_md *ctx, const struct pkt *p)
{
	void *data_end, *l3;

	if (turn_round(ctx, p, 0, (p->v6 ? IP6_LEN : IP4_LEN) + TCP_LEN))
		return -1;
	data_end = (void *)(long)ctx->data_end;
	l3 = (void *)(long)ctx->data + (p->l3 & L3_OFFSET_MAX);
	return p->v6 ? reset_write6(l3, data_end, p) : reset_write4(l3, data_end, p);
}

/* The packet is dropped, and its sender told why, at a bounded rate. */
static __always_inline int too_big(struct xdp_md *ctx, struct pkt *p)
{
	__u32 mtu = too_big_mtu(p);

	CAPTURE(ctx, p, EG_DROP_TOO_BIG);
	drop(p, EG_DROP_TOO_BIG);
	if (!mtu || !gate_passes(GATE_ICMP, eg_icmp_rate) || complain(ctx, p, mtu))
		return XDP_DROP;
	return XDP_TX;
}

SEC("xdp")
int eg_xdp_too_big(struct xdp_md *ctx)
{
	struct scratch *s = scratch_begin();

	if (!s || parse_frame(ctx, &s->p) != PARSED)
		return XDP_ABORTED;
	return too_big(ctx, &s->p);
}

SEC("xdp")
int eg_xdp_reset(struct xdp_md *ctx)
{
	struct scratch *s = scratch_begin();
	__u32 reason = EG_DROP_BACKEND_DOWN;

	if (!s || parse_frame(ctx, &s->p) != PARSED)
		return XDP_ABORTED;
	if (!vip_lookup(&s->p))
		reason = EG_DROP_UNUSED_PORT;
	CAPTURE(ctx, &s->p, reason);
	drop(&s->p, reason);
	if (!gate_passes(GATE_RESET, eg_reset_rate) || refuse(ctx, &s->p))
		return XDP_DROP;
	return XDP_TX;
}

/* Turn the SYN into the SYN-ACK with this cookie. */
static __always_inline int greet(struct xdp_md *ctx, const struct pkt *p, __s64 made)
{
	void *data_end, *l3;

	if (turn_round(ctx, p, 0, (p->v6 ? IP6_LEN : IP4_LEN) + COOKIE_TCP_LEN))
		return -1;
	data_end = (void *)(long)ctx->data_end;
	l3 = (void *)(long)ctx->data + (p->l3 & L3_OFFSET_MAX);
	return cookie_write(l3, data_end, p, made);
}

SEC("xdp")
int eg_xdp_cookie(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct scratch *s = scratch_begin();
	__s64 made;

	if (!s || parse_frame(ctx, &s->p) != PARSED)
		return XDP_ABORTED;
	made = cookie_decide(ctx, data, data_end, s);
	if (!made)
		return carry_out(ctx, &s->p, PASS, &s->fw);
	CAPTURE(ctx, &s->p, ANSWERED);
	count_total(EG_VERDICT_ANSWERED, &s->p);
	if (greet(ctx, &s->p, made)) {
		cookie_count(EG_COOKIE_FAILED);
		return XDP_DROP;
	}
	cookie_count(EG_COOKIE_SENT);
	return XDP_TX;
}

static __always_inline int frag_forward(struct xdp_md *ctx, struct scratch *s,
					struct eg_frag *e)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	const struct forward *fw = &s->fw;
	const struct pkt *p = &s->p;
	__u32 id = 0;

	CAPTURE(ctx, p, FORWARD);
	if (fw->mode != EG_FORWARD_NAT)
		return forward(ctx, p, fw);
	if (e)
		id = frag_identify(e, &s->piece, fw);
	if (s->piece.first ? nat_write(data, data_end, p, fw)
			   : frag_write_ip(data, data_end, p, fw))
		return XDP_ABORTED;
	if (frag_write_id(data, data_end, p, &s->piece, id) ||
	    l2_write(data, data_end, fw))
		return XDP_ABORTED;
	return send(ctx, fw->ifindex);
}

/* Hand it to the process, which lets it come in again when its first was seen.
 * It counts then, or when the process gives it up (eg_xdp_give_up). */
static __always_inline int frag_hold(struct xdp_md *ctx, struct scratch *s)
{
	__u64 frame = pkt_frame(ctx);
	int err;

	if (frame > HELD_MAX)
		return -1;
	if (eg_dry_run) {
		/* And if nobody takes it, what the caller says. */
		EXPLAIN(held, 1);
		return -1;
	}
	s->held.key = s->piece.key;
	s->held.ifindex = ctx->ingress_ifindex;
	s->held.length = frame;
	err = bpf_perf_event_output(ctx, &held, BPF_F_CURRENT_CPU | frame << 32,
				    &s->held, sizeof(s->held));
	if (!err)
		CAPTURE(ctx, &s->p, HOLD);
	return err;
}

SEC("xdp")
int eg_xdp_frag(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct scratch *s = scratch_begin();
	struct eg_frag *e = NULL;
	int verdict;

	if (!s || parse_frame(ctx, &s->p) != FRAGMENT)
		return XDP_ABORTED;
	verdict = frag_parse_frame(data, data_end, s);
	if (verdict == FORWARD)
		verdict = frag_decide(s, &e);
	if (verdict == FORWARD)
		return frag_forward(ctx, s, e);
	if (verdict == HOLD && !frag_hold(ctx, s))
		return XDP_DROP;
	if (verdict == TAIL(TAIL_TOO_BIG) && s->piece.first)
		return too_big(ctx, &s->p);
	return carry_out(ctx, &s->p, frag_settle(&s->piece, verdict), &s->fw);
}

SEC("xdp")
int eg_xdp_frag_new(struct xdp_md *ctx)
{
	struct scratch *s = scratch_go_on();
	struct eg_frag *e = NULL;
	int verdict;

	if (!s)
		return XDP_ABORTED;
	verdict = frag_decide_open(ctx, s, &e);
	if (verdict == FORWARD)
		return frag_forward(ctx, s, e);
	if (verdict == TAIL(TAIL_TOO_BIG) && s->piece.first)
		return too_big(ctx, &s->p);
	return carry_out(ctx, &s->p, frag_settle(&s->piece, verdict), &s->fw);
}

/* Never attached: the process runs it on what it has held in vain. */
SEC("xdp")
int eg_xdp_give_up(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct scratch *s = scratch_begin();

	if (!s || parse_frame(ctx, &s->p) != FRAGMENT ||
	    frag_parse_frame(data, data_end, s) != FORWARD)
		return XDP_ABORTED;
	return carry_out(ctx, &s->p, frag_settle(&s->piece, HOLD), &s->fw);
}

char LICENSE[] SEC("license") = "GPL";
