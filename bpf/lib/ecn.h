/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Explicit congestion notification at a tunnel's end. */
#ifndef EG_LIB_ECN_H
#define EG_LIB_ECN_H

/* RFC 3168 section 5 */
#define ECN_NOT_ECT 0
#define ECN_ECT_1   1
#define ECN_ECT_0   2
#define ECN_CE	    3
#define ECN_MASK    3

/* The field that the inner packet leaves with; negative: it must not leave.
 * RFC 6040 section 4.2, https://www.rfc-editor.org/rfc/rfc6040#section-4.2:
 * figure 4. Not-ECT inside and CE outside "MUST" be dropped: a router said
 * "congestion" to a sender that only understands loss. */
static __always_inline int ecn_decapsulate(__u32 inner, __u32 outer)
{
	if (outer == ECN_CE)
		return inner == ECN_NOT_ECT ? -1 : ECN_CE;
	if (outer == ECN_ECT_1 && inner == ECN_ECT_0)
		return ECN_ECT_1;
	return inner;
}

#endif
