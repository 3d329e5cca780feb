/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * What the process may set before load. Constants to the verifier, which
 * prunes what they turn off; never state. The defaults are those of the
 * configuration, so that an object loaded by hand behaves the same.
 */
#ifndef EG_LIB_TUNABLES_H
#define EG_LIB_TUNABLES_H

/* Source ports for SNAT, both included. Must not overlap the host's
 * ip_local_port_range: its own connections would be taken for replies. */
const volatile __u32 eg_snat_port_min = 10240;
const volatile __u32 eg_snat_port_max = 32767;

/* Idle time after which a half of a flow counts no more. A flow ends when
 * both halves are beyond theirs. Established TCP: above the two hours that
 * RFC 5382 section 5 (REQ-5) asks for, plus a keep-alive's four minutes.
 * Opening: beyond Linux's SYN retries of 67 s. UDP: RFC 4787 section 4.3
 * (REQ-5) asks for two minutes at least and advises five. */
const volatile __u32 eg_timeout_open_s = 7440;
const volatile __u32 eg_timeout_closing_s = 60;
const volatile __u32 eg_timeout_opening_s = 70;
const volatile __u32 eg_timeout_udp_s = 300;

/* What eg_flows has room for. */
const volatile __u32 eg_flow_entries = 1 << 20;

/* Events a second and CPU. A reader copes with thousands; more than that
 * says nothing that the counters do not. 0 turns events off. */
const volatile __u32 eg_event_rate = 100;

/* ICMP errors of our own a second and CPU: RFC 4443 section 2.4 (f) wants a
 * limit. One is enough to teach a sender; a thousand senders may start at
 * once. What is over the limit is dropped without a word. */
const volatile __u32 eg_icmp_rate = 1000;

/* Resets a second and CPU: each answers one packet with a smaller one, so
 * that a flood is not amplified, and this is what a core spends on it. */
const volatile __u32 eg_reset_rate = 10000;

/* The kernel makes SYN cookies for XDP and tc programs (bpf_tcp_gen_syncookie). */
const volatile __u8 eg_syn_cookies = 1;

/* The twin behind `egctl explain`: decides and writes to no map. */
const volatile __u8 eg_dry_run = 0;

/* For tests: choices that are random are made by the flow's hash. */
const volatile __u8 eg_test = 0;

/* For tests: the time is what they say it is (lib/clock.h). */
const volatile __u8 eg_test_clock = 0;

/* CONFIG_HZ of the running kernel. */
const volatile __u32 eg_jiffies_hz = 250;

/* The program is loaded with BPF_F_XDP_HAS_FRAGS (5.18 and later), and the
 * frame may be longer than its linear part. */
const volatile __u8 eg_xdp_frags = 0;

#endif
