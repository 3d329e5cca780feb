/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* The twin of xdp/ingress.bpf.c that takes its place during a capture: the same,
 * and it records what it sees. */
#define CAPTURES
#include "xdp/ingress.bpf.c"
