//! Causes, masks, vectors and throttles (datasheet 7.4 and 10.2.4).
//!
//! A frame is told of in two steps: its cause may be delayed ([`super::delays`]), and an
//! interrupt waits for its throttle. Both end by the device's own clock. With MSI-X the
//! queues' causes come with the write-back of descriptors, which is never late here, so
//! nothing but the throttles of the vectors holds them.
//!
//! A cause is a bit of `ICR`. Where the driver turned MSI-X on, the five causes of
//! [`cause::VECTORED`] have a vector each by `IVAR`, and a message leaves when cause
//! and mask become true together. Else INTA is the or of both.

use super::delays::Delays;
use crate::pci::msix::Msix;
use abi::e1000e::{THROTTLE_UNIT, VECTORS, cause, ctrl_ext, ivar, reg};

/// The throttle of INTA; those of the vectors come before it.
const INTX: usize = VECTORS;

/// One throttle.
#[derive(Clone, Copy, Debug, Default)]
struct Throttle {
    /// Register: units of 256 ns between interrupts.
    interval: u32,
    /// When the next one may leave.
    ready_at: u64,
}

/// The interrupt side of the device.
#[derive(Debug)]
pub(super) struct Interrupts {
    icr: u32,
    ims: u32,
    iam: u32,
    eiac: u32,
    ivar: u32,
    throttles: [Throttle; VECTORS + 1],
    delays: Delays,
    /// Vectors that wait for their throttle.
    waiting: u32,
    /// INTA is asserted.
    line: bool,
    /// MSI-X is on.
    messages: bool,
    /// `CTRL_EXT`, which says what clears the mask.
    control: u32,
    /// The latest time that was heard of.
    clock: u64,
    pub(super) msix: Msix<VECTORS>,
}

impl Interrupts {
    pub(super) fn new() -> Interrupts {
        Interrupts {
            icr: 0,
            ims: 0,
            iam: 0,
            eiac: 0,
            ivar: 0,
            throttles: [Throttle::default(); VECTORS + 1],
            delays: Delays::default(),
            waiting: 0,
            line: false,
            messages: false,
            control: 0,
            clock: 0,
            msix: Msix::new(VECTORS as u16),
        }
    }

    /// The device was reset. The table of MSI-X belongs to PCI and stays.
    pub(super) fn reset(&mut self) {
        let mut fresh = Interrupts::new();
        fresh.messages = self.messages;
        fresh.clock = self.clock;
        core::mem::swap(&mut fresh.msix, &mut self.msix);
        fresh.msix.clear_pending();
        *self = fresh;
    }

    pub(super) fn set_control(&mut self, control: u32) {
        self.control = control;
    }

    /// MSI-X was turned on or off.
    pub(super) fn set_messages(&mut self, on: bool) {
        if on != self.messages {
            self.messages = on;
            self.waiting = 0;
            self.flush_delays();
            self.update(self.icr & self.ims);
        }
    }

    /// Reads a register of this part.
    pub(super) fn read(&mut self, offset: u32) -> Option<u32> {
        Some(match offset {
            reg::ICR => self.read_causes(),
            reg::ICS | reg::IMC => 0,
            reg::IMS => self.ims,
            reg::IAM => self.iam,
            reg::EIAC => self.eiac,
            reg::IVAR => self.ivar,
            _ => match self.delays.read(offset) {
                Some(value) => value,
                None => self.throttles.get(throttle(offset)?)?.interval,
            },
        })
    }

    /// Writes a register of this part; whether it is one.
    pub(super) fn write(&mut self, offset: u32, value: u32) -> bool {
        match offset {
            reg::ICR => {
                self.mask_after_reading();
                self.clear(value);
            }
            reg::ICS => self.raise(value & cause::ALL),
            reg::IMS => {
                let new = value & cause::ALL & !self.ims;
                self.ims |= new;
                self.update(self.icr & new);
            }
            reg::IMC => {
                self.ims &= !value;
                self.update(0);
            }
            reg::IAM => self.iam = value & cause::ALL,
            reg::EIAC => self.eiac = value & cause::VECTORED,
            reg::IVAR => self.ivar = value,
            reg::RDTR if self.delays.rx.write_packet(value) => self.raise(cause::RXT0),
            reg::TIDV if self.delays.tx.write_packet(value) => self.raise(cause::TXDW),
            reg::RDTR | reg::TIDV => {}
            _ if self.delays.write_absolute(offset, value) => {}
            _ => {
                let found = throttle(offset).and_then(|index| self.throttles.get_mut(index));
                let Some(found) = found else { return false };
                found.interval = value & 0xffff;
            }
        }
        true
    }

    fn asserted(&self) -> bool {
        self.icr & self.ims != 0
    }

    fn read_causes(&mut self) -> u32 {
        let asserted = self.asserted();
        let value = self.icr | if asserted { cause::INT_ASSERTED } else { 0 };
        if asserted || self.ims == 0 {
            self.mask_after_reading();
            // With MSI-X the queues' causes are left to their vectors: the handler of
            // the others, which reads this register, must not take them away.
            let kept = if self.messages {
                self.eiac & !cause::OTHER
            } else {
                0
            };
            self.clear(!kept);
        }
        value
    }

    fn mask_after_reading(&mut self) {
        if self.asserted() && self.control & ctrl_ext::IAME != 0 {
            self.ims &= !self.iam;
        }
    }

    fn clear(&mut self, causes: u32) {
        self.icr &= !causes;
        self.update(0);
    }

    /// A frame was written to the driver: `RXT0`, perhaps with others, which are not
    /// delayed and take it along.
    pub(super) fn received(&mut self, causes: u32) {
        let alone = causes == cause::RXT0 && !self.messages;
        if !alone || self.delays.rx.event(self.clock) {
            self.delays.rx.flush();
            self.raise(causes);
        }
    }

    /// A frame was sent: `TXDW`. The driver said in its descriptors whether that may be
    /// told later.
    pub(super) fn sent(&mut self, causes: u32, may_wait: bool) {
        let mut causes = causes;
        if may_wait && !self.messages && causes & cause::TXDW != 0 {
            if !self.delays.tx.event(self.clock) {
                causes &= !cause::TXDW;
            }
        } else if causes & cause::TXDW != 0 {
            self.delays.tx.flush();
        }
        if causes != 0 {
            self.raise(causes);
        }
    }

    /// What is delayed happens now.
    fn flush_delays(&mut self) {
        if self.delays.rx.flush() {
            self.raise(cause::RXT0);
        }
        if self.delays.tx.flush() {
            self.raise(cause::TXDW);
        }
    }

    /// Something happened.
    pub(super) fn raise(&mut self, causes: u32) {
        let mut causes = causes;
        if self.messages {
            if causes & (cause::RXT0 | cause::RXDMT0) != 0 {
                causes |= cause::RXQ0;
            }
            if causes & (cause::TXDW | cause::TXQE) != 0 {
                causes |= cause::TXQ0;
            }
        }
        if causes & cause::OTHER_CAUSES != 0 {
            causes |= cause::OTHER;
        }
        let new = causes & !self.icr;
        self.icr |= causes;
        self.update(new & self.ims);
    }

    /// Carries `new` causes, let through just now, to the vectors, and the state to
    /// the line.
    fn update(&mut self, new: u32) {
        if self.messages {
            self.line = false;
            for (index, one) in vectored() {
                if new & one != 0
                    && let Some(vector) = self.vector(index)
                {
                    self.waiting |= 1u32.wrapping_shl(vector);
                }
            }
            self.send();
        } else if !self.asserted() {
            self.line = false;
        } else if !self.line && self.pass(INTX) {
            self.line = true;
        }
    }

    /// The vector of a cause.
    fn vector(&self, index: u32) -> Option<u32> {
        let entry = self.ivar.wrapping_shr(index.wrapping_mul(4)) & 0xf;
        let vector = entry & ivar::VECTOR;
        (entry & ivar::VALID != 0 && (vector as usize) < VECTORS).then_some(vector)
    }

    /// Whether an interrupt may leave now; it is noted that it does.
    fn pass(&mut self, index: usize) -> bool {
        let clock = self.clock;
        let Some(throttle) = self.throttles.get_mut(index) else {
            return false;
        };
        if clock < throttle.ready_at {
            return false;
        }
        let interval = u64::from(throttle.interval).saturating_mul(THROTTLE_UNIT);
        throttle.ready_at = clock.saturating_add(interval);
        true
    }

    /// Sends the messages that wait and may leave.
    fn send(&mut self) {
        for vector in 0..VECTORS as u32 {
            let bit = 1u32.wrapping_shl(vector);
            if self.waiting & bit == 0 {
                continue;
            }
            let mut causes = 0;
            for (index, one) in vectored() {
                if self.vector(index) == Some(vector) {
                    causes |= one & self.icr & self.ims;
                }
            }
            if causes == 0 {
                self.waiting &= !bit;
            } else if self.pass(vector as usize) {
                self.waiting &= !bit;
                self.msix.raise(vector as u16);
                self.clear_itself(causes);
            }
        }
    }

    /// What a message does to causes and mask (datasheet 7.4.3 and 10.2.4.8).
    fn clear_itself(&mut self, causes: u32) {
        let automatic = causes & self.eiac;
        self.icr &= !automatic;
        if automatic & cause::OTHER != 0 {
            self.icr &= !cause::OTHER_CAUSES;
        }
        if self.control & ctrl_ext::IAME == 0 {
            self.ims &= !automatic;
        }
        if self.control & ctrl_ext::EIAME != 0 {
            self.ims &= !(self.iam & causes);
        }
    }

    /// Time has passed.
    pub(super) fn advance(&mut self, now: u64) {
        if now > self.clock {
            self.clock = now;
            if self.delays.rx.expired(now) {
                self.raise(cause::RXT0);
            }
            if self.delays.tx.expired(now) {
                self.raise(cause::TXDW);
            }
            self.update(0);
        }
    }

    /// When something that waits may go on.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let both = [self.delays.deadline(), self.next_throttle()];
        both.into_iter().flatten().min()
    }

    fn next_throttle(&self) -> Option<u64> {
        if !self.messages {
            let wanted = self.asserted() && !self.line;
            let throttle = self.throttles.get(INTX)?;
            return wanted.then_some(throttle.ready_at);
        }
        let mut waiting = self.waiting;
        let mut first = None;
        // The throttle of INTA is the last one and has no bit.
        for throttle in self.throttles.iter().take(VECTORS) {
            if waiting & 1 != 0 {
                let ready_at = throttle.ready_at;
                first = Some(first.map_or(ready_at, |first: u64| first.min(ready_at)));
            }
            waiting >>= 1;
        }
        first
    }

    /// State of INTA.
    pub(super) fn line(&self) -> bool {
        self.line
    }
}

/// The causes that have a vector, with their place in `IVAR`.
fn vectored() -> impl Iterator<Item = (u32, u32)> {
    let all = [
        cause::RXQ0,
        cause::RXQ1,
        cause::TXQ0,
        cause::TXQ1,
        cause::OTHER,
    ];
    (0u32..).zip(all)
}

/// Which throttle a register is.
fn throttle(offset: u32) -> Option<usize> {
    if offset == reg::ITR {
        return Some(INTX);
    }
    let index = usize::try_from(offset.checked_sub(reg::EITR)? >> 2).ok()?;
    (index < VECTORS && offset & 3 == 0).then_some(index)
}
