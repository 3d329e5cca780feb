/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What the packet bench runs around, and beside, the product's programs. Only
 * tools/src/bench loads this; no product object contains any of it.
 *
 * BPF_PROG_TEST_RUN's `repeat` hands a program its own output: a program that
 * rewrites would from the second turn on see a packet that is no longer ours.
 * So the program under test is not run directly with it. `bench_each` writes
 * the frame anew at every turn and tail-calls it; its own cost is the cost of
 * the same call into `bench_empty`, and is subtracted, and so is that of taking
 * off an outer header: half of what a call into `bench_grow` costs more.
 *
 * `bench_live` sends the same frames out of an interface, so that the program
 * under test meets them behind another: there the kernel's own figures of
 * attached programs tell what a packet costs.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Bytes written anew at every turn: all headers. Fixed, so that one bounds
 * check covers the copy. What a longer frame has behind them, no program here
 * changes. */
#define FRAME 128
/* The 40 bytes of an IPv4 or IPv6 frame that the yardstick looks up: from the
 * IP header's addresses on, as long as the product's flow key. */
#define KEY_AT 26
#define KEY_WORDS 5
struct bench_key {
	__u64 w[KEY_WORDS];
};

/* Who runs after the frame is restored. Written before each measurement. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} bench_target SEC(".maps");

/* The yardstick's table: as many keys as the flows of the case beside it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__type(key, struct bench_key);
	__type(value, __u64);
} bench_keys SEC(".maps");

/* All of .bss, written by the process between runs. */
struct {
	__u64 frame[FRAME / 8];
	__u32 mask;	/* flows - 1; 0: every turn sends the same packet */
	__u32 at;	/* offset of the four bytes that tell flows apart */
	__u32 turn;	/* packets sent */
	__u32 stride;	/* odd: turns visit every flow once, in its order */
	__u32 length;	/* of the frame, FRAME at least */
	__u32 room;	/* of an outer header: what bench_grow makes */
} bench;

/* System calls by number, of the process groups in `bench_watched`. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, __u64);
} bench_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} bench_watched SEC(".maps");

static __always_inline int restore(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	__u32 offset = bench.at & 63;
	__u64 *to = data;
	__u32 *flow;
	int i;

	/* The last turn put an outer header before the frame. */
	if (end - data > bench.length) {
		if (bpf_xdp_adjust_head(ctx, end - data - bench.length))
			return -1;
		end = (void *)(long)ctx->data_end;
		data = (void *)(long)ctx->data;
		to = data;
	}
	if (data + FRAME > end)
		return -1;
	for (i = 0; i < FRAME / 8; i++)
		to[i] = bench.frame[i];
	flow = data + offset;
	if ((void *)(flow + 1) > end)
		return -1;
	*flow ^= __builtin_bswap32((bench.turn++ * bench.stride) &
				   bench.mask);
	return 0;
}

SEC("xdp")
int bench_each(struct xdp_md *ctx)
{
	if (!restore(ctx))
		bpf_tail_call(ctx, &bench_target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int bench_live(struct xdp_md *ctx)
{
	return restore(ctx) ? XDP_ABORTED : XDP_TX;
}

/* Where live frames come back to. */
SEC("xdp")
int bench_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp")
int bench_grow(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_head(ctx, -(int)bench.room))
		return XDP_ABORTED;
	return XDP_TX;
}

SEC("xdp")
int bench_empty(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp")
int bench_lookup(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *data = (void *)(long)ctx->data;
	struct bench_key key;

	if (data + FRAME > end)
		return XDP_ABORTED;
	__builtin_memcpy(&key, data + KEY_AT, sizeof(key));
	if (!bpf_map_lookup_elem(&bench_keys, &key))
		return XDP_DROP;
	return XDP_TX;
}

SEC("raw_tp/sys_enter")
int bench_syscall(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 group = bpf_get_current_pid_tgid() >> 32;
	__u32 number = (__u32)ctx->args[1];
	__u64 *calls;

	if (!bpf_map_lookup_elem(&bench_watched, &group))
		return 0;
	calls = bpf_map_lookup_elem(&bench_calls, &number);
	if (calls)
		*calls += 1;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
