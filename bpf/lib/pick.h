/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Who gets a new flow: the pool's ring, by the hash of the client's 5-tuple.
 * eg-balance's pick is its twin, and tests hold them together. */
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

/* Returns a backend's id, 0 if nobody takes the flow. */
static __always_inline __u32 pick(__u32 pool, const struct eg_flow_key *key,
				  __u64 *hash)
{
	struct eg_pool *chooser = bpf_map_lookup_elem(&eg_pools, &pool);
	struct eg_slot *slot;
	__u32 index;
	void *ring;

	if (!chooser || !chooser->backends)
		return 0;
	*hash = hash_flow(chooser->hash_key, key);
	ring = bpf_map_lookup_elem(&eg_rings, &pool);
	if (!ring)
		return 0;
	index = hash_slot(*hash);
	slot = bpf_map_lookup_elem(ring, &index);
	return slot ? pick_from(slot) : 0;
}

#endif
