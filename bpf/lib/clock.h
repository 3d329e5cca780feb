/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* What time it is, in jiffies: whatever ages by them asks here. */
#ifndef EG_LIB_CLOCK_H
#define EG_LIB_CLOCK_H

/* What a test says that the time is, where eg_test_clock is set. Otherwise
 * nothing reads it: the verifier takes the branch out. */
volatile __u64 eg_test_now = 0;

static __always_inline __u64 clock_jiffies(void)
{
	return eg_test_clock ? eg_test_now : bpf_jiffies64();
}

#endif
