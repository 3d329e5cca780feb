/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/*
 * Half-open flows. They live in eg_opening and move to eg_flows when they
 * are answered in a way that a forged source cannot bring about:
 *   nat, TCP   the client acknowledges the number that the backend chose
 *   nat, UDP   the backend answers
 *   else       replies bypass us: TCP, the client goes on where its first
 *              packet ended; UDP, it still sends a second later
 * Until then a flood of new flows can evict only such.
 */
#ifndef EG_LIB_OPENING_H
#define EG_LIB_OPENING_H

/* What comes next for certain: data in a SYN need not be accepted, and is then
 * sent again (RFC 7413 section 4.2). */
static __always_inline __u32 opening_next(const struct pkt *p)
{
	return p->tcp_flags & TCP_SYN ? p->seq + 1 : p->end;
}

static __always_inline void opening_establish(struct eg_flow *f,
					      const struct eg_flow_key *key, __u32 now)
{
	f->tag = flow_tag(key);
	f->state = EG_FLOW_OPEN;
	f->seen = now;
	f->born = 0;
}

/* The reverse half goes first: with it the claim of the port is in both
 * tables, and at no moment in none. */
static __noinline int opening_promote(struct pkt *p, const struct eg_flow *f, int pair,
				      struct promotion *m)
{
	const struct eg_flow *other;
	__u32 now = flow_now();
	int forward = f->dir == EG_FLOW_FORWARD;

	if (eg_dry_run)
		return FORWARD;
	__builtin_memcpy(&m->this, f, sizeof(m->this));
	opening_establish(&m->this, &p->key, now);
	if (pair) {
		if (flow_other_key(&m->key, f, p->key.proto))
			return EG_DROP_MAP;
		other = bpf_map_lookup_elem(&eg_opening, &m->key);
		if (other && flow_is(other, &m->key) && flow_same(f, other))
			__builtin_memcpy(&m->other, other, sizeof(m->other));
		else
			flow_twin(&m->other, p, f, &m->key);
		opening_establish(&m->other, &m->key, now);
		if (forward && flow_moved(p, &m->other)) {
			m->other.ifindex = p->ifindex;
			__builtin_memcpy(m->other.dmac, p->smac, 6);
			__builtin_memcpy(m->other.smac, p->dmac, 6);
		}
		if (!forward &&
		    bpf_map_update_elem(&eg_flows, &p->key, &m->this, BPF_ANY))
			return EG_DROP_MAP;
		if (bpf_map_update_elem(&eg_flows, &m->key, &m->other, BPF_ANY))
			return EG_DROP_MAP;
	}
	if ((!pair || forward) &&
	    bpf_map_update_elem(&eg_flows, &p->key, &m->this, BPF_ANY))
		return EG_DROP_MAP;
	haste_note(pair ? 2 : 1);
	/* Whoever deletes the forward half has made the flow: with two packets
	 * of it on two CPUs it counts once. */
	if (!bpf_map_delete_elem(&eg_opening, forward ? &p->key : &m->key))
		count_load(m->this.backend, 1, 0);
	if (pair)
		bpf_map_delete_elem(&eg_opening, forward ? &m->key : &p->key);
	return FORWARD;
}

/* Does the half-open flow still own the port that it writes? Its claim may have
 * been evicted in a flood, and the port be another's by now. An established
 * claim is in eg_flows: its forward half is about to follow. */
static __noinline int opening_claims(const struct pkt *p, const struct eg_flow *f)
{
	struct eg_flow_key key;
	struct eg_flow *reverse;

	if (flow_reverse_key(&key, f, p->key.proto))
		return 0;
	reverse = bpf_map_lookup_elem(&eg_opening, &key);
	if (reverse && flow_answers(p, f, reverse))
		return 1;
	reverse = bpf_map_lookup_elem(&eg_flows, &key);
	return reverse && flow_answers(p, f, reverse);
}

/* The answer that the client's ACK must acknowledge was seen, and does it? */
static __always_inline int opening_acknowledged(const struct pkt *p,
						const struct eg_flow *f)
{
	struct eg_flow_key key;
	struct eg_flow *reverse;

	if (flow_reverse_key(&key, f, p->key.proto))
		return 0;
	reverse = bpf_map_lookup_elem(&eg_opening, &key);
	return reverse && reverse->state == EG_FLOW_ANSWERED && flow_same(f, reverse) &&
	       p->ack - reverse->next <= SEQ_WINDOW;
}

static __always_inline int opening_tcp_forward(struct pkt *p, struct eg_flow *f,
					       int pair, struct promotion *m)
{
	if (tcp_opens(p)) {
		/* Sent again, perhaps with another number. */
		if (!eg_dry_run) {
			f->next = opening_next(p);
			f->seen = flow_now();
		}
		return FORWARD;
	}
	if (p->seq - f->next > SEQ_WINDOW)
		/* A joined flow's segment, sent again or overtaken. */
		return !pair && seq_near(p->seq, f->next) ? FORWARD : EG_DROP_HANDSHAKE;
	if (p->tcp_flags & TCP_RST)
		return FORWARD;
	if (pair && !opening_acknowledged(p, f))
		return EG_DROP_HANDSHAKE;
	return opening_promote(p, f, pair, m);
}

static __always_inline int opening_tcp_reverse(struct pkt *p, struct eg_flow *f,
					       const struct eg_vip *v)
{
	int answer = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);

	if (eg_dry_run || !answer)
		return FORWARD;
	if (f->state == EG_FLOW_OPENING)
		latency_measure(f->backend, v->pool, f->born);
	f->next = opening_next(p);
	f->seen = flow_now();
	f->state = EG_FLOW_ANSWERED;
	return FORWARD;
}

/* What a packet does to its half-open flow: FORWARD or an enum eg_drop. */
static __always_inline int opening_packet(struct pkt *p, struct eg_flow *f,
					  const struct eg_vip *v, struct promotion *m)
{
	int pair = v->forward == EG_FORWARD_NAT;
	int forward = f->dir == EG_FLOW_FORWARD;

	if (p->key.proto == IPPROTO_TCP)
		return forward ? opening_tcp_forward(p, f, pair, m)
			       : opening_tcp_reverse(p, f, v);
	if (!forward) {
		if (!eg_dry_run)
			latency_measure(f->backend, v->pool, f->born);
		return opening_promote(p, f, pair, m);
	}
	if (!pair && flow_now() - f->seen >= eg_jiffies_hz)
		return opening_promote(p, f, pair, m);
	if (pair && !eg_dry_run)
		f->seen = flow_now();
	return FORWARD;
}

#endif
