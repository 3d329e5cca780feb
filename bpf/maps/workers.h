/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* The sockets themselves, and how busy their owners are. */
#ifndef EG_MAPS_WORKERS_H
#define EG_MAPS_WORKERS_H

/* The sockets: TCP listeners and unconnected UDP sockets. A closed socket
 * leaves its slot by itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, EG_MAX_SOCKS);
	__type(key, __u32);
	__type(value, __u64);
} eg_socks SEC(".maps");

/* How many connections does each worker hold? Written by the workers through
 * shared memory, each its own cache line. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EG_MAX_WORKERS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct eg_worker);
} eg_workers SEC(".maps");

#endif
