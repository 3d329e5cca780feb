/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", with
 * one compression and three finalization rounds) over a flow's key. Keyed: an
 * outsider cannot compute which 5-tuples meet. eg_balance::hash is its twin.
 */
#ifndef EG_LIB_HASH_H
#define EG_LIB_HASH_H

#define ROTL64(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

#define SIP_ROUND(v0, v1, v2, v3)                                                      \
	do {                                                                           \
		v0 += v1;                                                              \
		v1 = ROTL64(v1, 13);                                                   \
		v1 ^= v0;                                                              \
		v0 = ROTL64(v0, 32);                                                   \
		v2 += v3;                                                              \
		v3 = ROTL64(v3, 16);                                                   \
		v3 ^= v2;                                                              \
		v0 += v3;                                                              \
		v3 = ROTL64(v3, 21);                                                   \
		v3 ^= v0;                                                              \
		v2 += v1;                                                              \
		v1 = ROTL64(v1, 17);                                                   \
		v1 ^= v2;                                                              \
		v2 = ROTL64(v2, 32);                                                   \
	} while (0)

static __always_inline __u64 le64(__u64 x)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	return __builtin_bswap64(x);
#else
	return x;
#endif
}

static __always_inline __u64 hash_flow(const __u64 key[2],
				       const struct eg_flow_key *flow)
{
	__u64 v0 = key[0] ^ 0x736f6d6570736575ULL;
	__u64 v1 = key[1] ^ 0x646f72616e646f6dULL;
	__u64 v2 = key[0] ^ 0x6c7967656e657261ULL;
	__u64 v3 = key[1] ^ 0x7465646279746573ULL;
	__u64 m[5], last = (__u64)sizeof(*flow) << 56;
	int i;

	__builtin_memcpy(m, flow, sizeof(m));
#pragma unroll
	for (i = 0; i < 5; i++) {
		v3 ^= le64(m[i]);
		SIP_ROUND(v0, v1, v2, v3);
		v0 ^= le64(m[i]);
	}
	v3 ^= last;
	SIP_ROUND(v0, v1, v2, v3);
	v0 ^= last;
	v2 ^= 0xff;
	SIP_ROUND(v0, v1, v2, v3);
	SIP_ROUND(v0, v1, v2, v3);
	SIP_ROUND(v0, v1, v2, v3);
	return v0 ^ v1 ^ v2 ^ v3;
}

static __always_inline __u32 hash_slot(__u64 hash)
{
	return (__u32)(hash >> 32 ^ hash) % EG_RING_SLOTS;
}

#endif
