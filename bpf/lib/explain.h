/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What `egctl explain` asks a dry run: the steps that nobody can tell from the
 * maps and the frame that comes out. Only eg_dry_run writes here, so the
 * program that carries traffic keeps not one of these stores. Everything is
 * noted where a dry run leaves anyway, instead of counting: a known flow pays
 * for no question of its own.
 *
 * Zeroed by the process before each run. Private to the loaded object, as its
 * .bss: one run at a time.
 */
#ifndef EG_LIB_EXPLAIN_H
#define EG_LIB_EXPLAIN_H

/* Who said which backend gets a new flow? */
enum chosen {
	CHOSEN_NOT = 0,
	CHOSEN_SLOT = 1,     /* a slot of the pool's ring */
	CHOSEN_AFFINITY = 2, /* whom the source's last flow had */
	CHOSEN_LOAD = 3,     /* what is counted */
	CHOSEN_CLOSING = 4,  /* the closing flow that is opened again */
};

struct explained {
	struct pkt p;	 /* when the decision fell */
	__u32 ended;	 /* 1 + enum eg_verdict, 0: nowhere */
	__u32 reason;	 /* enum eg_drop */
	__s32 parsed;	 /* PARSED and the like */
	__u32 misses;	 /* a bit for each enum eg_miss */
	__u32 half_open; /* it went beyond the established flows */
	__u32 fresh;	 /* and beyond the half-open ones */
	__u32 reply;	 /* it goes to the client */
	__u32 local;	 /* a socket of this host wants it */
	__u32 cookie;	 /* a SYN cookie answers it, if the kernel makes one */
	__u32 held;	 /* it waits for its datagram's first fragment */
	__u32 chosen;	 /* enum chosen */
	__u32 slot;
	__u32 random; /* the choice is another the next time */
};

struct explained explained = {};

/* A source as the guards would leave it. */
struct eg_source explained_source = {};

#define EXPLAIN(field, value)                                                          \
	do {                                                                           \
		if (eg_dry_run)                                                        \
			explained.field = (value);                                     \
	} while (0)

static __always_inline void explain_end(const struct pkt *p, __u32 verdict)
{
	__builtin_memcpy(&explained.p, p, sizeof(*p));
	explained.ended = 1 + verdict;
}

#endif
