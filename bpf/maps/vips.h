/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* What the packet is addressed to. Written by userspace/datapath alone. */
#ifndef EG_MAPS_VIPS_H
#define EG_MAPS_VIPS_H

/* Which VIP is {address, port, protocol}? And, under {address, 0, 0}: does
 * this address carry L4 VIPs at all? A full map refuses the new VIP, which
 * the process reports; each VIP needs at most three entries. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 3 * EG_MAX_VIPS);
	__type(key, struct eg_vip_key);
	__type(value, __u32);
} eg_vip_ids SEC(".maps");

/* What does the VIP with this id do now? Read on every hit: an epoch that
 * differs from the flow's is how all flows of a VIP end at once. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EG_MAX_VIPS);
	__type(key, __u32);
	__type(value, struct eg_vip);
} eg_vips SEC(".maps");

#endif
