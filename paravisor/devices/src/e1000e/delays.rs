//! Delays of the causes that say "a frame came" and "a frame was sent" (RDTR, RADV,
//! TIDV and TADV; Intel's software developer's manual of the family, 3.2.7.1 and
//! 13.4.30). Each such event starts the first timer anew; the second runs from the
//! first event on. Whichever ends first lets the cause happen, and so does anything
//! that lets it happen before.

use abi::e1000e::{DELAY_FLUSH, DELAY_UNIT, reg};

/// Timers of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delay {
    /// Registers, in units of [`DELAY_UNIT`]: since the last event, since the first.
    packet: u32,
    absolute: u32,
    /// When they end. Neither runs without the other's event.
    packet_end: Option<u64>,
    absolute_end: Option<u64>,
}

impl Delay {
    /// The driver's setting, and no event.
    fn idle(self) -> Delay {
        Delay {
            packet_end: None,
            absolute_end: None,
            ..self
        }
    }

    /// Something happened that may be told later; whether it is to be told now.
    pub(super) fn event(&mut self, now: u64) -> bool {
        if self.packet == 0 {
            *self = self.idle();
            return true;
        }
        let end = |units: u32| now.saturating_add(u64::from(units).saturating_mul(DELAY_UNIT));
        self.packet_end = Some(end(self.packet));
        if self.absolute != 0 {
            self.absolute_end = self.absolute_end.or(Some(end(self.absolute)));
        }
        false
    }

    /// Whether something waits. It is told now, by whatever asks.
    pub(super) fn flush(&mut self) -> bool {
        let waits = self.packet_end.is_some();
        *self = self.idle();
        waits
    }

    /// Whether the time of something that waits has come.
    pub(super) fn expired(&mut self, now: u64) -> bool {
        self.deadline().is_some_and(|end| now >= end) && self.flush()
    }

    /// When something that waits is to be told.
    pub(super) fn deadline(&self) -> Option<u64> {
        let first = |end: u64| self.absolute_end.map_or(end, |other| other.min(end));
        self.packet_end.map(first)
    }

    /// Writes the register of the packet timer; whether what waits is to be told now.
    pub(super) fn write_packet(&mut self, value: u32) -> bool {
        self.packet = value & 0xffff;
        value & DELAY_FLUSH != 0 && self.flush()
    }
}

/// Both directions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delays {
    pub(super) rx: Delay,
    pub(super) tx: Delay,
}

impl Delays {
    /// Reads a register of this part.
    pub(super) fn read(&self, offset: u32) -> Option<u32> {
        Some(match offset {
            reg::RDTR => self.rx.packet,
            reg::RADV => self.rx.absolute,
            reg::TIDV => self.tx.packet,
            reg::TADV => self.tx.absolute,
            _ => return None,
        })
    }

    /// The next end of a timer.
    pub(super) fn deadline(&self) -> Option<u64> {
        let both = [self.rx.deadline(), self.tx.deadline()];
        both.into_iter().flatten().min()
    }

    /// Writes RADV or TADV; whether it is one.
    pub(super) fn write_absolute(&mut self, offset: u32, value: u32) -> bool {
        let delay = match offset {
            reg::RADV => &mut self.rx,
            reg::TADV => &mut self.tx,
            _ => return false,
        };
        delay.absolute = value & 0xffff;
        true
    }
}
