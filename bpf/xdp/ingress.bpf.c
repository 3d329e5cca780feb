/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Where packets come in: parse, flow, vip, pick, forward. Attached to each
 * interface of [datapath]. A packet that is not an L4 VIP's, nor the reply of
 * a flow of one, passes untouched.
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
#include "maps/counters.h"
#include "maps/events.h"
#include "maps/flows.h"
#include "maps/guards.h"
#include "maps/meta.h"
#include "maps/rings.h"
#include "maps/vips.h"

#include "lib/tunables.h"
#include "lib/ctx.h"
#include "lib/parse.h"
#include "lib/csum.h"
#include "lib/hash.h"
#include "lib/count.h"
#include "lib/event.h"
#include "lib/drop.h"
#include "lib/vip.h"
#include "lib/guard.h"
#include "lib/pick.h"
#include "lib/flow.h"
#include "lib/open.h"
#include "lib/decide.h"
#include "lib/nat.h"
#include "lib/l2.h"

static __always_inline __u32 frame_bytes(struct xdp_md *ctx)
{
	if (eg_xdp_frags)
		return bpf_xdp_get_buff_len(ctx);
	return ctx->data_end - ctx->data;
}

static __always_inline int forward(struct xdp_md *ctx, const struct pkt *p,
				   const struct forward *fw)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;

	if (nat_write(data, data_end, p, fw))
		return XDP_ABORTED;
	l2_write(data, fw);
	if (fw->ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(fw->ifindex, 0);
}

SEC("xdp")
int eg_xdp_ingress(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct forward fw = {};
	struct pkt p = {};
	int verdict;

	p.ifindex = ctx->ingress_ifindex;
	verdict = decide(ctx, parse(data, data_end, frame_bytes(ctx), &p), &p, &fw);
	if (verdict == PASS) {
		count_total(EG_VERDICT_PASSED, &p);
		return XDP_PASS;
	}
	if (verdict != FORWARD) {
		drop(&p, verdict);
		return XDP_DROP;
	}
	return forward(ctx, &p, &fw);
}

char LICENSE[] SEC("license") = "GPL";
