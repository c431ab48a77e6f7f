/* What drover uses of DPDK. Static inlines named in build.rs get symbols; constants that are C expressions get values. */
#include <stddef.h>
#include <stdint.h>

#include <rte_config.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

static const uint64_t DROVER_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t DROVER_RSS_FRAG_IPV4 = RTE_ETH_RSS_FRAG_IPV4;
static const uint64_t DROVER_RSS_IPV4_OTHER = RTE_ETH_RSS_NONFRAG_IPV4_OTHER;
static const uint64_t DROVER_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t DROVER_RSS_IPV4_UDP = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t DROVER_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t DROVER_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
/* The flags that say how the buffer is held; all others say something about the frame. */
static const uint64_t DROVER_MBUF_HELD = RTE_MBUF_F_INDIRECT | RTE_MBUF_F_EXTERNAL;
static const int DROVER_SOCKET_ANY = SOCKET_ID_ANY;
static const uint16_t DROVER_DATA_ROOM = RTE_MBUF_DEFAULT_DATAROOM;
static const uint16_t DROVER_HEADROOM = RTE_PKTMBUF_HEADROOM;

#define OFFSET(field) static const uintptr_t DROVER_OFFSET_##field = offsetof(struct rte_mbuf, field)
OFFSET(buf_addr);
OFFSET(buf_iova);
OFFSET(data_off);
OFFSET(refcnt);
OFFSET(nb_segs);
OFFSET(port);
OFFSET(ol_flags);
OFFSET(packet_type);
OFFSET(pkt_len);
OFFSET(data_len);
OFFSET(vlan_tci);
OFFSET(hash);
OFFSET(buf_len);
OFFSET(pool);
OFFSET(next);
OFFSET(tx_offload);
static const uintptr_t DROVER_SIZE_MBUF = sizeof(struct rte_mbuf);

static inline int drover_errno(void)
{
	return rte_errno;
}

/* struct rte_eth_link is bit fields, and a union of them from 24.11 on. */
static inline int drover_link(uint16_t port, uint32_t *speed, uint8_t *up)
{
	struct rte_eth_link link = {0};
	int result = rte_eth_link_get_nowait(port, &link);

	*speed = link.link_speed;
	*up = link.link_status == RTE_ETH_LINK_UP;
	return result;
}

/* The queue as its driver knows it. */
static inline void *drover_rx_queue(uint16_t port, uint16_t queue)
{
	return rte_eth_fp_ops[port].rxq.data[queue];
}
