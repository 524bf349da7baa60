//! PCI configuration space, capabilities and message-signalled interrupts.
//!
//! Sources: PCI Local Bus Specification 3.0 (chapter 6, sections 6.7 and 6.8 for
//! capabilities and MSI-X), and for messages on x86 the AMD64 Architecture
//! Programmer's Manual volume 2, section 16 (local APIC).

/// Bit of the configuration address port that turns the data port on.
pub const CONFIG_ENABLE: u32 = 1 << 31;

/// Offsets in a type 0 configuration header (PCI 3.0, figure 6-1).
pub mod header {
    /// Vendor ID, 2 bytes.
    pub const VENDOR: usize = 0x00;
    /// Device ID, 2 bytes.
    pub const DEVICE: usize = 0x02;
    /// Command, 2 bytes.
    pub const COMMAND: usize = 0x04;
    /// Status, 2 bytes.
    pub const STATUS: usize = 0x06;
    /// Revision, 1 byte.
    pub const REVISION: usize = 0x08;
    /// Class code: interface, subclass, class, one byte each.
    pub const CLASS: usize = 0x09;
    /// Cache line size, 1 byte.
    pub const CACHE_LINE: usize = 0x0c;
    /// Latency timer, 1 byte.
    pub const LATENCY: usize = 0x0d;
    /// First of six BARs, 4 bytes each.
    pub const BAR0: usize = 0x10;
    /// Subsystem vendor ID, 2 bytes.
    pub const SUBSYSTEM_VENDOR: usize = 0x2c;
    /// Subsystem ID, 2 bytes.
    pub const SUBSYSTEM: usize = 0x2e;
    /// Offset of the first capability, 1 byte.
    pub const CAPABILITIES: usize = 0x34;
    /// Interrupt line, 1 byte, free for software.
    pub const INTERRUPT_LINE: usize = 0x3c;
    /// Interrupt pin, 1 byte: 1 is INTA.
    pub const INTERRUPT_PIN: usize = 0x3d;
}

/// Bits of the command register.
pub mod command {
    /// Answers I/O accesses.
    pub const IO: u16 = 1 << 0;
    /// Answers memory accesses.
    pub const MEMORY: u16 = 1 << 1;
    /// May access memory and send messages by itself.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// INTx is off.
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Bits of the status register.
pub mod status {
    /// INTx is asserted.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a capability list.
    pub const CAPABILITIES: u16 = 1 << 4;
}

/// Capability IDs.
pub mod capability {
    /// Vendor-specific (virtio uses it).
    pub const VENDOR: u8 = 0x09;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
}

/// MSI-X (PCI 3.0, section 6.8.2).
pub mod msix {
    /// Length of the capability.
    pub const CAPABILITY_LEN: usize = 12;
    /// Message control, offset 2: the table's size minus one is in bits 0 to 10.
    pub const CONTROL: usize = 2;
    /// Message control: every vector is masked.
    pub const FUNCTION_MASK: u16 = 1 << 14;
    /// Message control: MSI-X is on and INTx is off.
    pub const ENABLE: u16 = 1 << 15;
    /// Table offset and BAR number, offset 4.
    pub const TABLE: usize = 4;
    /// Pending bit array offset and BAR number, offset 8.
    pub const PBA: usize = 8;
    /// Length of a table entry: address low and high, data, vector control.
    pub const ENTRY_LEN: usize = 16;
    /// Vector control: this vector is masked.
    pub const ENTRY_MASKED: u32 = 1;
}

/// IDs of the parts that the platform shows.
pub mod id {
    /// Red Hat, the vendor of virtio devices.
    pub const VENDOR_VIRTIO: u16 = 0x1af4;
    /// Red Hat (Qumranet), the vendor of generic PCI parts.
    pub const VENDOR_REDHAT: u16 = 0x1b36;
    /// Generic PCI host bridge of that vendor.
    pub const DEVICE_HOST_BRIDGE: u16 = 0x0008;
    /// Class code of a host bridge: interface, subclass, class.
    pub const CLASS_HOST_BRIDGE: [u8; 3] = [0, 0, 6];
    /// Class code of an Ethernet controller.
    pub const CLASS_ETHERNET: [u8; 3] = [0, 0, 2];
}

/// The message that an interrupt source sends to local APICs, on x86 a write to
/// this window (APM volume 2, "MSI"; Intel SDM volume 3, section 11.11).
pub mod message {
    /// Bits 20 to 31 of the address of an interrupt message.
    pub const ADDRESS_PREFIX: u32 = 0xfee;
    /// Destination APIC ID: bits 12 to 19 of the address.
    pub const DESTINATION_SHIFT: u32 = 12;
    /// Address: the destination is logical.
    pub const LOGICAL: u32 = 1 << 2;
    /// Delivery mode: bits 8 to 10 of the data.
    pub const MODE_SHIFT: u32 = 8;
    /// Data: level triggered.
    pub const LEVEL: u32 = 1 << 15;
}
