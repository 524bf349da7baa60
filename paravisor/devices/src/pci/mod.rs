//! PCI as the guest finds it: configuration mechanism 1 (PCI 3.0, section 3.2.2.3.2)
//! with one bus, a host bridge and the functions of the machine.

mod config;
pub(crate) mod msix;

pub(crate) use config::ConfigSpace;

use abi::pci::{CONFIG_ENABLE, id};

/// What the configuration address port selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Device on bus 0, function 0.
    pub device: u8,
    /// Register, a multiple of 4.
    pub register: u8,
}

/// The configuration address register.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConfigAddress(u32);

impl ConfigAddress {
    pub(crate) fn read(self) -> u32 {
        self.0
    }

    /// Bits 24 to 30 and the lowest two do not exist.
    pub(crate) fn write(&mut self, value: u32) {
        self.0 = value & 0x80ff_fffc;
    }

    /// The function and register selected, if it can exist on this bus at all.
    pub(crate) fn selected(self) -> Option<Selected> {
        let bus = self.0 >> 16 & 0xff;
        let function = self.0 >> 8 & 7;
        if self.0 & CONFIG_ENABLE == 0 || bus != 0 || function != 0 {
            return None;
        }
        Some(Selected {
            device: (self.0 >> 11) as u8 & 0x1f,
            register: self.0 as u8 & 0xfc,
        })
    }
}

/// The configuration space of the host bridge: an identity and nothing to set.
pub(crate) fn host_bridge() -> ConfigSpace {
    ConfigSpace::new(
        id::VENDOR_REDHAT,
        id::DEVICE_HOST_BRIDGE,
        id::CLASS_HOST_BRIDGE,
        0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_3_2_2_3_2_address_register() {
        let mut address = ConfigAddress::default();
        address.write(0x8000_0000);
        assert_eq!(address.read(), 0x8000_0000);
        assert_eq!(
            address.selected(),
            Some(Selected {
                device: 0,
                register: 0
            })
        );
        address.write(0x8000_0807 | 0x7f00_0000);
        assert_eq!(address.read(), 0x8000_0804);
        assert_eq!(
            address.selected(),
            Some(Selected {
                device: 1,
                register: 4
            })
        );
        for other in [0x0000_0800, 0x8001_0800, 0x8000_0900] {
            address.write(other);
            assert_eq!(address.selected(), None);
        }
    }
}
