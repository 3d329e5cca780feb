/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* What the process says about itself; no program reads it. It is declared
 * here so that it is created, typed and pinned like every other map. */
#ifndef EG_MAPS_META_H
#define EG_MAPS_META_H

/* Which process wrote these maps, with which configuration? */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct eg_meta);
} eg_meta SEC(".maps");

/* What holds for all packets? Written by userspace/datapath. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct eg_conf);
} eg_conf SEC(".maps");

#endif
