/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What of a datagram went by, and under which identification. No byte of it
 * goes on twice: a receiver that is sent two versions of one byte chooses
 * one, and a filter behind us may choose the other (RFC 5722, RFC 3128).
 */
#ifndef EG_LIB_FRAG_NOTE_H
#define EG_LIB_FRAG_NOTE_H

/* Comparisons without branches, for numbers below 2^31: sixteen ranges would
 * otherwise be 2^16 paths. */
static __always_inline __u32 is_less(__u32 a, __u32 b)
{
	return (a - b) >> 31;
}

static __always_inline __u32 is_equal(__u32 a, __u32 b)
{
	return ((a ^ b) - 1) >> 31;
}

static __always_inline __u32 frag_mix(const struct eg_addr *a, const struct eg_addr *b,
				      __u32 more)
{
	__u32 mix = addr_word(a, 3) ^ addr_word(b, 3) * 0x85ebca6b ^ more * 0xc2b2ae35;

	mix ^= addr_word(a, 0) ^ addr_word(a, 1) ^ addr_word(a, 2);
	mix ^= (addr_word(b, 0) ^ addr_word(b, 1) ^ addr_word(b, 2)) * 0x85ebca6b;
	return mix * 0x9e3779b1;
}

/* An LRU gives an evicted element to another datagram at once: see flow_tag. */
static __always_inline __u32 frag_tag(const struct eg_frag_key *key)
{
	return frag_mix(&key->saddr, &key->daddr, key->id ^ (__u32)key->proto << 24);
}

static __always_inline struct frag_lock *frag_lock_of(__u32 mix)
{
	__u32 index = mix >> 16 & (FRAG_LOCKS - 1);

	return bpf_map_lookup_elem(&frag_locks, &index);
}

/* The end of the datagram as its last fragment says; others must agree. */
static __always_inline int frag_fit_end(struct eg_frag *e, const struct piece *g,
					__u32 beyond)
{
	if (e->total && g->to > e->total)
		return -1;
	if (g->more)
		return 0;
	if (beyond || (e->total && e->total != g->to))
		return -1;
	e->total = g->to;
	return 0;
}

/* Put it where it belongs: behind a range, before one, between two, or in a
 * slot of its own. The numbers count from 1, 0 is none. */
static __always_inline int frag_place(struct eg_frag *e, const struct piece *g,
				      __u32 below, __u32 above, __u32 vacant)
{
	__u32 slot = below ? below : above;
	struct eg_frag_range *r, *next;

	if (!slot)
		slot = vacant;
	if (!slot)
		return EG_DROP_FRAGMENT;
	r = &e->ranges[(slot - 1) & (EG_FRAG_RANGES - 1)];
	if (!below)
		r->from = g->from;
	if (!above || below)
		r->to = g->to;
	if (below && above) {
		next = &e->ranges[(above - 1) & (EG_FRAG_RANGES - 1)];
		r->to = next->to;
		next->from = 0;
		next->to = 0;
	}
	if (e->total && !r->from && r->to == e->total)
		e->flags |= EG_FRAG_DONE;
	return 0;
}

static __always_inline int frag_fit(struct eg_frag *e, const struct piece *g, __u32 tag)
{
	__u32 below = 0, above = 0, vacant = 0, overlap = 0, within = 0, beyond = 0;
	__u32 from, to, used;
	int i;

	if (e->tag != tag)
		return EG_DROP_FRAGMENT;
	if (e->flags & EG_FRAG_POISONED)
		return EG_DROP_FRAGMENT_OVERLAP;
#pragma clang loop unroll(disable)
	for (i = 0; i < EG_FRAG_RANGES; i++) {
		from = e->ranges[i].from;
		to = e->ranges[i].to;
		used = is_less(0, to);
		overlap |= is_less(from, g->to) & is_less(g->from, to);
		within |= (is_less(g->from, from) ^ 1) & (is_less(to, g->to) ^ 1);
		beyond |= is_less(g->to, to);
		below += (i + 1) * (used & is_equal(to, g->from));
		above += (i + 1) * (used & is_equal(from, g->to));
		vacant += (i + 1) * ((used ^ 1) & is_equal(vacant, 0));
	}
	/* Bytes that all went by are a copy that the network made (RFC 8200
	 * section 4.5 lets the datagram live), or do no harm by being dropped. */
	if (within)
		return EG_DROP_FRAGMENT_OVERLAP;
	if (overlap || frag_fit_end(e, g, beyond)) {
		e->flags |= EG_FRAG_POISONED;
		return EG_DROP_FRAGMENT_OVERLAP;
	}
	return frag_place(e, g, below, above, vacant);
}

/* May this fragment go on? 0 or an enum eg_drop. */
static __noinline int frag_note(struct eg_frag *e, const struct piece *g)
{
	__u32 tag = frag_tag(&g->key);
	struct frag_lock *l = frag_lock_of(tag);
	int verdict;

	if (!l)
		return EG_DROP_MAP;
	bpf_spin_lock(&l->lock);
	verdict = frag_fit(e, g, tag);
	bpf_spin_unlock(&l->lock);
	return verdict;
}

/* The next number for datagrams from one address to another. They count up
 * from anywhere: RFC 6864 section 4.2 asks for no repetition, and each number
 * once before any twice is what puts it off longest. */
static __always_inline __u32 frag_next_id(const struct forward *fw)
{
	struct frag_lock *l = frag_lock_of(frag_mix(&fw->saddr, &fw->daddr, 0));
	__u32 start = bpf_get_prandom_u32() | 1, id = start;

	if (!l)
		return id;
	bpf_spin_lock(&l->lock);
	if (!l->next)
		l->next = start;
	id = l->next++;
	bpf_spin_unlock(&l->lock);
	return id;
}

/*
 * Under nat datagrams of several senders become those of one: of clients with
 * the same source, of VIPs with the same backend, and of backends that answer
 * as the same VIP. Their identifications may meet, and the receiver would mix
 * them; so each gets a number of the new pair's.
 */
static __noinline __u32 frag_identify(struct eg_frag *e, const struct piece *g,
				      const struct forward *fw)
{
	struct frag_lock *l;
	__u32 id = 0;

	if (!(e->flags & EG_FRAG_IDENTIFIED))
		id = frag_next_id(fw);
	l = frag_lock_of(frag_tag(&g->key));
	if (!l)
		return id;
	bpf_spin_lock(&l->lock);
	if (e->flags & EG_FRAG_IDENTIFIED)
		id = e->id;
	e->id = id;
	e->flags |= EG_FRAG_IDENTIFIED;
	bpf_spin_unlock(&l->lock);
	return id;
}

#endif
