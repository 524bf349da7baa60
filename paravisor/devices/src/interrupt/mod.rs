//! How interrupts reach the processor: local APIC, I/O APIC and the messages
//! between them and the devices.

pub(crate) mod ioapic;
pub(crate) mod lapic;
pub mod post;

use abi::pci::message;

/// Delivery modes that mean something here (APM volume 2, table 16-2).
pub(crate) mod mode {
    /// The vector in the message.
    pub const FIXED: u8 = 0;
    /// The vector in the message, at one of several processors.
    pub const LOWEST_PRIORITY: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 4;
}

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// APIC ID, or a set of logical IDs.
    pub destination: u8,
    /// How to read `destination`.
    pub logical: bool,
    /// Delivery mode, 3 bits.
    pub mode: u8,
    /// Vector.
    pub vector: u8,
    /// Level triggered: its EOI is told to the I/O APIC.
    pub level: bool,
}

impl Message {
    /// Reads the write that a device makes for an MSI; `None` if the address is
    /// not one of local APICs.
    pub(crate) fn from_msi(address: u64, data: u32) -> Option<Message> {
        let low = u32::try_from(address).ok()?;
        if low >> 20 != message::ADDRESS_PREFIX {
            return None;
        }
        Some(Message {
            destination: (low >> message::DESTINATION_SHIFT) as u8,
            logical: low & message::LOGICAL != 0,
            mode: (data >> message::MODE_SHIFT) as u8 & 7,
            vector: data as u8,
            level: data & message::LEVEL != 0,
        })
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects
)]
mod tests {
    use super::*;

    #[test]
    fn msi_address_and_data_are_decoded() {
        let message = Message::from_msi(0xfee0_1004, 0x0000_c131).unwrap();
        assert_eq!(
            message,
            Message {
                destination: 1,
                logical: true,
                mode: 1,
                vector: 0x31,
                level: true
            }
        );
        assert_eq!(Message::from_msi(0xfed0_0000, 0x31), None);
        assert_eq!(Message::from_msi(0x1_fee0_0000, 0x31), None);
    }
}
