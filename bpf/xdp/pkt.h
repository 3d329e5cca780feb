/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* A frame is one packet. bpf/tc/pkt.h is the twin for what an skb holds. */
#ifndef EG_XDP_PKT_H
#define EG_XDP_PKT_H

static __always_inline __u32 pkt_segs(const struct pkt *p)
{
	return 1;
}

static __always_inline __u32 pkt_size(const struct pkt *p)
{
	return p->len;
}

/* Bytes of the whole frame. */
static __always_inline __u32 pkt_frame(const struct xdp_md *ctx)
{
	if (eg_xdp_frags)
		return bpf_xdp_get_buff_len((struct xdp_md *)ctx);
	return ctx->data_end - ctx->data;
}

#endif
