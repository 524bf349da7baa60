//! Intel 82574L: registers, EEPROM, PHY and descriptors of the gigabit controller
//! that Linux drives with e1000e. All fields are little endian.
//!
//! Sources: registers from Linux `drivers/net/ethernet/intel/e1000e/regs.h`, bits
//! from `defines.h`, descriptors from `hw.h` and `e1000.h`, the PHY's own registers
//! from `phy.h` there; what reading and clearing does from the Intel 82574 datasheet
//! (chapter 10) as QEMU `hw/net/e1000e_core.c` understands it.

/// PCI identity (`E1000_DEV_ID_82574L`).
pub mod id {
    /// Intel.
    pub const VENDOR: u16 = 0x8086;
    /// 82574L.
    pub const DEVICE: u16 = 0x10d3;
}

/// Bytes of the register BAR (QEMU `E1000E_MMIO_SIZE`).
pub const REGISTERS_SIZE: u32 = 128 << 10;
/// Number of the BAR with MSI-X table and pending bits (QEMU `E1000E_MSIX_IDX`).
pub const MSIX_BAR: u8 = 3;
/// Bytes of that BAR.
pub const MSIX_SIZE: u32 = 16 << 10;
/// Offset of the pending bits in it.
pub const MSIX_PBA: u64 = 0x2000;
/// MSI-X vectors.
pub const VECTORS: usize = 5;

/// Offsets of the registers.
pub mod reg {
    /// Device control.
    pub const CTRL: u32 = 0x0000;
    /// Device status.
    pub const STATUS: u32 = 0x0008;
    /// EEPROM control.
    pub const EECD: u32 = 0x0010;
    /// EEPROM read.
    pub const EERD: u32 = 0x0014;
    /// Extended device control.
    pub const CTRL_EXT: u32 = 0x0018;
    /// Access to the PHY.
    pub const MDIC: u32 = 0x0020;
    /// Flow control address, low.
    pub const FCAL: u32 = 0x0028;
    /// Flow control address, high.
    pub const FCAH: u32 = 0x002c;
    /// Flow control type.
    pub const FCT: u32 = 0x0030;
    /// VLAN Ethertype.
    pub const VET: u32 = 0x0038;
    /// Interrupt causes.
    pub const ICR: u32 = 0x00c0;
    /// Interrupt throttle.
    pub const ITR: u32 = 0x00c4;
    /// Set causes.
    pub const ICS: u32 = 0x00c8;
    /// Set and read the mask: a set bit lets the cause through.
    pub const IMS: u32 = 0x00d0;
    /// Clear bits of the mask.
    pub const IMC: u32 = 0x00d8;
    /// Causes that clear themselves when their message is sent (`E1000_EIAC_82574`).
    pub const EIAC: u32 = 0x00dc;
    /// Mask that is cleared with the causes.
    pub const IAM: u32 = 0x00e0;
    /// Vectors of the causes.
    pub const IVAR: u32 = 0x00e4;
    /// Throttle of the first of five vectors (`E1000_EITR_82574`).
    pub const EITR: u32 = 0x00e8;
    /// Receive control.
    pub const RCTL: u32 = 0x0100;
    /// Flow control: pause time.
    pub const FCTTV: u32 = 0x0170;
    /// Transmit control.
    pub const TCTL: u32 = 0x0400;
    /// Gaps between frames.
    pub const TIPG: u32 = 0x0410;
    /// Adaptive gaps.
    pub const AIT: u32 = 0x0458;
    /// LEDs.
    pub const LEDCTL: u32 = 0x0e00;
    /// Extended configuration: who owns the PHY.
    pub const EXTCNF_CTRL: u32 = 0x0f00;
    /// Sizes of it.
    pub const EXTCNF_SIZE: u32 = 0x0f08;
    /// Low power states of the PHY.
    pub const PHY_CTRL: u32 = 0x0f10;
    /// Split of the packet memory.
    pub const PBA: u32 = 0x1000;
    /// Size of the packet memory.
    pub const PBS: u32 = 0x1008;
    /// What management firmware has finished.
    pub const EEMNGCTL: u32 = 0x1010;
    /// Early receive threshold.
    pub const ERT: u32 = 0x2008;
    /// Flow control thresholds, low.
    pub const FCRTL: u32 = 0x2160;
    /// Flow control thresholds, high.
    pub const FCRTH: u32 = 0x2168;
    /// Buffer sizes of packet split.
    pub const PSRCTL: u32 = 0x2170;
    /// Receive ring, low half of its address.
    pub const RDBAL: u32 = 0x2800;
    /// Receive ring, high half.
    pub const RDBAH: u32 = 0x2804;
    /// Receive ring, bytes.
    pub const RDLEN: u32 = 0x2808;
    /// Receive ring, head: the device's.
    pub const RDH: u32 = 0x2810;
    /// Receive ring, tail: the driver's.
    pub const RDT: u32 = 0x2818;
    /// Receive interrupt delay.
    pub const RDTR: u32 = 0x2820;
    /// Receive descriptor control.
    pub const RXDCTL: u32 = 0x2828;
    /// Receive interrupt absolute delay.
    pub const RADV: u32 = 0x282c;
    /// Transmit ring, low half of its address.
    pub const TDBAL: u32 = 0x3800;
    /// Transmit ring, high half.
    pub const TDBAH: u32 = 0x3804;
    /// Transmit ring, bytes.
    pub const TDLEN: u32 = 0x3808;
    /// Transmit ring, head: the device's.
    pub const TDH: u32 = 0x3810;
    /// Transmit ring, tail: the driver's.
    pub const TDT: u32 = 0x3818;
    /// Transmit interrupt delay.
    pub const TIDV: u32 = 0x3820;
    /// Transmit descriptor control.
    pub const TXDCTL: u32 = 0x3828;
    /// Transmit interrupt absolute delay.
    pub const TADV: u32 = 0x382c;
    /// Transmit arbitration.
    pub const TARC: u32 = 0x3840;
    /// Transmit descriptor control of the second queue.
    pub const TXDCTL1: u32 = 0x3928;
    /// Transmit arbitration of the second queue.
    pub const TARC1: u32 = 0x3940;
    /// Receive checksums.
    pub const RXCSUM: u32 = 0x5000;
    /// Receive filter control.
    pub const RFCTL: u32 = 0x5008;
    /// Multicast table, 128 words.
    pub const MTA: u32 = 0x5200;
    /// First word behind it.
    pub const MTA_END: u32 = 0x5400;
    /// Receive addresses, 16 pairs.
    pub const RA: u32 = 0x5400;
    /// First word behind them.
    pub const RA_END: u32 = 0x5480;
    /// VLAN table, 128 words.
    pub const VFTA: u32 = 0x5600;
    /// First word behind it.
    pub const VFTA_END: u32 = 0x5800;
    /// Wake-up control.
    pub const WUC: u32 = 0x5800;
    /// Wake-up filters.
    pub const WUFC: u32 = 0x5808;
    /// Wake-up status.
    pub const WUS: u32 = 0x5810;
    /// PCI Express control.
    pub const GCR: u32 = 0x5b00;
    /// Which functions are active.
    pub const FACTPS: u32 = 0x5b30;
    /// Semaphore of software.
    pub const SWSM: u32 = 0x5b50;
    /// PCI Express control, second.
    pub const GCR2: u32 = 0x5b64;
}

/// Bits of `CTRL`.
pub mod ctrl {
    /// Full duplex.
    pub const FD: u32 = 1 << 0;
    /// No new accesses to memory.
    pub const MASTER_DISABLE: u32 = 1 << 2;
    /// Set link up.
    pub const SLU: u32 = 1 << 6;
    /// Speed 1000 where it is forced.
    pub const SPEED_1000: u32 = 2 << 8;
    /// Reset.
    pub const RST: u32 = 1 << 26;
    /// VLAN tags are taken off and put on.
    pub const VME: u32 = 1 << 30;
    /// Reset of the PHY.
    pub const PHY_RST: u32 = 1 << 31;
}

/// Bits of `STATUS`.
pub mod status {
    /// Full duplex.
    pub const FD: u32 = 1 << 0;
    /// Link up.
    pub const LU: u32 = 1 << 1;
    /// Speed 1000.
    pub const SPEED_1000: u32 = 2 << 6;
    /// The PHY was reset; the driver clears it.
    pub const PHYRA: u32 = 1 << 10;
    /// The device may access memory.
    pub const MASTER_ENABLE: u32 = 1 << 19;
}

/// Bits of `EECD`.
pub mod eecd {
    /// Access was requested.
    pub const REQ: u32 = 1 << 6;
    /// Access was granted.
    pub const GNT: u32 = 1 << 7;
    /// There is an EEPROM.
    pub const PRES: u32 = 1 << 8;
    /// It was read after reset.
    pub const AUTO_RD: u32 = 1 << 9;
}

/// Bits of `EERD`.
pub mod eerd {
    /// Start a read.
    pub const START: u32 = 1 << 0;
    /// The read is done.
    pub const DONE: u32 = 1 << 1;
    /// Word address.
    pub const ADDRESS_SHIFT: u32 = 2;
    /// The word.
    pub const DATA_SHIFT: u32 = 16;
}

/// The EEPROM.
pub mod nvm {
    /// Words.
    pub const WORDS: usize = 64;
    /// First of three words of the MAC address.
    pub const MAC: usize = 0;
    /// Compatibility; bit 0: the checksum is valid (`NVM_COMPAT_VALID_CSUM`).
    pub const COMPATIBILITY: usize = 3;
    /// What the LEDs mean.
    pub const LED_SETTINGS: usize = 4;
    /// Two words of the board's number.
    pub const BOARD: usize = 8;
    /// `NVM_FUTURE_INIT_WORD1`; bit 6: the checksum is valid.
    pub const FUTURE_INIT1: usize = 0x19;
    /// Subsystem ID.
    pub const SUBSYSTEM: usize = 0x0b;
    /// Device ID.
    pub const DEVICE: usize = 0x0d;
    /// Vendor ID.
    pub const VENDOR: usize = 0x0e;
    /// Word that brings the sum to [`SUM`].
    pub const CHECKSUM: usize = 0x3f;
    /// Sum of all words up to the checksum.
    pub const SUM: u16 = 0xbaba;
}

/// Bits of `CTRL_EXT`.
pub mod ctrl_ext {
    /// Read the EEPROM again.
    pub const EE_RST: u32 = 1 << 13;
    /// A message clears the bits of `IAM` in the mask.
    pub const EIAME: u32 = 1 << 24;
    /// Reading `ICR` clears the bits of `IAM` in the mask.
    pub const IAME: u32 = 1 << 27;
    /// Clear pending bits of MSI-X with the causes.
    pub const PBA_CLR: u32 = 1 << 31;
}

/// `MDIC`.
pub mod mdic {
    /// The word.
    pub const DATA: u32 = 0xffff;
    /// Register: 5 bits.
    pub const REGISTER_SHIFT: u32 = 16;
    /// PHY: 5 bits; 1 is the device's own.
    pub const PHY_SHIFT: u32 = 21;
    /// Write.
    pub const WRITE: u32 = 1 << 26;
    /// Read.
    pub const READ: u32 = 2 << 26;
    /// Done.
    pub const READY: u32 = 1 << 28;
    /// Interrupt when done.
    pub const INTERRUPT: u32 = 1 << 29;
    /// No such register.
    pub const ERROR: u32 = 1 << 30;
}

/// Registers of the PHY (IEEE 802.3 clause 22, Linux `uapi/linux/mii.h`, and the
/// 82574's own).
pub mod phy {
    /// Control.
    pub const BMCR: u8 = 0;
    /// Status.
    pub const BMSR: u8 = 1;
    /// Identity, first half.
    pub const ID1: u8 = 2;
    /// Identity, second half.
    pub const ID2: u8 = 3;
    /// What we advertise.
    pub const ADVERTISE: u8 = 4;
    /// What the partner does.
    pub const PARTNER: u8 = 5;
    /// Autonegotiation expansion.
    pub const EXPANSION: u8 = 6;
    /// 1000BASE-T control.
    pub const CONTROL_1000: u8 = 9;
    /// 1000BASE-T status.
    pub const STATUS_1000: u8 = 10;
    /// Extended status.
    pub const EXTENDED_STATUS: u8 = 15;
    /// `M88E1000_PHY_SPEC_CTRL`.
    pub const SPECIFIC_CONTROL: u8 = 16;
    /// `M88E1000_PHY_SPEC_STATUS`.
    pub const SPECIFIC_STATUS: u8 = 17;
    /// `M88E1000_EXT_PHY_SPEC_CTRL`.
    pub const EXTENDED_CONTROL: u8 = 20;
    /// Receive errors.
    pub const RECEIVE_ERRORS: u8 = 21;
    /// `BM_PHY_PAGE_SELECT`.
    pub const PAGE: u8 = 22;
    /// `BME1000_E_PHY_ID_R2`.
    pub const ID: u32 = 0x0141_0cb1;
    /// Control: reset.
    pub const BMCR_RESET: u16 = 0x8000;
    /// Control: autonegotiation.
    pub const BMCR_AUTONEGOTIATE: u16 = 0x1000;
    /// Control: power down.
    pub const BMCR_POWER_DOWN: u16 = 0x0800;
    /// Control: start autonegotiation again.
    pub const BMCR_RESTART: u16 = 0x0200;
    /// Control: full duplex.
    pub const BMCR_FULL_DUPLEX: u16 = 0x0100;
    /// Control: speed 1000.
    pub const BMCR_SPEED_1000: u16 = 0x0040;
    /// Status: what it can do (10 and 100 both ways, extended status,
    /// autonegotiation, extended registers, no preamble needed).
    pub const BMSR_ABLE: u16 = 0x7949;
    /// Status: link.
    pub const BMSR_LINK: u16 = 0x0004;
    /// Status: autonegotiation is complete.
    pub const BMSR_NEGOTIATED: u16 = 0x0020;
    /// Specific status: link now.
    pub const SPECIFIC_LINK: u16 = 0x0400;
    /// Specific status: 1000, full duplex, resolved.
    pub const SPECIFIC_1000_FULL: u16 = 0x8000 | 0x2000 | 0x0800;
}

/// Interrupt causes.
pub mod cause {
    /// A sent descriptor was written back.
    pub const TXDW: u32 = 1 << 0;
    /// The transmit ring is empty.
    pub const TXQE: u32 = 1 << 1;
    /// The link changed.
    pub const LSC: u32 = 1 << 2;
    /// Few receive descriptors are left.
    pub const RXDMT0: u32 = 1 << 4;
    /// A frame found no buffer.
    pub const RXO: u32 = 1 << 6;
    /// Frames were received.
    pub const RXT0: u32 = 1 << 7;
    /// Access to the PHY is done.
    pub const MDAC: u32 = 1 << 9;
    /// Small packet.
    pub const SRPD: u32 = 1 << 16;
    /// Acknowledgement.
    pub const ACK: u32 = 1 << 17;
    /// Management.
    pub const MNG: u32 = 1 << 18;
    /// First receive queue (MSI-X only).
    pub const RXQ0: u32 = 1 << 20;
    /// Second receive queue.
    pub const RXQ1: u32 = 1 << 21;
    /// First transmit queue.
    pub const TXQ0: u32 = 1 << 22;
    /// Second transmit queue.
    pub const TXQ1: u32 = 1 << 23;
    /// One of the causes below.
    pub const OTHER: u32 = 1 << 24;
    /// A cause is let through by the mask.
    pub const INT_ASSERTED: u32 = 1 << 31;
    /// What [`OTHER`] stands for.
    pub const OTHER_CAUSES: u32 = LSC | RXO | MDAC | SRPD | ACK | MNG;
    /// The five causes that have a vector (`E1000_EIAC_MASK_82574`).
    pub const VECTORED: u32 = RXQ0 | RXQ1 | TXQ0 | TXQ1 | OTHER;
    /// All causes that exist.
    pub const ALL: u32 = TXDW | TXQE | 1 << 15 | RXDMT0 | RXT0 | OTHER_CAUSES | VECTORED;
}

/// `IVAR`: four bits for each of [`cause::VECTORED`].
pub mod ivar {
    /// The entry counts (`E1000_IVAR_INT_ALLOC_VALID`).
    pub const VALID: u32 = 8;
    /// Its vector.
    pub const VECTOR: u32 = 7;
}

/// Nanoseconds of a unit of `ITR` and `EITR` (Linux `e1000e_write_itr`).
pub const THROTTLE_UNIT: u64 = 256;
/// Nanoseconds of a unit of `RDTR`, `RADV`, `TIDV` and `TADV`.
pub const DELAY_UNIT: u64 = 1024;
/// `RDTR` and `TIDV`: what is delayed happens now; reads 0.
pub const DELAY_FLUSH: u32 = 1 << 31;

/// Bits of `RCTL`.
pub mod rctl {
    /// On.
    pub const EN: u32 = 1 << 1;
    /// All unicast frames.
    pub const UPE: u32 = 1 << 3;
    /// All multicast frames.
    pub const MPE: u32 = 1 << 4;
    /// Frames longer than 1522 bytes.
    pub const LPE: u32 = 1 << 5;
    /// Threshold of [`super::cause::RXDMT0`]: half, quarter, eighth.
    pub const RDMTS_SHIFT: u32 = 8;
    /// Descriptors of packet split.
    pub const DTYP_PS: u32 = 1 << 10;
    /// Which bits of an address are looked up in the multicast table.
    pub const MO_SHIFT: u32 = 12;
    /// Broadcasts.
    pub const BAM: u32 = 1 << 15;
    /// Buffer size.
    pub const BSIZE_SHIFT: u32 = 16;
    /// Only VLANs of the table.
    pub const VFE: u32 = 1 << 18;
    /// Buffer size times 16.
    pub const BSEX: u32 = 1 << 25;
    /// No FCS in the buffer.
    pub const SECRC: u32 = 1 << 26;
    /// Buffer size in KiB, if not 0 (datasheet 10.2.5.1, FLXBUF).
    pub const FLXBUF_SHIFT: u32 = 27;
}

/// `RFCTL`: extended descriptors.
pub const RFCTL_EXTEN: u32 = 1 << 15;
/// `TCTL`: on.
pub const TCTL_EN: u32 = 1 << 1;
/// `RAH`: the pair counts.
pub const RAH_VALID: u32 = 1 << 31;
/// `EXTCNF_CTRL`: software owns the PHY (`E1000_EXTCNF_CTRL_MDIO_SW_OWNERSHIP`).
pub const EXTCNF_SW_OWNER: u32 = 1 << 5;
/// `EEMNGCTL`: configuration is done (`E1000_NVM_CFG_DONE_PORT_0`).
pub const EEMNGCTL_DONE: u32 = 1 << 18;
/// `SWSM`: taken by reading it as 0.
pub const SWSM_SMBI: u32 = 1 << 0;

/// Transmit descriptors.
pub mod tx {
    /// Bytes: address 8, lower 4, upper 4.
    pub const LEN: usize = 16;
    /// Offset of the status byte.
    pub const STATUS: u64 = 12;
    /// Lower: bytes of a buffer of a legacy descriptor.
    pub const LEGACY_LENGTH: u32 = 0xffff;
    /// Lower: bytes of a buffer of an extended descriptor.
    pub const LENGTH: u32 = 0xf_ffff;
    /// Lower, extended: kind of descriptor, 4 bits.
    pub const KIND_SHIFT: u32 = 20;
    /// Kind: offload context.
    pub const KIND_CONTEXT: u32 = 0;
    /// Kind: data.
    pub const KIND_DATA: u32 = 1;
    /// Lower: end of packet.
    pub const EOP: u32 = 1 << 24;
    /// Lower, legacy: insert a checksum. Extended data: segment.
    pub const IC: u32 = 1 << 26;
    /// Lower, extended data: segment (TCP).
    pub const TSE: u32 = 1 << 26;
    /// Lower: report status.
    pub const RS: u32 = 1 << 27;
    /// Lower: extended.
    pub const DEXT: u32 = 1 << 29;
    /// Lower: insert a VLAN tag.
    pub const VLE: u32 = 1 << 30;
    /// Lower: what is reported may be told later.
    pub const IDE: u32 = 1 << 31;
    /// Lower of a context: TCP, else UDP.
    pub const CONTEXT_TCP: u32 = 1 << 24;
    /// Lower of a context: IPv4, else IPv6.
    pub const CONTEXT_IPV4: u32 = 1 << 25;
    /// Upper of data: insert the IP checksum.
    pub const IXSM: u32 = 1 << 8;
    /// Upper of data: insert the TCP or UDP checksum.
    pub const TXSM: u32 = 2 << 8;
    /// Status: done.
    pub const DD: u8 = 1;
}

/// Receive descriptors.
pub mod rx {
    /// Bytes of a legacy or extended descriptor.
    pub const LEN: usize = 16;
    /// Bytes of one of packet split: four addresses.
    pub const SPLIT_LEN: usize = 32;
    /// Buffers of one of packet split.
    pub const SPLIT_BUFFERS: usize = 4;
    /// Status: done.
    pub const DD: u32 = 1 << 0;
    /// Status: end of packet.
    pub const EOP: u32 = 1 << 1;
    /// Status: checksums were not looked at.
    pub const IXSM: u32 = 1 << 2;
    /// Status: a VLAN tag was taken off.
    pub const VP: u32 = 1 << 3;
}

const _: () = assert!(tx::LEN == 8 + 4 + 4 && tx::STATUS as usize + 4 == tx::LEN);
const _: () = assert!(rx::LEN == 8 + 4 + 2 + 2 && rx::SPLIT_LEN == rx::SPLIT_BUFFERS * 8);
const _: () = assert!(cause::VECTORED == 0x01f0_0000);
const _: () = assert!(nvm::CHECKSUM + 1 == nvm::WORDS);
const _: () = assert!(reg::MTA_END - reg::MTA == 128 * 4 && reg::RA_END - reg::RA == 16 * 8);
const _: () = assert!(VECTORS * 16 <= MSIX_PBA as usize && MSIX_SIZE as u64 > MSIX_PBA);
