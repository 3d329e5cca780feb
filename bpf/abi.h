/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * The contract between the C programs and the Rust process: every type that
 * lives in a pinned map or crosses the ring buffer, and nothing else.
 *
 * Fixed-width types, explicit padding, no unions, no bitfields; sizes are
 * asserted here and compared with the hand-written Rust twins in skel/abi by
 * skel/src/layout.rs when the workspace is compiled. A change that alters the
 * meaning or size of anything pinned bumps EG_ABI: pins live under v<EG_ABI>/.
 *
 * Byte order: addresses and ports are as on the wire; all else is the host's.
 */
#ifndef EG_ABI_H
#define EG_ABI_H

#define EG_ABI 2

/* Sizes of the arrays that are indexed by an identifier; 0 is never one. */
#define EG_MAX_VIPS	4096
#define EG_MAX_POOLS	4096
#define EG_MAX_BACKENDS 65536
#define EG_MAX_WORKERS	64
#define EG_MAX_SOCKS	16384

/* Prime, and at least 100 times the number of backends a pool is meant for:
 * the Maglev paper's (section 3.4) table size for small imbalance. */
#define EG_RING_SLOTS 65537

/* One address form: 16 bytes, IPv4 mapped (RFC 4291 section 2.5.5.2). Aligned
 * so that it is copied and compared by words. */
struct eg_addr {
	__u8 b[16];
} __attribute__((aligned(4)));
_Static_assert(sizeof(struct eg_addr) == 16, "eg_addr");

/* --- vips -------------------------------------------------------------- */

/* Key of eg_vip_ids. Under port 0 and proto 0 lie an address's uses
 * (enum eg_addr_use): what a packet without ports is looked up by. Under port
 * 0 and a proto lies the address's only VIP of that protocol, if its fragments
 * are picked without ports (EG_VIP_STABLE). */
struct eg_vip_key {
	struct eg_addr addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct eg_vip_key) == 20, "eg_vip_key");

/* Value of eg_vip_ids under port 0 and proto 0, a set of bits. */
enum eg_addr_use {
	EG_ADDR_VIP = 1,     /* it carries VIPs */
	EG_ADDR_SOURCE = 2,  /* SNAT or an outer header writes it as the source */
	EG_ADDR_PASS = 4,    /* ports that carry no VIP are the stack's, */
	EG_ADDR_RESET = 8,   /* or TCP to them is reset; else dropped */
	EG_ADDR_COOKIE = 16, /* eg_cookies knows ports of it */
};

/* How a VIP's packets reach a backend. */
enum eg_forward {
	EG_FORWARD_NAT = 0,  /* new destination; replies come back through us */
	EG_FORWARD_IPIP = 1, /* in an IPv4 or IPv6 header to the backend */
	EG_FORWARD_GUE = 2,  /* in IP, UDP and Generic UDP Encapsulation */
	EG_FORWARD_L2 = 3,   /* as they are, to the backend's MAC address */
	EG_FORWARDS = 4,
};

/* Flags of struct eg_vip. */
#define EG_VIP_SNAT   1u /* nat: write our own source address too */
#define EG_VIP_STABLE 2u /* pick by addresses and protocol alone */
/* Flows whose backend is down or gone (its pool's on_backend_down): */
#define EG_VIP_REPICK (1u << 2) /* go to another backend, */
#define EG_VIP_RESET  (1u << 3) /* or are reset, if they are TCP; else they wait */
/* Guards that this VIP's clients pass; changing them ends no flow. */
#define EG_VIP_GUARD_PREFIX  (1u << 8)	/* eg_prefixes says who may send */
#define EG_VIP_GUARD_PACKETS (1u << 9)	/* packets of one source */
#define EG_VIP_GUARD_FLOWS   (1u << 10) /* new flows of one source */
#define EG_VIP_GUARD_UDP     (1u << 11) /* UDP packets of one source */
#define EG_VIP_GUARD_AMPLIFY (1u << 12) /* bytes of UDP replies to one source */

/* Element of eg_vips. An id is reused only with a new epoch; a flow whose
 * epoch differs from its VIP's is a miss. Epoch 0 is no VIP. */
struct eg_vip {
	struct eg_addr addr;
	__be16 port;
	__u8 proto;
	__u8 forward; /* enum eg_forward */
	__u32 epoch;
	__u32 pool;
	__u32 flags;
	__be16 gue_port; /* gue: the outer header's destination */
	__u8 pad[2];
};
_Static_assert(sizeof(struct eg_vip) == 36, "eg_vip");

/* --- backends ---------------------------------------------------------- */

enum eg_backend_state {
	EG_BACKEND_NONE = 0, /* the slot is free: flows that name it are dead */
	EG_BACKEND_UP = 1,
	EG_BACKEND_DRAINING = 2, /* keeps its flows, gets no new one */
	EG_BACKEND_DOWN = 3,	 /* gets no new flow: the ring's alternate does */
};

/* Flags of struct eg_backend. */
#define EG_BACKEND_ON_LINK 1 /* the next hop is the backend itself */

/* Element of eg_backends: where it is and how a frame reaches it. */
struct eg_backend {
	struct eg_addr addr;
	struct eg_addr source; /* our address towards it, written by SNAT */
	__be16 port;
	__u8 state; /* enum eg_backend_state */
	__u8 flags;
	__u32 generation; /* of this slot; flows of an older one are misses */
	__u32 ifindex;	  /* next hop: interface, 0 while unresolved */
	__u8 dmac[6];
	__u8 smac[6];
	__u16 mtu;    /* L3 bytes that reach it in one packet, 0: unknown */
	__u16 weight; /* in its pool */
	__u32 price;  /* of an outstanding flow, see eg_balance::ewma */
};
_Static_assert(sizeof(struct eg_backend) == 64, "eg_backend");

/* Element of eg_latencies, by pool: time from a flow's first packet to the
 * first reply, as an average flow meets it. */
struct eg_latency {
	__u64 value; /* EWMA, ns */
	__u64 seen;  /* when it changed, ns of CLOCK_MONOTONIC; 0: never */
};
_Static_assert(sizeof(struct eg_latency) == 16, "eg_latency");

/* Element of eg_loads, mapped by the process, which corrects what evictions
 * leave behind by walking the flow table. May be a little below zero. */
struct eg_load {
	__s64 flows;		   /* open: established, or UDP that was answered */
	__s64 outstanding;	   /* those and the half-open ones */
	struct eg_latency latency; /* its peaks */
};
_Static_assert(sizeof(struct eg_load) == 32, "eg_load");

/* --- pools and rings --------------------------------------------------- */

/* How a pool chooses, and so what its ring holds. */
enum eg_algorithm {
	EG_ALGORITHM_MAGLEV = 0,	   /* slot by the 5-tuple's hash */
	EG_ALGORITHM_RING_HASH = 1,	   /* the same, another table */
	EG_ALGORITHM_SESSION_AFFINITY = 2, /* slot by the source's hash */
	EG_ALGORITHM_ROUND_ROBIN = 3,	   /* next slot, per CPU */
	EG_ALGORITHM_WEIGHTED_ROUND_ROBIN = 4,
	EG_ALGORITHM_RANDOM = 5, /* any slot */
	EG_ALGORITHM_WEIGHTED_RANDOM = 6,
	EG_ALGORITHM_P2C = 7, /* from here on by what is counted */
	EG_ALGORITHM_LEAST_CONNECTIONS = 8,
	EG_ALGORITHM_LEAST_REQUESTS = 9,
	EG_ALGORITHM_EWMA = 10,
	EG_ALGORITHMS = 11,
};

/* Element of eg_pools. The hash key is secret: who knows it can choose
 * 5-tuples that collide on one backend. */
struct eg_pool {
	__u64 hash_key[2]; /* SipHash-1-3 key */
	__u32 backends;	   /* in the ring now; 0: no new flow is accepted */
	__u32 period;	   /* slots in use, from the first */
	__u8 algorithm;	   /* enum eg_algorithm */
	__u8 prefix4;	   /* session affinity: leading bits of the source */
	__u8 prefix6;
	__u8 pad;
	__u32 affinity_s; /* how long a source is remembered, 0: not at all */
};
_Static_assert(sizeof(struct eg_pool) == 32, "eg_pool");

/* Key of eg_affinities: a source, or a prefix of it, at a pool. */
struct eg_affinity_key {
	struct eg_addr addr;
	__u32 pool;
};
_Static_assert(sizeof(struct eg_affinity_key) == 20, "eg_affinity_key");

/* Value of eg_affinities: who had its last flow, and when that began. */
struct eg_affinity {
	__u32 backend;
	__u32 generation;
	__u32 seen; /* low half of jiffies */
};
_Static_assert(sizeof(struct eg_affinity) == 12, "eg_affinity");

/* Element of a ring. Alternate: who takes the flow while primary is down. */
struct eg_slot {
	__u32 primary;
	__u32 alternate;
};
_Static_assert(sizeof(struct eg_slot) == 8, "eg_slot");

/* --- flows ------------------------------------------------------------- */

/* Key of eg_flows: the packet as it arrives, in either direction. Also what
 * the pool's hash covers: all 40 bytes, for a client's packet. */
struct eg_flow_key {
	struct eg_addr saddr;
	struct eg_addr daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct eg_flow_key) == 40, "eg_flow_key");

/* pad[0] of a key that is no flow but the claim of one: it exists while a
 * program replaces a dead entry, so that only one does. Readers skip it. */
#define EG_FLOW_CLAIM 1

enum eg_flow_dir {
	EG_FLOW_FORWARD = 0, /* client to backend */
	EG_FLOW_REVERSE = 1, /* backend to client */
};

enum eg_flow_state {
	EG_FLOW_OPENING = 0, /* half-open, nothing came back yet */
	EG_FLOW_OPEN = 1,
	EG_FLOW_CLOSING = 2,  /* TCP: a FIN or RST was seen in this direction */
	EG_FLOW_ANSWERED = 3, /* half-open, and the SYN-ACK was seen */
};

/* Value of eg_flows and eg_opening. Under nat a flow is two entries, and each
 * holds what is needed to write the other anew:
 *   forward {client, vip}      -> addr:port is the source we write
 *   reverse {backend, source}  -> addr:port is the client's
 * with the VIP's and the backend's own addresses read from their arrays. Under
 * the other modes replies bypass us and a flow is its forward half alone, in
 * which addr:port is the outer header's source (its port under gue). */
struct eg_flow {
	__u32 tag; /* of its key, lib/flow.h */
	struct eg_addr addr;
	__be16 port;
	__u8 dir;   /* enum eg_flow_dir */
	__u8 state; /* enum eg_flow_state */
	__u32 vip;
	__u32 epoch;
	__u32 backend;
	__u32 generation;
	__u32 seen;    /* low half of jiffies, refreshed once a second */
	__u32 next;    /* TCP: sequence number that comes next this way */
	__u32 ifindex; /* reverse: the interface the client came by, */
	__u8 dmac[6];  /* and its frames' addresses, turned round */
	__u8 smac[6];
	__u32 born; /* half-open: low half of microseconds, for its latency */
};
_Static_assert(sizeof(struct eg_flow) == 68, "eg_flow");

/* --- fragments --------------------------------------------------------- */

/* Key of eg_frags: what RFC 791 section 3.2 and RFC 8200 section 4.5 know a
 * datagram by. The latter leaves the protocol out, and says that only the
 * first fragment's counts: a sender whose fragments differ in it is no honest
 * one, and its datagram does not arrive. */
struct eg_frag_key {
	struct eg_addr saddr;
	struct eg_addr daddr;
	__u32 id; /* as on the wire; IPv4's in its first two bytes */
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct eg_frag_key) == 40, "eg_frag_key");

/* Bytes of a datagram that went by, from <= byte < to. */
struct eg_frag_range {
	__u16 from;
	__u16 to; /* 0: the slot is free */
};
_Static_assert(sizeof(struct eg_frag_range) == 4, "eg_frag_range");

/* Fragments that touch become one range, so 16 are the holes that may be open
 * at once. A datagram that arrives in order, reversed or over a few queues
 * has one to four; only one that is meant to has more. */
#define EG_FRAG_RANGES 16

/* How long an entry counts after its first fragment. The rest follows within
 * milliseconds; after this long a sender of 13,000 datagrams a second may use
 * an IPv4 identification anew (RFC 4963 section 2). */
#define EG_FRAG_TIMEOUT_MS 5000

/* Flags of struct eg_frag. */
#define EG_FRAG_PORTS	   1  /* the first fragment was seen */
#define EG_FRAG_PASS	   2  /* the datagram is the stack's */
#define EG_FRAG_REFUSED	   4  /* its first fragment was dropped */
#define EG_FRAG_POISONED   8  /* an overlap: nothing of it goes on */
#define EG_FRAG_IDENTIFIED 16 /* id is set */
#define EG_FRAG_DONE	   32 /* all of it went by: the entry counts no more */

/* Value of eg_frags. */
struct eg_frag {
	__u64 born;    /* ns of CLOCK_MONOTONIC */
	__u32 tag;     /* of its key, lib/frag.h */
	__u32 backend; /* of the first fragment */
	__u32 id;      /* under nat: the identification that we write */
	__u32 total;   /* bytes, 0: the last fragment was not seen */
	__be16 sport;
	__be16 dport;
	__u8 flags;
	__u8 pad[3];
	struct eg_frag_range ranges[EG_FRAG_RANGES];
};
_Static_assert(sizeof(struct eg_frag) == 96, "eg_frag");

/* What goes before a frame's bytes in the perf buffer of fragments that came
 * before their first. */
struct eg_held {
	struct eg_frag_key key;
	__u32 ifindex; /* where it came in */
	__u32 length;  /* of the frame */
};
_Static_assert(sizeof(struct eg_held) == 48, "eg_held");

/* --- captures ---------------------------------------------------------- */

/* Beside enum eg_verdict: it waits for its datagram's first fragment. */
#define EG_CAPTURED_HELD 4

/* What goes before a frame's bytes in the perf buffer of a capture. */
struct eg_captured {
	__u64 time;    /* ns of CLOCK_MONOTONIC */
	__u32 ifindex; /* where it came in */
	__u32 length;  /* of the frame */
	__u32 kept;    /* bytes of it that follow, from the first on */
	__u32 verdict; /* enum eg_verdict, or EG_CAPTURED_HELD */
	__u32 reason;  /* of a dropped one: enum eg_drop */
	__u32 vip;     /* 0 where nobody knew by then */
	__u32 backend;
	__u32 reply; /* its flow's packets from the backend to the client */
};
_Static_assert(sizeof(struct eg_captured) == 40, "eg_captured");

/* --- counters ---------------------------------------------------------- */

/* Element of the per-CPU arrays eg_vip_stats and eg_backend_stats. Bytes are
 * those of the packet at ingress, from the IP header on. Index 0, which is no
 * VIP's and no backend's, stays zero. */
struct eg_stats {
	__u64 packets; /* forwarded, client to backend */
	__u64 bytes;
	__u64 reply_packets; /* forwarded, backend to client */
	__u64 reply_bytes;
	__u64 flows; /* new flows */
	__u64 drops; /* packets refused, in either direction */
};
_Static_assert(sizeof(struct eg_stats) == 48, "eg_stats");

/* Element of the per-CPU array eg_totals, indexed by enum eg_verdict:
 * received = forwarded + passed + dropped + answered. The hot path does not pay for a
 * second counter: what VIPs that exist have forwarded is the sum of
 * eg_vip_stats, and the process folds a VIP's figures into the forwarded
 * element (which no program writes) before it gives its id away. */
enum eg_verdict {
	EG_VERDICT_FORWARDED = 0, /* by VIPs that are gone */
	EG_VERDICT_PASSED = 1,
	EG_VERDICT_DROPPED = 2,
	EG_VERDICT_ANSWERED = 3, /* in the stack's place, by a SYN cookie */
	EG_VERDICTS = 4,
};

/* Why a packet was refused: index of the per-CPU array eg_drops, the label
 * of the metric, and the code in an event. The order is ABI; append only. */
enum eg_drop {
	EG_DROP_NONE = 0,	   /* not a reason: keeps 0 from being one */
	EG_DROP_MALFORMED = 1,	   /* headers that contradict the frame or each other */
	EG_DROP_FRAGMENT = 2,	   /* a fragment that cannot be followed */
	EG_DROP_NO_FLOW = 3,	   /* TCP to a VIP, not a SYN, no flow known */
	EG_DROP_NO_BACKEND = 4,	   /* the pool has nobody to take a new flow */
	EG_DROP_NO_PORT = 5,	   /* no free source port in the bounded tries */
	EG_DROP_NO_NEXT_HOP = 6,   /* the backend's next hop is not resolved */
	EG_DROP_STALE_REPLY = 7,   /* reply of a flow whose VIP or backend is gone */
	EG_DROP_TTL = 8,	   /* TTL or hop limit would reach zero */
	EG_DROP_UNUSED_PORT = 9,   /* to a VIP's address, no VIP on that port */
	EG_DROP_MAP = 10,	   /* a map refused an entry */
	EG_DROP_HANDSHAKE = 11,	   /* an ACK that no handshake of ours leads to */
	EG_DROP_TOO_BIG = 12,	   /* beyond the way's MTU; the sender is told */
	EG_DROP_TAIL = 13,	   /* a tail call failed: the objects disagree */
	EG_DROP_BACKEND_DOWN = 14, /* its backend is down or gone; the client is told */

	/* guards, see lib/guard.h */
	EG_DROP_BAD_SOURCE = 15,    /* to a VIP, from where no client can be */
	EG_DROP_BAD_FLAGS = 16,	    /* TCP flags that nothing honest sends */
	EG_DROP_PORT_ZERO = 17,	    /* from port 0 */
	EG_DROP_DENIED = 18,	    /* its prefix is on the deny list */
	EG_DROP_NOT_ALLOWED = 19,   /* there is an allow list, it is not on it */
	EG_DROP_SOURCE_RATE = 20,   /* its source sends too many packets */
	EG_DROP_FLOW_RATE = 21,	    /* its source opens too many flows */
	EG_DROP_UDP_RATE = 22,	    /* its source sends too much UDP */
	EG_DROP_AMPLIFICATION = 23, /* a reply beyond what was asked for */

	EG_DROP_FRAGMENT_OVERLAP = 24, /* bytes of its datagram came before */
	EG_DROP_FRAGMENT_EARLY = 25,   /* before its first; not held, or in vain */
	EG_DROP_FLOW_BUDGET = 26,      /* its VIP gets too many new flows at once */
	EG_DROPS = 27,
};

struct eg_count {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct eg_count) == 16, "eg_count");

/* Index of the per-CPU array eg_misses: why a known flow did not count. */
enum eg_miss {
	EG_MISS_EPOCH = 0,	/* its VIP was removed or forwards otherwise now */
	EG_MISS_GENERATION = 1, /* its backend left */
	EG_MISS_EXPIRED = 2,	/* idle beyond its state's timeout */
	EG_MISS_REOPENED = 3,	/* a SYN on a closing flow */
	EG_MISS_TAKEN = 4,	/* its other half belongs to another flow now */
	EG_MISS_DOWN = 5,	/* its backend is down, and it goes to another */
	EG_MISSES = 6,
};

/* --- guards ------------------------------------------------------------ */

/* Key of the trie in eg_prefixes: bits of the mapped form that count, so 96
 * and more for IPv4. */
struct eg_prefix {
	__u32 len;
	struct eg_addr addr;
};
_Static_assert(sizeof(struct eg_prefix) == 20, "eg_prefix");

/* Value there. */
enum eg_prefix_verdict {
	EG_PREFIX_ALLOW = 0,
	EG_PREFIX_DENY = 1,  /* on the deny list */
	EG_PREFIX_OTHER = 2, /* there is an allow list, and it is not on it */
};

/* Buckets are kept in jiffies / 2^24, so that a rate far above the tick has a
 * step that is not zero. 64 bits of it are a hundred years. */
#define EG_GUARD_TICK_SHIFT 24

/* A limit, in that unit: what one thing costs, and what the bucket holds. */
struct eg_bucket {
	__u64 step;
	__u64 window;
};
_Static_assert(sizeof(struct eg_bucket) == 16, "eg_bucket");

/* The only element of eg_guard_conf. */
struct eg_guards {
	struct eg_addr mask4; /* of the mapped form: what makes a source */
	struct eg_addr mask6;
	struct eg_bucket packets;
	struct eg_bucket flows;
	struct eg_bucket udp;
	__u32 amplification; /* bytes of replies for each byte of requests */
	__u32 pad;
};
_Static_assert(sizeof(struct eg_guards) == 88, "eg_guards");

/* Value of eg_sources. The buckets are the time, in the same unit, when they
 * will be full again. */
struct eg_source {
	__u64 packets;
	__u64 flows;
	__u64 udp;
	__s64 debt;	/* bytes of replies beyond the factor; below 0: credit */
	__u32 forgiven; /* low half of jiffies, when debt was last forgiven */
	__u32 pad;
};
_Static_assert(sizeof(struct eg_source) == 40, "eg_source");

/* Element of eg_budgets, by VIP: how many new flows a second are remembered.
 * Value of eg_cookies: how many SYNs a second the stack is to answer. The
 * process writes it whole when the limit changes. */
struct eg_budget {
	__u64 step; /* of one; 0: no limit, in eg_cookies: none at all */
	__u64 window;
	__u64 full; /* written by the programs: when the bucket is full again */
};
_Static_assert(sizeof(struct eg_budget) == 24, "eg_budget");

/* Index of the per-CPU array eg_cookie_stats: what became of SYNs that were
 * more than the stack is to answer. */
enum eg_cookie {
	EG_COOKIE_SENT = 0,	/* answered by a SYN cookie */
	EG_COOKIE_DECLINED = 1, /* the kernel made none: passed to the stack */
	EG_COOKIE_FAILED = 2,	/* the frame has no room for the answer: lost */
	EG_COOKIES = 3,
};

/* --- events ------------------------------------------------------------ */

enum eg_event_kind {
	EG_EVENT_DROP = 1,     /* sampled; code is enum eg_drop */
	EG_EVENT_NEXT_HOP = 2, /* backend has no next hop; resolve it */
	EG_EVENT_MTU = 3,      /* key.daddr is reached by code bytes at most */
};

/* Record of the ring buffer eg_events; at most eg_event_rate a second and
 * CPU. What was not sent, or found the buffer full, counts in eg_events_lost. */
struct eg_event {
	struct eg_flow_key key; /* the packet, zero where unknown */
	__u32 kind;		/* enum eg_event_kind */
	__u32 code;
	__u32 vip;
	__u32 backend;
	__u32 ifindex;
	__u32 length; /* L3 bytes */
};
_Static_assert(sizeof(struct eg_event) == 64, "eg_event");

/* --- probes ------------------------------------------------------------ */

/* SO_MARK of a probe's socket, and key of eg_probes: the upper byte says that
 * it is one, the rest to whom it goes. Looked for on the loopback device alone,
 * and only on packets to VIPs, so other uses of marks are not in the way. */
#define EG_PROBE_MARK 0xe9000000
#define EG_PROBE_MASK 0xff000000

/* Pairs of a VIP and a backend. Worst cost: 6 MiB, as they are used. Beyond,
 * pairs cannot be probed, which the process reports. As many as backends: each
 * can be probed for one VIP. */
#define EG_MAX_PROBES 65536

/* Value of eg_probes: whom a probe asks, and for which VIP. */
struct eg_probe {
	__u32 vip;
	__u32 epoch;
	__u32 backend;
	__u32 generation;
};
_Static_assert(sizeof(struct eg_probe) == 16, "eg_probe");

/* Index of the per-CPU array eg_probed: what became of probes' packets. */
enum eg_probed {
	EG_PROBED_SENT = 0,
	EG_PROBED_ANSWERED = 1,	   /* IPv4: handed to the probe's socket */
	EG_PROBED_GONE = 2,	   /* dropped: no such pair, or no longer */
	EG_PROBED_NO_NEXT_HOP = 3, /* dropped: the backend's is not resolved */
	EG_PROBED_TOO_BIG = 4,	   /* dropped: beyond the way's MTU */
	EG_PROBED_NO_ROOM = 5,	   /* dropped: no room for an outer header */
	EG_PROBEDS = 6,
};

/* --- sockets ----------------------------------------------------------- */

/* Key of eg_listeners: where L7 traffic arrives. */
struct eg_listener_key {
	struct eg_addr addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct eg_listener_key) == 20, "eg_listener_key");

/* Value of eg_listeners: workers' sockets are eg_socks[base .. base+workers). */
struct eg_listener {
	__u32 base;
	__u32 workers;
};
_Static_assert(sizeof(struct eg_listener) == 8, "eg_listener");

/* Element of eg_workers, mapped by the process: live connections, by which a
 * new one finds the least loaded worker. One cache line each. */
struct eg_worker {
	__u64 live;
	__u8 pad[56];
};
_Static_assert(sizeof(struct eg_worker) == 64, "eg_worker");

/* --- meta -------------------------------------------------------------- */

/* Flag of struct eg_conf: a VIP has nat without snat, whose replies carry no
 * address of ours, so that any packet may be one. */
#define EG_CONF_RETURN_PATH 1

/* The only element of eg_conf: what holds for all packets and may change
 * while the programs run. Read on a miss, never on a hit. */
struct eg_conf {
	__u32 flags;
	__u32 pad;
	struct eg_addr outer4; /* prefixes that outer sources are taken from, */
	struct eg_addr outer6; /* where *_bits is not 0; else the backend's source */
	__u32 outer4_bits;     /* host bits that vary with the flow */
	__u32 outer6_bits;     /* at most 32 */
};
_Static_assert(sizeof(struct eg_conf) == 48, "eg_conf");

/* The only element of eg_meta. */
struct eg_meta {
	__u32 abi; /* EG_ABI of the process that wrote the maps */
	__u32 workers;
	__u64 generation; /* of the configuration applied last */
	__u64 alive;	  /* CLOCK_BOOTTIME ns of the process's last beat */
};
_Static_assert(sizeof(struct eg_meta) == 24, "eg_meta");

#endif /* EG_ABI_H */
