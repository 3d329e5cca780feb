/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* What a backend host decapsulates. Written by egctl, but for the counters;
 * pinned under <pin_root>/backend/, apart from a gateway's maps. */
#ifndef EG_MAPS_DECAP_H
#define EG_MAPS_DECAP_H

/* Is this inner destination a VIP that the interface serves? A full map
 * refuses the next VIP, which egctl reports. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EG_DEC_ENTRIES);
	__type(key, struct eg_dec_addr);
	__type(value, __u32);
} eg_dec_vips SEC(".maps");

/* Is this outer destination an address of the interface? A full map refuses
 * the next address, which egctl reports. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EG_DEC_ENTRIES);
	__type(key, struct eg_dec_addr);
	__type(value, __u32);
} eg_dec_to SEC(".maps");

/* May this outer source send us encapsulated packets? The longest prefix that
 * matches says so, 1 yes and 0 no; none is no. A full map refuses the next
 * prefix, which egctl reports. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, EG_DEC_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct eg_dec_prefix);
	__type(value, __u32);
} eg_dec_from SEC(".maps");

/* Where is the program attached, and how? By interface index; no program
 * reads it. A full map refuses the next interface, which egctl reports. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EG_DEC_IFACES);
	__type(key, __u32);
	__type(value, struct eg_dec_iface);
} eg_dec_ifaces SEC(".maps");

/* What became of the packets (enum eg_decap)? Of all interfaces together. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EG_DECAPS);
	__type(key, __u32);
	__type(value, struct eg_count);
} eg_decap SEC(".maps");

#endif
