/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Datagrams that arrive in fragments. Written by the programs; the process
 * looks up what it holds fragments of. */
#ifndef EG_MAPS_FRAGS_H
#define EG_MAPS_FRAGS_H

/* Which ports does this datagram have, and what of it went by? Made by its
 * first fragment. When full, the least recently used goes, and the rest of its
 * datagram counts as early: a datagram is under way for milliseconds, so an
 * honest one loses its entry only to more than a million others a second. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, struct eg_frag_key);
	__type(value, struct eg_frag);
} eg_frags SEC(".maps");

/* Fragments that came before their first, on their way to the process
 * (struct eg_held, then the frame). Private to the loaded object: without its
 * process nobody reads it, and the programs are told so. When full they are
 * told as well, and drop the fragment. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} held SEC(".maps");

/* Locks for entries of eg_frags, which as an LRU's may hold none, and the next
 * identification for pairs of addresses, both by hash. Private to the loaded
 * object: after a restart counting begins elsewhere. */
struct frag_lock {
	struct bpf_spin_lock lock;
	__u32 next; /* 0: nothing was counted yet */
};

/* Pairs that share an element share its numbers, and 65,536 of IPv4's must
 * last for the seconds that a backend waits for a datagram's rest: 1,024 make
 * sharing rare, at 8 KiB. */
#define FRAG_LOCKS 1024

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FRAG_LOCKS);
	__type(key, __u32);
	__type(value, struct frag_lock);
} frag_locks SEC(".maps");

#endif
