/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Room for the programs behind tail calls, which would not find it on a stack
 * of 512 bytes. Private to the loaded object, never pinned. */
#ifndef EG_MAPS_SCRATCH_H
#define EG_MAPS_SCRATCH_H

struct scratch {
	struct pkt p;
	struct forward fw;
	struct claim claim;
	struct promotion promotion;
	struct quote quote;
	struct piece piece;
	struct eg_frag frag;
	struct eg_held held;
	/* The headers of a SYN, for the kernel to make a cookie of. */
	__u8 syn_ip[40];
	__u32 syn_tcp[15];
	struct eg_captured captured;
};

/* What is this CPU working on? A program has it from its start to its end:
 * nothing that uses it interrupts another on the same CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/* As the program that called this one left it: a tail call changes neither
 * the CPU nor whose turn it is. */
static __always_inline struct scratch *scratch_go_on(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

static __always_inline struct scratch *scratch_begin(void)
{
	struct scratch *s = scratch_go_on();

	if (s) {
		__builtin_memset(&s->p, 0, sizeof(s->p));
		__builtin_memset(&s->fw, 0, sizeof(s->fw));
	}
	return s;
}

#endif
