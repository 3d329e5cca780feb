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

/* The leading bits of a source address. */
static __always_inline void pick_source(struct eg_addr *source,
					const struct eg_pool *pool,
					const struct eg_flow_key *key)
{
	__u32 bits, have, word;
	int i;

	bits = addr_is_mapped(&key->saddr) ? 96 + pool->prefix4 : pool->prefix6;
#pragma unroll
	for (i = 0; i < 4; i++) {
		have = bits > 32 * i ? bits - 32 * i : 0;
		word = addr_word(&key->saddr, i);
		if (have < 32)
			word &= have ? bpf_htonl(~0u << (32 - have)) : 0;
		__builtin_memcpy(&source->b[4 * i], &word, 4);
	}
}

/* A source's hash: that of a flow's key with nothing else in it. */
static __always_inline __u32 pick_source_slot(const struct eg_pool *pool,
					      const struct eg_addr *source)
{
	struct eg_flow_key key = {};

	key.saddr = *source;
	return hash_slot(hash_flow(pool->hash_key, &key));
}

static __always_inline __u32 pick_turn(__u32 id, const struct eg_pool *pool)
{
	__u32 *cursor = bpf_map_lookup_elem(&eg_cursors, &id), turn;

	if (!cursor || !pool->period)
		return 0;
	turn = *cursor;
	if (!eg_dry_run)
		*cursor = turn + 1;
	return turn % pool->period;
}

/* Many draws out of one random number: eg_balance::random::Draw. */
static __always_inline __u32 pick_draw(__u64 *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return *state >> 32;
}

static __always_inline __u32 pick_below(__u32 random, __u32 bound)
{
	return (__u64)random * bound >> 32;
}

static __always_inline __u64 pick_random(__u64 hash)
{
	if (eg_test)
		return hash;
	EXPLAIN(random, 1);
	return (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
}

static __always_inline __u32 pick_load(__s64 count)
{
	if (count < 0)
		return 0;
	return count > 0xffffffffLL ? 0xffffffff : count;
}

static __noinline int pick_look(struct candidate *c, __u32 id, __u8 algorithm)
{
	struct eg_backend *b = bpf_map_lookup_elem(&eg_backends, &id);
	struct eg_load *load = bpf_map_lookup_elem(&eg_loads, &id);

	c->id = id;
	c->weight = 0;
	c->load = 0;
	if (!id || !b || !load || b->state != EG_BACKEND_UP)
		return 0;
	c->weight = b->weight;
	c->load = pick_load(algorithm == EG_ALGORITHM_LEAST_CONNECTIONS
				    ? load->flows
				    : load->outstanding);
	return 0;
}

static __always_inline int pick_lighter(const struct candidate *a,
					const struct candidate *b)
{
	return (__u64)a->load * b->weight < (__u64)b->load * a->weight;
}

/* Pools of up to so many are compared whole, larger ones by so many samples
 * drawn by weight: eg_balance::load says what either costs and gives. */
#define PICK_SCAN    64
#define PICK_SAMPLES 16

/* Is `other` to take the place of the best so far: is it lighter, or an equal
 * that is drawn by weight? */
static __always_inline int pick_wins(struct choice *c)
{
	if (!c->other.weight)
		return 0;
	if (!c->best.weight || pick_lighter(&c->other, &c->best)) {
		c->equals = c->other.weight;
		return 1;
	}
	if (pick_lighter(&c->best, &c->other))
		return 0;
	c->equals += c->other.weight;
	return pick_below(pick_draw(&c->random), c->equals) < c->other.weight;
}

/* The exact minimum of the first slots' owners. */
static __noinline int pick_least(void *ring, const struct eg_pool *pool,
				 struct choice *c)
{
	__u32 i, index, slots = pool->period;
	struct eg_slot *slot;

	for (i = 0; i < PICK_SCAN; i++) {
		if (i >= slots)
			break;
		/* A copy: the verifier does not follow a counter in memory. */
		index = i;
		barrier_var(i);
		slot = bpf_map_lookup_elem(ring, &index);
		if (!slot)
			break;
		pick_look(&c->other, slot->primary, pool->algorithm);
		if (pick_wins(c))
			c->best = c->other;
	}
	return 0;
}

/* Whoever a drawn slot stands for, if that is not `not`. */
static __noinline __u32 pick_drawn(void *ring, const struct eg_pool *pool, __u32 random,
				   __u32 not)
{
	__u32 index = pick_below(random, pool->period);
	struct eg_slot *slot = bpf_map_lookup_elem(ring, &index);

	if (!slot)
		return 0;
	if (slot->primary != not&&pick_takes_flows(slot->primary))
		return slot->primary;
	if (slot->alternate != not&&pick_takes_flows(slot->alternate))
		return slot->alternate;
	return 0;
}

/* The best of samples drawn by weight; of equals the first. */
static __noinline int pick_sampled(void *ring, const struct eg_pool *pool,
				   struct choice *c)
{
	__u32 i;

	for (i = 0; i < PICK_SAMPLES; i++) {
		pick_look(&c->other, pick_drawn(ring, pool, pick_draw(&c->random), 0),
			  pool->algorithm);
		if (c->other.weight &&
		    (!c->best.weight || pick_lighter(&c->other, &c->best)))
			c->best = c->other;
	}
	return 0;
}

/* What a new flow would cost at this backend. */
static __noinline __u64 pick_cost(__u32 id, __u64 mean, __u64 now)
{
	struct eg_backend *b = bpf_map_lookup_elem(&eg_backends, &id);
	struct eg_load *load = bpf_map_lookup_elem(&eg_loads, &id);

	if (!b || !load)
		return ~0ULL;
	return ewma_cost(ewma_expect(&load->latency, mean, now),
			 pick_load(load->outstanding), b->price);
}

static __always_inline int pick_promises_more(__u32 pool, const struct choice *c)
{
	struct eg_latency *mean = bpf_map_lookup_elem(&eg_latencies, &pool);
	__u64 now, cost;

	if (!mean)
		return 0;
	now = bpf_ktime_get_ns();
	cost = pick_cost(c->best.id, mean->value, now);
	return pick_cost(c->other.id, mean->value, now) < cost - (cost >> 2);
}

/* Of two drawn, the less loaded, or the one that promises the earlier answer
 * by a quarter at least: eg_balance::p2c and ewma. */
static __noinline int pick_two(__u32 id, void *ring, const struct eg_pool *pool,
			       struct choice *c)
{
	int second;

	pick_look(&c->best, pick_drawn(ring, pool, c->random >> 32, 0),
		  pool->algorithm);
	pick_look(&c->other, pick_drawn(ring, pool, (__u32)c->random, c->best.id),
		  pool->algorithm);
	if (!c->best.weight || !c->other.weight)
		second = !c->best.weight;
	else if (pool->algorithm == EG_ALGORITHM_P2C)
		second = pick_lighter(&c->other, &c->best);
	else
		second = pick_promises_more(id, c);
	if (second)
		c->best = c->other;
	return 0;
}

static __always_inline __u32 pick_index(__u32 id, const struct eg_pool *pool,
					__u64 hash)
{
	switch (pool->algorithm) {
	case EG_ALGORITHM_MAGLEV:
	case EG_ALGORITHM_RING_HASH:
		return hash_slot(hash);
	case EG_ALGORITHM_ROUND_ROBIN:
	case EG_ALGORITHM_WEIGHTED_ROUND_ROBIN:
		return pick_turn(id, pool);
	default:
		return pick_below(pick_random(hash) >> 32, pool->period);
	}
}

/* By what is counted. */
static __always_inline __u32 pick_by_load(__u32 id, void *ring,
					  const struct eg_pool *pool, struct choice *c)
{
	if (pool->algorithm == EG_ALGORITHM_P2C || pool->algorithm == EG_ALGORITHM_EWMA)
		pick_two(id, ring, pool, c);
	else if (pool->period > PICK_SCAN)
		pick_sampled(ring, pool, c);
	else
		pick_least(ring, pool, c);
	return c->best.weight ? c->best.id : 0;
}

/* Who owns that slot of the ring, or stands in. */
static __always_inline __u32 pick_slot(void *ring, __u32 index)
{
	struct eg_slot *slot = bpf_map_lookup_elem(ring, &index);

	EXPLAIN(chosen, CHOSEN_SLOT);
	EXPLAIN(slot, index);
	return slot ? pick_from(slot) : 0;
}

/* Whoever had the source's last flow, as long as that is remembered and takes
 * new ones; else whom the ring says, who is remembered from now on, if the flow
 * is: with `forget`, nothing is written. */
static __noinline __u32 pick_affine(__u32 id, void *ring, const struct eg_pool *pool,
				    const struct eg_flow_key *key, __u32 forget)
{
	struct eg_affinity_key at = {.pool = id};
	struct eg_affinity *last, next = {};
	struct eg_backend *b;
	__u32 backend;

	pick_source(&at.addr, pool, key);
	if (!pool->affinity_s)
		return pick_slot(ring, pick_source_slot(pool, &at.addr));
	next.seen = (__u32)clock_jiffies();
	last = bpf_map_lookup_elem(&eg_affinities, &at);
	if (last && next.seen - last->seen < pool->affinity_s * eg_jiffies_hz) {
		backend = last->backend;
		b = bpf_map_lookup_elem(&eg_backends, &backend);
		if (b && b->generation == last->generation &&
		    b->state == EG_BACKEND_UP) {
			if (!eg_dry_run && !forget)
				last->seen = next.seen;
			EXPLAIN(chosen, CHOSEN_AFFINITY);
			return backend;
		}
	}
	backend = pick_slot(ring, pick_source_slot(pool, &at.addr));
	b = bpf_map_lookup_elem(&eg_backends, &backend);
	if (!backend || !b || eg_dry_run || forget)
		return backend;
	next.backend = backend;
	next.generation = b->generation;
	bpf_map_update_elem(&eg_affinities, &at, &next, BPF_ANY);
	return backend;
}

/* Returns a backend's id, 0 if nobody takes the flow. */
static __noinline __u32 pick(__u32 id, const struct eg_flow_key *key, struct claim *c)
{
	struct eg_pool *pool = bpf_map_lookup_elem(&eg_pools, &id);
	void *ring;

	if (!pool || !pool->backends)
		return 0;
	c->hash = hash_flow(pool->hash_key, key);
	ring = bpf_map_lookup_elem(&eg_rings, &id);
	if (!ring)
		return 0;
	if (pool->algorithm >= EG_ALGORITHM_P2C) {
		__builtin_memset(&c->choice, 0, sizeof(c->choice));
		c->choice.random = pick_random(c->hash);
		EXPLAIN(chosen, CHOSEN_LOAD);
		return pick_by_load(id, ring, pool, &c->choice);
	}
	if (pool->algorithm == EG_ALGORITHM_SESSION_AFFINITY)
		return pick_affine(id, ring, pool, key, c->stateless);
	return pick_slot(ring, pick_index(id, pool, c->hash));
}

#endif
