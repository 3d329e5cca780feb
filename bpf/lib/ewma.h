/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Peak EWMA in integers: rises at once, falls by half-lives. The twin of
 * eg_balance::ewma, whose documentation derives the arithmetic and its bounds;
 * names are the same.
 */
#ifndef EG_LIB_EWMA_H
#define EG_LIB_EWMA_H

#define EWMA_ALL	 (1ULL << 24)
#define EWMA_LATENCY_MAX ((1ULL << 40) - 1)
#define EWMA_PRICE_ONE	 4096
/* Shorter than what an operator notices, longer than the noise of flows. */
#define EWMA_HALF_LIFE 1000000000ULL
#define EWMA_SAMPLES   1024

/* 2^(-elapsed / half-life), in 1/EWMA_ALL. */
static __always_inline __u64 ewma_past(__u64 elapsed)
{
	__u64 halvings = elapsed / EWMA_HALF_LIFE, rest = elapsed % EWMA_HALF_LIFE;
	__u64 part, slope;

	if (halvings > 24)
		return 0;
	part = (rest << 24) / EWMA_HALF_LIFE;
	slope = (EWMA_ALL >> 1) + ((EWMA_ALL - part) * 3240472 >> 24);
	return (EWMA_ALL - (part * slope >> 24)) >> halvings;
}

static __always_inline __u64 ewma_moved(__u64 value, __u64 target, __u64 past)
{
	if (value > EWMA_LATENCY_MAX)
		value = EWMA_LATENCY_MAX;
	if (target > EWMA_LATENCY_MAX)
		target = EWMA_LATENCY_MAX;
	if (value >= target)
		return target + ((value - target) * past >> 24);
	return target - ((target - value) * past >> 24);
}

static __always_inline __u64 ewma_since(__u64 now, __u64 seen)
{
	return now > seen ? now - seen : 0;
}

static __noinline int ewma_observe(struct eg_latency *l, __u64 sample, __u64 now)
{
	__u64 elapsed = ewma_since(now, l->seen);

	if (sample > EWMA_LATENCY_MAX)
		sample = EWMA_LATENCY_MAX;
	if (!l->seen) {
		l->value = sample;
		l->seen = now;
	} else if (elapsed >= EWMA_HALF_LIFE / EWMA_SAMPLES) {
		l->value = ewma_moved(l->value, sample, ewma_past(elapsed));
		l->seen = now;
	}
	return 0;
}

static __always_inline void ewma_observe_peak(struct eg_latency *l, __u64 sample,
					      __u64 now)
{
	if (sample < l->value) {
		ewma_observe(l, sample, now);
		return;
	}
	l->value = sample < EWMA_LATENCY_MAX ? sample : EWMA_LATENCY_MAX;
	l->seen = now;
}

/* What to expect now: the average, or the longer ago it was the pool's. */
static __always_inline __u64 ewma_expect(const struct eg_latency *l, __u64 pool,
					 __u64 now)
{
	if (!l->seen)
		return pool;
	return ewma_moved(l->value, pool, ewma_past(ewma_since(now, l->seen)));
}

static __always_inline __u64 ewma_cost(__u64 latency, __u32 outstanding, __u32 price)
{
	__u64 units = latency >> 10;

	if (units > (1 << 24) - 1)
		units = (1 << 24) - 1;
	if (outstanding > 65535)
		outstanding = 65535;
	return (units + 1) * (EWMA_PRICE_ONE + (__u64)outstanding * price);
}

#endif
