/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Included by force before the product's own source when the bench compiles a
 * second copy of it: every map lookup, update and delete that a packet really
 * makes is counted, whatever path it takes. The copy is never timed.
 *
 * Not volatile: the program is close to the verifier's limit of stack, and the
 * helper calls between two additions keep the compiler from losing any.
 *
 * Function-like macros leave the helpers' declarations alone: there the name is
 * not followed by a parenthesis.
 */
#ifndef EG_BENCH_COUNTED_H
#define EG_BENCH_COUNTED_H

unsigned long long bench_lookups __attribute__((section(".bss.bench")));
unsigned long long bench_updates __attribute__((section(".bss.bench")));

static void *(*const bench_real_lookup)(void *map, const void *key) = (void *)1;
static long (*const bench_real_update)(void *map, const void *key,
				       const void *value,
				       unsigned long long flags) = (void *)2;
static long (*const bench_real_delete)(void *map, const void *key) = (void *)3;

#define bpf_map_lookup_elem(map, key) \
	(bench_lookups++, bench_real_lookup(map, key))
#define bpf_map_update_elem(map, key, value, flags) \
	(bench_updates++, bench_real_update(map, key, value, flags))
#define bpf_map_delete_elem(map, key) \
	(bench_updates++, bench_real_delete(map, key))

#endif /* EG_BENCH_COUNTED_H */
