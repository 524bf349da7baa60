//! The EEPROM: 64 words, of which a driver believes the MAC address and the sum.

use abi::e1000e::{eerd, id, nvm};

/// The words, made once; nothing can be written.
#[derive(Clone, Debug)]
pub(super) struct Eeprom {
    words: [u16; nvm::WORDS],
}

impl Eeprom {
    pub(super) fn new(mac: [u8; 6]) -> Eeprom {
        let mut words = [0u16; nvm::WORDS];
        let [a, b, c, d, e, f] = mac;
        let known = [
            (nvm::MAC, u16::from_le_bytes([a, b])),
            (nvm::MAC.saturating_add(1), u16::from_le_bytes([c, d])),
            (nvm::MAC.saturating_add(2), u16::from_le_bytes([e, f])),
            // Linux `e1000_fix_nvm_checksum_82571` and its like leave a sum alone
            // that these two bits call valid.
            (nvm::COMPATIBILITY, 1),
            (nvm::FUTURE_INIT1, 1 << 6),
            // `ID_LED_RESERVED_0000`: the driver's own choice.
            (nvm::LED_SETTINGS, 0),
            (nvm::SUBSYSTEM, 0),
            (nvm::DEVICE, id::DEVICE),
            (nvm::VENDOR, id::VENDOR),
        ];
        for (at, value) in known {
            if let Some(word) = words.get_mut(at) {
                *word = value;
            }
        }
        let sum = words.iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        if let Some(word) = words.get_mut(nvm::CHECKSUM) {
            *word = nvm::SUM.wrapping_sub(sum);
        }
        Eeprom { words }
    }

    /// What `EERD` holds after `request` was written to it (datasheet 10.2.2.4).
    pub(super) fn request(&self, request: u32) -> u32 {
        if request & eerd::START == 0 {
            return 0;
        }
        let address = request >> eerd::ADDRESS_SHIFT & 0x3fff;
        let word = usize::try_from(address)
            .ok()
            .and_then(|address| self.words.get(address))
            .copied()
            // Behind the part's end its data line stays high.
            .unwrap_or(u16::MAX);
        u32::from(word) << eerd::DATA_SHIFT | address << eerd::ADDRESS_SHIFT | eerd::DONE
    }
}
