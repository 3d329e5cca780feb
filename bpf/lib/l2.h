/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Address the frame to its next hop. */
#ifndef EG_LIB_L2_H
#define EG_LIB_L2_H

/* An IEEE 802.1ad tag with an 802.1Q tag inside, behind the two addresses. */
struct l2_tags {
	__u64 bytes;
};

static __always_inline int l2_write(struct ethhdr *eth, void *data_end,
				    const struct forward *fw)
{
	if ((void *)(eth + 1) > data_end)
		return -1;
	__builtin_memcpy(eth->h_dest, fw->dmac, 6);
	__builtin_memcpy(eth->h_source, fw->smac, 6);
	return 0;
}

/* The tags of a frame that has any: what lies there otherwise is not used. */
static __always_inline int l2_save_tags(struct l2_tags *tags, void *data,
					void *data_end)
{
	if (data + ETH_HLEN + 2 * VLAN_TAG_LEN > data_end)
		return -1;
	__builtin_memcpy(&tags->bytes, data + 2 * ETH_ALEN, sizeof(tags->bytes));
	return 0;
}

/* A frame's whole beginning, with the tags it had, up to an IP header at l3. */
static __always_inline int l2_build(void *data, void *data_end, __u32 l3,
				    const struct l2_tags *tags, const __u8 *dmac,
				    const __u8 *smac, __be16 type)
{
	if (data + ETH_HLEN + 2 * VLAN_TAG_LEN > data_end)
		return -1;
	__builtin_memcpy(data, dmac, ETH_ALEN);
	__builtin_memcpy(data + ETH_ALEN, smac, ETH_ALEN);
	data += 2 * ETH_ALEN;
	if (l3 == ETH_HLEN) {
		__builtin_memcpy(data, &type, 2);
	} else if (l3 == ETH_HLEN + VLAN_TAG_LEN) {
		__builtin_memcpy(data, &tags->bytes, VLAN_TAG_LEN);
		__builtin_memcpy(data + VLAN_TAG_LEN, &type, 2);
	} else {
		__builtin_memcpy(data, &tags->bytes, 2 * VLAN_TAG_LEN);
		__builtin_memcpy(data + 2 * VLAN_TAG_LEN, &type, 2);
	}
	return 0;
}

#endif
