/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Which worker gets an L7 connection or datagram. Uses the sockets' maps. */
#ifndef EG_LIB_STEER_H
#define EG_LIB_STEER_H

#ifndef AF_INET
#define AF_INET 2
#endif

/* A field of the context, always read, whatever the family: the other
 * family's read as zero. Were they read in branches, clang would merge the
 * loads into one at a computed offset, which the verifier refuses. */
#define CTX(field) (*(volatile __u32 *)&ctx->field)

/* The listener of this very address, else the one of its family's
 * unspecified address. */
static __always_inline struct eg_listener *steer_listener(struct bpf_sk_lookup *ctx)
{
	struct eg_listener_key key = {};
	struct eg_listener *listener;
	__u32 words[4] = {
		CTX(local_ip6[0]),
		CTX(local_ip6[1]),
		CTX(local_ip6[2]),
		CTX(local_ip6[3]) | CTX(local_ip4),
	};

	if (ctx->family == AF_INET)
		words[2] = bpf_htonl(0xffff);
	__builtin_memcpy(&key.addr, words, sizeof(words));
	key.port = bpf_htons(ctx->local_port);
	key.proto = ctx->protocol;
	listener = bpf_map_lookup_elem(&eg_listeners, &key);
	if (listener)
		return listener;
	__builtin_memset(&key.addr, 0, sizeof(key.addr));
	if (ctx->family == AF_INET) {
		key.addr.b[10] = 0xff;
		key.addr.b[11] = 0xff;
	}
	return bpf_map_lookup_elem(&eg_listeners, &key);
}

/* One 4-tuple, one value. Not keyed: it chooses among workers of one process
 * that all serve alike, so who can aim gains an uneven core, which counting
 * live connections evens out for TCP. */
static __always_inline __u32 steer_hash(struct bpf_sk_lookup *ctx)
{
	__u32 h = CTX(remote_ip4) ^ CTX(local_ip4) ^ CTX(remote_ip6[0]) ^
		  CTX(remote_ip6[1]) ^ CTX(remote_ip6[2]) ^ CTX(remote_ip6[3]) ^
		  CTX(local_ip6[3]);

	h ^= ((__u32)ctx->remote_port << 16) | ctx->local_port;
	/* the finalizer of MurmurHash3 (public domain): every bit of the
	 * input reaches every bit of the result */
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

static __always_inline __u32 steer_workers(const struct eg_listener *l)
{
	if (!l->workers)
		return 1;
	return l->workers < EG_MAX_WORKERS ? l->workers : EG_MAX_WORKERS;
}

/* Starting anywhere, so that workers with equal loads take turns. */
static __always_inline __u32 steer_least_loaded(const struct eg_listener *l,
						__u32 start)
{
	__u32 workers = steer_workers(l), best = 0, worker, i;
	__u64 least = ~0ULL;
	struct eg_worker *w;

	for (i = 0; i < EG_MAX_WORKERS; i++) {
		if (i >= workers)
			break;
		worker = (start + i) % workers;
		w = bpf_map_lookup_elem(&eg_workers, &worker);
		if (w && w->live < least) {
			least = w->live;
			best = worker;
		}
	}
	return best;
}

/* The chosen worker's socket, or the next one's if that worker has closed
 * its own. With none left the stack looks for itself. */
static __always_inline void steer_assign(struct bpf_sk_lookup *ctx,
					 const struct eg_listener *l, __u32 first)
{
	__u32 workers = steer_workers(l), slot, i;
	struct bpf_sock *sk;

	for (i = 0; i < EG_MAX_WORKERS; i++) {
		if (i >= workers)
			break;
		slot = l->base + (first + i) % workers;
		sk = bpf_map_lookup_elem(&eg_socks, &slot);
		if (!sk)
			continue;
		/* this socket, not one of its reuseport group */
		bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
		bpf_sk_release(sk);
		return;
	}
}

#endif
