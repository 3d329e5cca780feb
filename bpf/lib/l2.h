/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Address the frame to its next hop. */
#ifndef EG_LIB_L2_H
#define EG_LIB_L2_H

static __always_inline void l2_write(struct ethhdr *eth, const struct forward *fw)
{
	__builtin_memcpy(eth->h_dest, fw->dmac, 6);
	__builtin_memcpy(eth->h_source, fw->smac, 6);
}

#endif
