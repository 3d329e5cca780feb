/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* What the kernel remembers of connections. Written by the programs; the
 * process reads it, and copies it when its size changes. */
#ifndef EG_MAPS_FLOWS_H
#define EG_MAPS_FLOWS_H

/* Whose is this packet? Each flow is two entries (see struct eg_flow). When
 * full, the kernel evicts what was least recently used; a half that lost its
 * other half writes it anew. One table for all CPUs, not one per CPU: RSS
 * may move a flow to another core. The size is set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 20);
	__type(key, struct eg_flow_key);
	__type(value, struct eg_flow);
} eg_flows SEC(".maps");

/* Whose handshake is this? Flows begin here and move to eg_flows when the
 * client has shown that it hears the answer (lib/opening.h), so that a flood
 * of new ones evicts only each other. When full, the least recently used
 * goes: an honest client sends its SYN again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 17);
	__type(key, struct eg_flow_key);
	__type(value, struct eg_flow);
} eg_opening SEC(".maps");

#endif
