/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Where L7 traffic goes. Written by userspace/datapath when workers offer
 * their sockets. */
#ifndef EG_MAPS_SOCKS_H
#define EG_MAPS_SOCKS_H

/* Does an L7 listener own {address, port, protocol}, and which slots of
 * eg_socks hold its workers' sockets? The unspecified address stands for
 * every address of its family. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EG_MAX_SOCKS);
	__type(key, struct eg_listener_key);
	__type(value, struct eg_listener);
} eg_listeners SEC(".maps");

#endif
