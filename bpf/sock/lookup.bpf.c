/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Hands L7 traffic to the workers without a bind per VIP: a new connection
 * goes to the worker that holds the fewest, a datagram always to the same
 * worker. Attached to the network namespace; runs once a TCP connection and
 * once a datagram that no connected socket takes. What is no listener's is
 * none of our business: the stack goes on as if we were not here.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps/socks.h"
#include "maps/workers.h"

#include "lib/steer.h"

SEC("sk_lookup")
int eg_sk_lookup(struct bpf_sk_lookup *ctx)
{
	struct eg_listener *listener = steer_listener(ctx);
	__u32 first;

	if (!listener)
		return SK_PASS;
	if (ctx->protocol == IPPROTO_TCP)
		first = steer_least_loaded(listener, steer_hash(ctx));
	else
		first = steer_hash(ctx) % steer_workers(listener);
	steer_assign(ctx, listener, first);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
