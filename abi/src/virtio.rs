//! Virtio 1.2: PCI transport, split virtqueues and the network device.
//!
//! Source: Virtual I/O Device (VIRTIO) Version 1.2, OASIS; section numbers are
//! given with each part. All fields are little endian.

/// Device status bits (section 2.1).
pub mod status {
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The device met an error from which it cannot recover.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// Feature bits (sections 5.1.3 and 6).
pub mod feature {
    /// Packets with partial checksums from the driver.
    pub const NET_CSUM: u64 = 1 << 0;
    /// Packets with partial checksums to the driver.
    pub const NET_GUEST_CSUM: u64 = 1 << 1;
    /// TCP frames over IPv4 that were coalesced, to the driver.
    pub const NET_GUEST_TSO4: u64 = 1 << 7;
    /// TCP frames over IPv6 that were coalesced, to the driver.
    pub const NET_GUEST_TSO6: u64 = 1 << 8;
    /// The device tells its MTU.
    pub const NET_MTU: u64 = 1 << 3;
    /// The device tells its MAC address.
    pub const NET_MAC: u64 = 1 << 5;
    /// TCP segmentation offload for IPv4.
    pub const NET_HOST_TSO4: u64 = 1 << 11;
    /// TCP segmentation offload for IPv6.
    pub const NET_HOST_TSO6: u64 = 1 << 12;
    /// One frame may take several receive buffers.
    pub const NET_MRG_RXBUF: u64 = 1 << 15;
    /// The device tells its link state.
    pub const NET_STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const NET_CTRL_VQ: u64 = 1 << 17;
    /// Several queue pairs.
    pub const NET_MQ: u64 = 1 << 22;
    /// The device tells the hash of a frame's flow.
    pub const NET_HASH_REPORT: u64 = 1 << 57;
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event`.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
}

/// PCI transport (section 4.1).
pub mod pci {
    /// Modern device IDs are this plus the virtio device ID (4.1.2).
    pub const DEVICE_ID_BASE: u16 = 0x1040;
    /// `cfg_type`: common configuration (4.1.4).
    pub const CAP_COMMON: u8 = 1;
    /// `cfg_type`: notifications.
    pub const CAP_NOTIFY: u8 = 2;
    /// `cfg_type`: ISR status.
    pub const CAP_ISR: u8 = 3;
    /// `cfg_type`: device-specific configuration.
    pub const CAP_DEVICE: u8 = 4;
    /// `cfg_type`: access through configuration space.
    pub const CAP_PCI_CFG: u8 = 5;
    /// Length of `struct virtio_pci_cap`.
    pub const CAP_LEN: u8 = 16;
    /// Length of `virtio_pci_notify_cap` and `virtio_pci_cfg_cap`.
    pub const CAP_LONG_LEN: u8 = 20;
    /// Offsets in `struct virtio_pci_cap`.
    pub mod cap {
        /// `cfg_type`.
        pub const CFG_TYPE: usize = 3;
        /// `bar`.
        pub const BAR: usize = 4;
        /// `offset`, 4 bytes.
        pub const OFFSET: usize = 8;
        /// `length`, 4 bytes.
        pub const LENGTH: usize = 12;
        /// `notify_off_multiplier` or `pci_cfg_data`, 4 bytes.
        pub const EXTRA: usize = 16;
    }
    /// MSI-X vector value that means none (4.1.5.1.2).
    pub const NO_VECTOR: u16 = 0xffff;
    /// ISR bit: a queue was used (4.1.4.5).
    pub const ISR_QUEUE: u8 = 1;
    /// ISR bit: the configuration changed.
    pub const ISR_CONFIG: u8 = 2;

    /// Offsets in `struct virtio_pci_common_cfg` (4.1.4.3).
    pub mod common {
        /// Which half of the device's features is shown.
        pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
        /// That half.
        pub const DEVICE_FEATURE: u64 = 0x04;
        /// Which half of the driver's features is shown.
        pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
        /// That half.
        pub const DRIVER_FEATURE: u64 = 0x0c;
        /// Vector for configuration changes, 2 bytes.
        pub const CONFIG_MSIX_VECTOR: u64 = 0x10;
        /// Number of queues, 2 bytes.
        pub const NUM_QUEUES: u64 = 0x12;
        /// Device status, 1 byte.
        pub const DEVICE_STATUS: u64 = 0x14;
        /// Configuration generation, 1 byte.
        pub const CONFIG_GENERATION: u64 = 0x15;
        /// Which queue the fields below show, 2 bytes.
        pub const QUEUE_SELECT: u64 = 0x16;
        /// Queue size, 2 bytes.
        pub const QUEUE_SIZE: u64 = 0x18;
        /// Queue vector, 2 bytes.
        pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
        /// Queue enable, 2 bytes.
        pub const QUEUE_ENABLE: u64 = 0x1c;
        /// Notification offset, 2 bytes.
        pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
        /// Descriptor area, 8 bytes.
        pub const QUEUE_DESC: u64 = 0x20;
        /// Driver area (available ring), 8 bytes.
        pub const QUEUE_DRIVER: u64 = 0x28;
        /// Device area (used ring), 8 bytes.
        pub const QUEUE_DEVICE: u64 = 0x30;
        /// First byte behind the fields that every device has.
        pub const END: u64 = 0x38;
    }
}

/// Split virtqueues (section 2.7).
pub mod queue {
    /// Length of a descriptor: address 8, length 4, flags 2, next 2.
    pub const DESCRIPTOR_LEN: u64 = 16;
    /// The chain goes on at `next`.
    pub const DESC_NEXT: u16 = 1;
    /// The device writes this buffer.
    pub const DESC_WRITE: u16 = 2;
    /// The buffer holds a table of descriptors.
    pub const DESC_INDIRECT: u16 = 4;
    /// Offset of the ring behind `flags` and `idx`, in both rings.
    pub const RING_OFFSET: u64 = 4;
    /// Offset of `idx`.
    pub const IDX_OFFSET: u64 = 2;
    /// Length of an entry of the available ring.
    pub const AVAIL_ENTRY_LEN: u64 = 2;
    /// Length of an entry of the used ring: id 4, len 4.
    pub const USED_ENTRY_LEN: u64 = 8;
    /// Available ring: the driver wants no interrupts.
    pub const AVAIL_NO_INTERRUPT: u16 = 1;
    /// Used ring: the device wants no notifications.
    pub const USED_NO_NOTIFY: u16 = 1;
}

/// The network device (section 5.1).
pub mod net {
    /// Virtio device ID.
    pub const DEVICE_ID: u16 = 1;
    /// Receive queue of the first pair.
    pub const QUEUE_RX: u16 = 0;
    /// Transmit queue of the first pair.
    pub const QUEUE_TX: u16 = 1;
    /// Length of `struct virtio_net_hdr` with `num_buffers` (5.1.6).
    pub const HEADER_LEN: usize = 12;
    /// Its length with the fields of a hash, `NET_HASH_REPORT`.
    pub const HASH_HEADER_LEN: usize = 20;
    /// Offset of `flags` in it, 1 byte.
    pub const HEADER_FLAGS: usize = 0;
    /// Offset of `gso_type`, 1 byte.
    pub const HEADER_GSO_TYPE: usize = 1;
    /// Offset of `hdr_len`, 2 bytes.
    pub const HEADER_HDR_LEN: usize = 2;
    /// Offset of `gso_size`, 2 bytes.
    pub const HEADER_GSO_SIZE: usize = 4;
    /// Offset of `csum_start`, 2 bytes.
    pub const HEADER_CSUM_START: usize = 6;
    /// Offset of `csum_offset`, 2 bytes.
    pub const HEADER_CSUM_OFFSET: usize = 8;
    /// `flags`: the sum from `csum_start` on is missing at `csum_offset`.
    pub const FLAG_NEEDS_CSUM: u8 = 1;
    /// `flags`: the frame's sums are right.
    pub const FLAG_DATA_VALID: u8 = 2;
    /// `gso_type`: one frame.
    pub const GSO_NONE: u8 = 0;
    /// `gso_type`: segments of TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// `gso_type`: segments of TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// Offset of `num_buffers` in it.
    pub const HEADER_NUM_BUFFERS: usize = 10;
    /// Offset of `hash_value`, 4 bytes.
    pub const HEADER_HASH_VALUE: usize = 12;
    /// Offset of `hash_report`, 2 bytes: how the hash was made (5.1.6.4.4).
    pub const HEADER_HASH_REPORT: usize = 16;
    /// Offset of `mac` in the device configuration (5.1.4).
    pub const CONFIG_MAC: u64 = 0;
    /// Offset of `status`.
    pub const CONFIG_STATUS: u64 = 6;
    /// Offset of `max_virtqueue_pairs`.
    pub const CONFIG_MAX_PAIRS: u64 = 8;
    /// Offset of `mtu`.
    pub const CONFIG_MTU: u64 = 10;
    /// Offset of `rss_max_key_size`, 1 byte.
    pub const CONFIG_MAX_KEY: u64 = 17;
    /// Offset of `supported_hash_types`, 4 bytes.
    pub const CONFIG_HASH_TYPES: u64 = 20;
    /// Length of these fields.
    pub const CONFIG_LEN: u64 = 24;
    /// `status`: the link is up.
    pub const LINK_UP: u16 = 1;
    /// Distance of two doorbells in the region where this device has them.
    pub const DOORBELL_STRIDE: u64 = 4;
    /// Class of control commands: several queue pairs (5.1.6.5.5).
    pub const CTRL_MQ: u8 = 4;
    /// Command of that class: so many pairs are used, 2 bytes.
    pub const CTRL_MQ_PAIRS_SET: u8 = 0;
    /// Command of that class: how hashes are made (5.1.6.5.6.4).
    pub const CTRL_MQ_HASH_CONFIG: u8 = 2;
    /// Offset of `hash_key_length` in `struct virtio_net_hash_config`, 1 byte. In front
    /// of it are the types, 4 bytes, and 8 bytes without a meaning.
    pub const HASH_CONFIG_KEY_LEN: usize = 12;
    /// Offset of the key.
    pub const HASH_CONFIG_KEY: usize = 13;
    /// `hash_report`: there is no hash (5.1.6.4.4).
    pub const HASH_REPORT_NONE: u16 = 0;
    /// `hash_report`: the addresses of IPv4. The bit of a type is that of its number here
    /// less one (5.1.6.4.3.1).
    pub const HASH_REPORT_IPV4: u16 = 1;
    /// `hash_report`: with the ports of TCP.
    pub const HASH_REPORT_TCPV4: u16 = 2;
    /// `hash_report`: with the ports of UDP.
    pub const HASH_REPORT_UDPV4: u16 = 3;
    /// `hash_report`: the addresses of IPv6.
    pub const HASH_REPORT_IPV6: u16 = 4;
    /// `hash_report`: with the ports of TCP.
    pub const HASH_REPORT_TCPV6: u16 = 5;
    /// `hash_report`: with the ports of UDP.
    pub const HASH_REPORT_UDPV6: u16 = 6;
    /// Answer to a control command: done (5.1.6.5).
    pub const CTRL_OK: u8 = 0;
    /// Answer to a control command: refused.
    pub const CTRL_ERR: u8 = 1;
}
