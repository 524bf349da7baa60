//! A running hash of what a body saw (FNV-1a, 64 bits).

use core::fmt::{self, Debug, Write};

/// The hash.
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Digest::new()
    }
}

impl Digest {
    /// Of nothing.
    pub const fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }
    /// Takes bytes in.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    /// Takes a number in.
    pub fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }
    /// Takes in what `{:?}` says of `value`.
    pub fn debug(&mut self, value: &impl Debug) {
        let _ = write!(self, "{value:?}");
    }
    /// Takes in which rules were broken how often.
    pub fn violations(&mut self, counters: &vmbus::Counters) {
        for (rule, count) in counters.violations() {
            self.bytes(rule.id().as_bytes());
            self.number(count.into());
        }
    }
    /// What it is so far.
    pub const fn value(&self) -> u64 {
        self.0
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}
