/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * The contract of tc/backend with egctl, in the manner of abi.h: every type
 * that lives in a map pinned under <pin_root>/backend/v<EG_BACKEND_ABI>/. A
 * number of its own, because backend hosts are upgraded apart from gateways.
 *
 * All configuration is by interface, so that attaching to one states the whole
 * of it and changes nothing for another.
 */
#ifndef EG_ABI_BACKEND_H
#define EG_ABI_BACKEND_H

#include "abi.h"

#define EG_BACKEND_ABI 1

/* VIPs, accepted prefixes and own addresses, of all interfaces together. A
 * host serves some; the number only keeps a mistake in a script from taking
 * the kernel's memory. What does not fit is refused by egctl. */
#define EG_DEC_ENTRIES 4096

/* Interfaces that the program is attached to. */
#define EG_DEC_IFACES 256

/* Key of eg_dec_vips and eg_dec_to. */
struct eg_dec_addr {
	__u32 ifindex;
	struct eg_addr addr;
};
_Static_assert(sizeof(struct eg_dec_addr) == 20, "eg_dec_addr");

/* Key of eg_dec_from. The trie compares `bits` bits of what follows: all of
 * ifindex, 32, and the prefix; IPv4 in the mapped form has 96 more. */
struct eg_dec_prefix {
	__u32 bits;
	__u32 ifindex;
	struct eg_addr addr;
};
_Static_assert(sizeof(struct eg_dec_prefix) == 24, "eg_dec_prefix");

enum eg_dec_mode {
	EG_DEC_TCX = 1,
	EG_DEC_CLSACT = 2,
};

/* Value of eg_dec_ifaces: how an interface was attached. */
struct eg_dec_iface {
	__u8 name[16]; /* as it was then, ends in a zero */
	__u32 mode;    /* enum eg_dec_mode */
	__u16 gue_port;
	__u16 pad;
};
_Static_assert(sizeof(struct eg_dec_iface) == 24, "eg_dec_iface");

/* What became of a packet: index of the per-CPU array eg_decap, whose elements
 * are struct eg_count. Every packet counts in exactly one. The order is ABI;
 * append only. */
enum eg_decap {
	EG_DECAP_NONE = 0, /* no result: keeps 0 from being one */

	/* Decapsulated. */
	EG_DECAP_IPIP = 1,
	EG_DECAP_IP6IP6 = 2,
	EG_DECAP_4IN6 = 3,
	EG_DECAP_6IN4 = 4,
	EG_DECAP_GUE = 5,
	EG_DECAP_GUE1 = 6, /* variant 1: the inner packet right behind UDP */

	/* Passed untouched, as if the program were not there. */
	EG_DECAP_OTHER = 7,	   /* not encapsulated, or in no way of ours */
	EG_DECAP_NOT_HERE = 8,	   /* the outer destination is not this interface's */
	EG_DECAP_NOT_FROM = 9,	   /* the outer source is not accepted */
	EG_DECAP_NOT_VIP = 10,	   /* the inner destination is none of the VIPs */
	EG_DECAP_FRAGMENT = 11,	   /* a fragment of an outer packet */
	EG_DECAP_MALFORMED = 12,   /* lengths that contradict each other, cut short */
	EG_DECAP_UNSUPPORTED = 13, /* GUE: control, flags, or not IP inside */
	EG_DECAP_NESTED = 14,	   /* encapsulated again inside */
	EG_DECAP_COALESCED = 15,   /* GUE: receive offload merged several datagrams */

	/* Dropped. */
	EG_DECAP_ECN = 16,  /* congestion experienced, and inside not ECN-capable */
	EG_DECAP_ROOM = 17, /* the kernel did not remove the outer headers */

	EG_DECAPS = 18,
};

#endif
