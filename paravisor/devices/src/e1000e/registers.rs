//! Registers that remember what was written, and no more: which bits of which.

use abi::e1000e::{ctrl, reg};
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of registers that are kept.
const END: u32 = 0x5c00;

/// The words.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    words: Vec<u32>,
}

impl Plain {
    pub(super) fn new() -> Plain {
        let mut plain = Plain {
            words: vec![0; (END >> 2) as usize],
        };
        plain.reset();
        plain
    }

    pub(super) fn reset(&mut self) {
        self.words.fill(0);
        self.put(reg::CTRL, ctrl::FD | ctrl::SLU | ctrl::SPEED_1000);
        // Datasheet 10.2.2.21: 20 KiB for each direction.
        self.put(reg::PBA, 0x0014_0014);
    }

    /// The word at `offset`, 0 where there is none.
    pub(super) fn get(&self, offset: u32) -> u32 {
        let word = self.words.get((offset >> 2) as usize);
        word.copied().unwrap_or(0)
    }

    /// Sets a word, whatever the driver may write.
    pub(super) fn put(&mut self, offset: u32, value: u32) {
        if let Some(word) = self.words.get_mut((offset >> 2) as usize) {
            *word = value;
        }
    }

    /// A write of the driver.
    pub(super) fn write(&mut self, offset: u32, value: u32) {
        let mask = writable(offset);
        let before = self.get(offset);
        self.put(offset, before & !mask | value & mask);
    }
}

/// The bits that a driver may change.
fn writable(offset: u32) -> u32 {
    match offset {
        reg::CTRL => !(ctrl::RST | ctrl::PHY_RST),
        reg::CTRL_EXT
        | reg::FCAL
        | reg::FCAH
        | reg::LEDCTL
        | reg::EXTCNF_CTRL
        | reg::PHY_CTRL
        | reg::PBA
        | reg::RCTL
        | reg::TCTL
        | reg::TIPG
        | reg::PSRCTL
        | reg::RXDCTL
        | reg::TXDCTL
        | reg::TXDCTL1
        | reg::TARC
        | reg::TARC1
        | reg::RFCTL
        | reg::WUC
        | reg::WUFC
        | reg::GCR
        | reg::GCR2
        | reg::FCRTL
        | reg::FCRTH => u32::MAX,
        reg::VET | reg::FCT | reg::FCTTV | reg::AIT | reg::ERT => 0xffff,
        reg::RXCSUM => 0x3fff,
        reg::SWSM => 0xf,
        reg::MTA..reg::MTA_END | reg::RA..reg::RA_END | reg::VFTA..reg::VFTA_END => u32::MAX,
        // RSS (MRQC and its tables) is not there: it reads back as off.
        _ => 0,
    }
}
