/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What `egctl capture` sees: each packet as it came in, with what became of it.
 * For a while the process puts a twin in the attached program's place: the same
 * source with these hooks in it (xdp/capture.bpf.c, tc/capture.bpf.c), told what
 * to record. They are compiled in there alone, since of a test of a constant the
 * verifier leaves the load: here a packet pays for none while nobody captures.
 *
 * Called where a packet's fate is decided, before a byte of it is rewritten.
 */
#ifndef EG_LIB_CAPTURE_H
#define EG_LIB_CAPTURE_H

#ifndef CAPTURES

#define CAPTURE(ctx, p, verdict)                                                       \
	do {                                                                           \
	} while (0)

#else

#include "maps/captures.h"

/* Jiffies from which on nothing is recorded: should the process die, its twin
 * stays attached until the next start, and pays for one comparison. */
const volatile __u64 eg_capture_until = 0;

/* Bytes of each frame that are kept. */
const volatile __u32 eg_capture_snap = 0;

/* Verdicts, a bit for each; and the only reason to drop that counts, or 0. */
const volatile __u32 eg_capture_verdicts = 0;
const volatile __u32 eg_capture_reason = 0;

/* Two VIPs, since one address and port is TCP's and UDP's; or 0: any. */
const volatile __u32 eg_capture_vips[2] = {};

/* The client's network; under an empty mask: anybody's. */
const volatile __u32 eg_capture_client[4] = {};
const volatile __u32 eg_capture_mask[4] = {};

static __always_inline int capture_is_clients(const struct eg_addr *addr)
{
	__u32 differs = 0;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++)
		differs |= (addr_word(addr, i) ^ eg_capture_client[i]) &
			   eg_capture_mask[i];
	return !differs;
}

/* The flow of a reply, whose client no header of it names. */
static __always_inline struct eg_flow *capture_reply(const struct pkt *p)
{
	struct eg_flow *f = bpf_map_lookup_elem(&eg_flows, &p->key);

	if (!f)
		f = bpf_map_lookup_elem(&eg_opening, &p->key);
	return f && f->dir == EG_FLOW_REVERSE ? f : NULL;
}

static __always_inline int capture_wants(const struct pkt *p,
					 const struct eg_captured *c)
{
	if (!(eg_capture_verdicts >> c->verdict & 1))
		return 0;
	if (eg_capture_reason && eg_capture_reason != c->reason)
		return 0;
	return !eg_capture_vips[0] || p->vip == eg_capture_vips[0] ||
	       p->vip == eg_capture_vips[1];
}

static __noinline int capture_send(void *ctx, const struct pkt *p,
				   struct eg_captured *c)
{
	__u32 length = pkt_frame(ctx), kept = length, zero = 0;
	__u64 *lost;

	if (kept > eg_capture_snap)
		kept = eg_capture_snap;
	c->time = bpf_ktime_get_ns();
	c->ifindex = p->ifindex;
	c->length = length;
	c->kept = kept;
	c->vip = p->vip;
	c->backend = p->backend;
	if (!bpf_perf_event_output(ctx, &captured,
				   BPF_F_CURRENT_CPU | (__u64)kept << 32, c,
				   sizeof(*c)))
		return 0;
	lost = bpf_map_lookup_elem(&capture_lost, &zero);
	if (lost)
		(*lost)++;
	return 0;
}

static __noinline int capture(void *ctx, const struct pkt *p, int verdict)
{
	struct scratch *s = scratch_go_on();
	struct eg_captured *c;
	struct eg_flow *reply;

	if (!s || clock_jiffies() >= eg_capture_until)
		return 0;
	c = &s->captured;
	c->verdict = EG_VERDICT_DROPPED;
	c->reason = 0;
	if (verdict == FORWARD)
		c->verdict = EG_VERDICT_FORWARDED;
	else if (verdict == PASS)
		c->verdict = EG_VERDICT_PASSED;
	else if (verdict == ANSWERED)
		c->verdict = EG_VERDICT_ANSWERED;
	else if (verdict == HOLD)
		c->verdict = EG_CAPTURED_HELD;
	else
		c->reason = verdict;
	if (!capture_wants(p, c))
		return 0;
	reply = capture_reply(p);
	c->reply = !!reply;
	if (!capture_is_clients(reply ? &reply->addr : &p->key.saddr))
		return 0;
	return capture_send(ctx, p, c);
}

#define CAPTURE(ctx, p, verdict) capture(ctx, p, verdict)

#endif
#endif
