/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Incremental checksums, RFC 1624 section 3: HC' = ~(~HC + ~m + m'). A delta
 * is the running sum of ~m + m' over what changes, words as they lie in
 * memory (RFC 1071 section 2(B): the sum does not mind the byte order).
 */
#ifndef EG_LIB_CSUM_H
#define EG_LIB_CSUM_H

static __always_inline __u64 csum_word(__u32 from, __u32 to)
{
	return (__u64)(__u32)~from + to;
}

static __always_inline __u64 csum_half(__u16 from, __u16 to)
{
	return (__u64)(__u16)~from + to;
}

/* For the mapped form too: the prefix that both share adds nothing. */
static __always_inline __u64 csum_addr(const struct eg_addr *from,
				       const struct eg_addr *to, int v6)
{
	__u64 delta = csum_word(addr_word(from, 3), addr_word(to, 3));

	if (v6) {
		delta += csum_word(addr_word(from, 0), addr_word(to, 0));
		delta += csum_word(addr_word(from, 1), addr_word(to, 1));
		delta += csum_word(addr_word(from, 2), addr_word(to, 2));
	}
	return delta;
}

static __always_inline __u16 csum_apply(__u16 check, __u64 delta)
{
	__u64 sum = (__u16)~check + delta;

	/* 37 bits at most: nine words and three halves were added */
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The same sum in the 32 bits that the kernel's helpers take. */
static __always_inline __u32 csum_32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}

/* A checksum of its own, from the sum over what it covers. */
static __always_inline __u16 csum_fold(__u64 sum)
{
	return csum_apply(0xffff, sum);
}

/* The words of an IPv4 header without options, their checksum's being 0. */
static __always_inline __u64 csum_header(const void *header)
{
	const __u32 *word = header;

	return (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
}

#endif
