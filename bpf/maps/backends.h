/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Who serves. Written by userspace/datapath (state and generation) and its
 * neighbour watcher (next hops). */
#ifndef EG_MAPS_BACKENDS_H
#define EG_MAPS_BACKENDS_H

/* Where is the backend with this id, may it take new flows, and how does a
 * frame reach it? A failed backend is out by one write of its state. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EG_MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct eg_backend);
} eg_backends SEC(".maps");

/* How busy is each backend, and how soon does it answer? Counted by the
 * programs with atomic additions, corrected by the process, which maps it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EG_MAX_BACKENDS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct eg_load);
} eg_loads SEC(".maps");

#endif
