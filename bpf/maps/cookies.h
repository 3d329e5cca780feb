/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* SYN cookies for what this host terminates. Read for SYNs to addresses that
 * are marked so (EG_ADDR_COOKIE), never for a packet of a flow. */
#ifndef EG_MAPS_COOKIES_H
#define EG_MAPS_COOKIES_H

/* How many SYNs to {address, port, TCP} may the stack answer? Those beyond get
 * a cookie. Written by the process, and by the programs as SYNs are passed. As
 * large as eg_listeners: when full, the process reports the listener that does
 * not fit. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EG_MAX_SOCKS);
	__type(key, struct eg_listener_key);
	__type(value, struct eg_budget);
} eg_cookies SEC(".maps");

/* What became of those beyond (enum eg_cookie)? Written by the programs, read
 * by telemetry. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_COOKIES);
	__type(key, __u32);
	__type(value, __u64);
} eg_cookie_stats SEC(".maps");

#endif
