/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Who gets a new flow, by the pool's algorithm. eg-balance builds the rings
 * and has a twin of each choice made here; tests hold them together. */
#ifndef EG_LIB_PICK_H
#define EG_LIB_PICK_H

static __always_inline int pick_takes_flows(__u32 backend)
{
	struct eg_backend *b = bpf_map_lookup_elem(&eg_backends, &backend);

	return backend && b && b->state == EG_BACKEND_UP;
}

/* The slot's owner, or who stands in while it takes no new flow. A function
 * of its own so that struct eg_slot is in the object's type information. */
static __noinline __u32 pick_from(const struct eg_slot *slot)
{
	if (pick_takes_flows(slot->primary))
		return slot->primary;
	if (pick_takes_flows(slot->alternate))
		return slot->alternate;
	return 0;
}

static __always_inline int pick_is_hashed(const struct eg_pool *pool)
{
	return pool->algorithm <= EG_ALGORITHM_SESSION_AFFINITY;
}

/* Does the ring alone say who has a flow, so that any node can carry it? */
static __always_inline int pick_is_stateless(__u32 id)
{
	struct eg_pool *pool = bpf_map_lookup_elem(&eg_pools, &id);

	return pool && pick_is_hashed(pool);
}

static __always_inline int pick_wants_latency(__u32 id)
{
	struct eg_pool *pool = bpf_map_lookup_elem(&eg_pools, &id);

	return pool && pool->algorithm == EG_ALGORITHM_EWMA;
}

/* The leading bits of a source address, alone in an otherwise empty key. */
static __always_inline __u64 pick_hash_source(const struct eg_pool *pool,
					      const struct eg_flow_key *key)
{
	struct eg_flow_key source = {};
	__u32 bits, have, word;
	int i;

	bits = addr_is_mapped(&key->saddr) ? 96 + pool->prefix4 : pool->prefix6;
#pragma unroll
	for (i = 0; i < 4; i++) {
		have = bits > 32 * i ? bits - 32 * i : 0;
		word = addr_word(&key->saddr, i);
		if (have < 32)
			word &= have ? bpf_htonl(~0u << (32 - have)) : 0;
		__builtin_memcpy(&source.saddr.b[4 * i], &word, 4);
	}
	return hash_flow(pool->hash_key, &source);
}

static __always_inline __u32 pick_next(__u32 id, const struct eg_pool *pool)
{
	__u32 *cursor = bpf_map_lookup_elem(&eg_cursors, &id), turn;

	if (!cursor || !pool->period)
		return 0;
	turn = *cursor;
	if (!eg_dry_run)
		*cursor = turn + 1 < pool->period ? turn + 1 : 0;
	return turn % pool->period;
}

static __always_inline __u32 pick_any(const struct eg_pool *pool)
{
	return pool->period ? bpf_get_prandom_u32() % pool->period : 0;
}

static __always_inline __u32 pick_index(__u32 id, const struct eg_pool *pool,
					const struct eg_flow_key *key, __u64 hash)
{
	switch (pool->algorithm) {
	case EG_ALGORITHM_MAGLEV:
	case EG_ALGORITHM_RING_HASH:
		return hash_slot(hash);
	case EG_ALGORITHM_SESSION_AFFINITY:
		return hash_slot(pick_hash_source(pool, key));
	case EG_ALGORITHM_ROUND_ROBIN:
	case EG_ALGORITHM_WEIGHTED_ROUND_ROBIN:
		return pick_next(id, pool);
	default:
		return pick_any(pool);
	}
}

/* Returns a backend's id, 0 if nobody takes the flow. */
static __noinline __u32 pick(__u32 id, const struct eg_flow_key *key, __u64 *hash)
{
	struct eg_pool *pool = bpf_map_lookup_elem(&eg_pools, &id);
	struct eg_slot *slot;
	__u32 index;
	void *ring;

	if (!pool || !pool->backends)
		return 0;
	*hash = hash_flow(pool->hash_key, key);
	ring = bpf_map_lookup_elem(&eg_rings, &id);
	if (!ring)
		return 0;
	index = pick_index(id, pool, key, *hash);
	slot = bpf_map_lookup_elem(ring, &index);
	return slot ? pick_from(slot) : 0;
}

#endif
