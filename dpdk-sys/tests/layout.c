/* What the C compiler says of the structures that src/lib.rs and bindgen describe; tests/layout.rs compares. */
#include <stddef.h>

#include <rte_ethdev.h>
#include <rte_mbuf.h>

#define ROW(type, field) \
	{ #type "." #field, offsetof(struct type, field), sizeof(((struct type *)0)->field) }

struct row {
	const char *name;
	size_t offset;
	size_t size;
};

static const struct row rows[] = {
	ROW(rte_mbuf, buf_addr),
	ROW(rte_mbuf, buf_iova),
	ROW(rte_mbuf, data_off),
	ROW(rte_mbuf, refcnt),
	ROW(rte_mbuf, nb_segs),
	ROW(rte_mbuf, port),
	ROW(rte_mbuf, ol_flags),
	ROW(rte_mbuf, packet_type),
	ROW(rte_mbuf, pkt_len),
	ROW(rte_mbuf, data_len),
	ROW(rte_mbuf, vlan_tci),
	ROW(rte_mbuf, hash),
	ROW(rte_mbuf, vlan_tci_outer),
	ROW(rte_mbuf, buf_len),
	ROW(rte_mbuf, pool),
	ROW(rte_mbuf, next),
	ROW(rte_mbuf, tx_offload),
	ROW(rte_eth_conf, rxmode),
	ROW(rte_eth_conf, txmode),
	ROW(rte_eth_conf, rx_adv_conf),
	ROW(rte_eth_dev_info, driver_name),
	ROW(rte_eth_dev_info, if_index),
	ROW(rte_eth_dev_info, max_rx_queues),
	ROW(rte_eth_dev_info, flow_type_rss_offloads),
	ROW(rte_eth_dev_info, default_rxportconf),
	ROW(rte_eth_stats, ipackets),
	ROW(rte_eth_stats, rx_nombuf),
};

const struct row *drover_layout_row(size_t index)
{
	return index < sizeof(rows) / sizeof(rows[0]) ? &rows[index] : NULL;
}

size_t drover_layout_size(int which)
{
	switch (which) {
	case 0: return sizeof(struct rte_mbuf);
	case 1: return sizeof(struct rte_eth_conf);
	case 2: return sizeof(struct rte_eth_dev_info);
	case 3: return sizeof(struct rte_eth_stats);
	default: return 0;
	}
}
