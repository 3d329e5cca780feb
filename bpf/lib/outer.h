/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* The way to a backend, and the source that an outer header has on it: one for
 * clients' packets (lib/open.h, lib/decide.h) and for probes (tc/egress). */
#ifndef EG_LIB_OUTER_H
#define EG_LIB_OUTER_H

/* Ports that an outer UDP header's source varies over: those that RFC 6335
 * section 6 calls dynamic, as RFC 8085 section 5.1.1 (entropy) asks. */
#define OUTER_PORT_MIN 49152
#define OUTER_PORTS    16384

/* Low bits of a word of an address, in network order. */
static __always_inline __be32 outer_bits(__be32 prefix, __u32 bits, __u32 hash)
{
	__u32 mask = bits >= 32 ? ~0u : (1u << bits) - 1;

	return prefix | bpf_htonl(hash & mask);
}

/* The outer header's source varies with the flow, so that a backend's RSS
 * spreads the flows over its queues: the address where the operator gave a
 * prefix for it, the port always. */
static __always_inline void open_outer(struct eg_flow *f, const struct eg_backend *b,
				       __u64 hash)
{
	struct eg_conf *conf;
	__u32 zero = 0, word;
	int v4 = addr_is_mapped(&b->addr);

	f->addr = b->source;
	f->port = bpf_htons(OUTER_PORT_MIN + hash % OUTER_PORTS);
	conf = bpf_map_lookup_elem(&eg_conf, &zero);
	if (!conf)
		return;
	if (v4 ? conf->outer4_bits : conf->outer6_bits) {
		f->addr = v4 ? conf->outer4 : conf->outer6;
		word = outer_bits(addr_word(&f->addr, 3),
				  v4 ? conf->outer4_bits : conf->outer6_bits,
				  hash >> 16);
		__builtin_memcpy(&f->addr.b[12], &word, 4);
	}
}

/* From the client to its backend. */
static __always_inline void decide_out(const struct eg_flow *f, const struct eg_vip *v,
				       const struct eg_backend *b, struct forward *fw)
{
	fw->saddr = f->addr;
	fw->sport = f->port;
	fw->daddr = b->addr;
	fw->dport = v->forward == EG_FORWARD_GUE ? v->gue_port : b->port;
	fw->ifindex = b->ifindex;
	__builtin_memcpy(fw->dmac, b->dmac, 6);
	__builtin_memcpy(fw->smac, b->smac, 6);
	fw->mtu = b->mtu;
	fw->mode = v->forward;
	fw->outer6 = !addr_is_mapped(&b->addr);
	/* The frame keeps its destination address, so it must reach the
	 * backend itself and not a router on the way. */
	if (fw->mode == EG_FORWARD_L2 && !(b->flags & EG_BACKEND_ON_LINK))
		fw->ifindex = 0;
}

#endif
