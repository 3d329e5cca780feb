/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Peak EWMA in integers; eg_balance::ewma is its twin. */
#ifndef EG_LIB_EWMA_H
#define EG_LIB_EWMA_H

/* placeholder until the twin's arithmetic is merged */
static __always_inline void ewma_update(struct eg_load *load, __u64 sample, __u64 now)
{
	load->latency = sample;
	load->at = now;
}

#endif
