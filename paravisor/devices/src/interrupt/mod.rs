//! How interrupts reach the processors: local APICs, I/O APIC and the messages
//! between them and the devices.

pub(crate) mod apics;
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
    /// Reset of a processor.
    pub const INIT: u8 = 5;
    /// Start of a processor after INIT; the vector is the page at which it begins.
    pub const STARTUP: u8 = 6;
}

/// Who takes messages.
pub(crate) trait Deliver {
    /// Hands a message over; whether anybody took it.
    fn deliver(&mut self, message: Message) -> bool;
}

/// What a sender must know of a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// APIC ID.
    pub id: u8,
    /// Logical destination.
    pub ldr: u8,
    /// The logical destination is read in the cluster model.
    pub cluster: bool,
    /// APIC_BASE has the APIC on.
    pub hardware: bool,
    /// The spurious vector register has it on.
    pub software: bool,
}

impl Route {
    const CLUSTER: u32 = 1 << 8;
    const HARDWARE: u32 = 1 << 9;
    const SOFTWARE: u32 = 1 << 10;

    /// Everything but the ID in one word.
    pub(crate) fn pack(self) -> u32 {
        let flag = |on, bit| if on { bit } else { 0 };
        u32::from(self.ldr)
            | flag(self.cluster, Self::CLUSTER)
            | flag(self.hardware, Self::HARDWARE)
            | flag(self.software, Self::SOFTWARE)
    }

    /// Reads [`Route::pack`].
    pub(crate) fn unpack(id: u8, word: u32) -> Route {
        Route {
            id,
            ldr: word as u8,
            cluster: word & Self::CLUSTER != 0,
            hardware: word & Self::HARDWARE != 0,
            software: word & Self::SOFTWARE != 0,
        }
    }

    /// Whether a destination means this APIC (APM volume 2, 16.6.1). None does while
    /// it is off.
    pub(crate) fn addressed(&self, destination: u8, logical: bool) -> bool {
        if !self.hardware {
            return false;
        }
        if !logical {
            return destination == self.id || destination == 0xff;
        }
        if !self.cluster {
            return destination & self.ldr != 0;
        }
        // Cluster model: upper half names the cluster, lower half is a set.
        (destination >> 4 == self.ldr >> 4 || destination >> 4 == 0xf)
            && destination & self.ldr & 0xf != 0
    }
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
