//! The local APIC in xAPIC mode (APM volume 2, chapter 16; where AMD's manual is
//! silent, Intel's SDM volume 3, chapter 11): registers, priorities, IPIs and
//! the timer. Its timer counts 1 ns at divisor 1.

use super::post::Notes;
use super::{Deliver, Message, Route, mode};
use crate::PendingInterrupt;

/// Version register: version 0x14 with six LVT entries (highest index 5).
const VERSION: u32 = 0x0005_0014;
/// A periodic timer asks to be served no more often than this. A guest that sets
/// a shorter period loses ticks; it cannot keep the paravisor from other work.
const MIN_PERIOD_NS: u64 = 20_000;

/// Register offsets (APM volume 2, table 16-1).
pub(crate) mod reg {
    pub const ID: u64 = 0x020;
    pub const VERSION: u64 = 0x030;
    pub const TPR: u64 = 0x080;
    pub const APR: u64 = 0x090;
    pub const PPR: u64 = 0x0a0;
    pub const EOI: u64 = 0x0b0;
    pub const LDR: u64 = 0x0d0;
    pub const DFR: u64 = 0x0e0;
    pub const SVR: u64 = 0x0f0;
    pub const ISR: u64 = 0x100;
    pub const TMR: u64 = 0x180;
    pub const IRR: u64 = 0x200;
    pub const ESR: u64 = 0x280;
    pub const ICR_LOW: u64 = 0x300;
    pub const ICR_HIGH: u64 = 0x310;
    pub const LVT_TIMER: u64 = 0x320;
    pub const LVT_THERMAL: u64 = 0x330;
    pub const LVT_PERFORMANCE: u64 = 0x340;
    pub const LVT_LINT0: u64 = 0x350;
    pub const LVT_LINT1: u64 = 0x360;
    pub const LVT_ERROR: u64 = 0x370;
    pub const TIMER_INITIAL: u64 = 0x380;
    pub const TIMER_CURRENT: u64 = 0x390;
    pub const TIMER_DIVIDE: u64 = 0x3e0;
}

/// LVT bit 16.
const LVT_MASKED: u32 = 1 << 16;
/// LVT timer bits 17 and 18: periodic is 01.
const TIMER_MODE: u32 = 3 << 17;
const TIMER_PERIODIC: u32 = 1 << 17;
/// ICR bits: assert (not the end of a level), and level triggered.
const ASSERT: u32 = 1 << 14;
const LEVEL_TRIGGER: u32 = 1 << 15;
/// SVR bit 8: the APIC is on.
const SVR_ENABLED: u32 = 1 << 8;
/// ESR bits: a vector below 16 was to be sent, was received; an unknown register.
const ESR_SEND_VECTOR: u32 = 1 << 5;
const ESR_RECEIVE_VECTOR: u32 = 1 << 6;
const ESR_REGISTER: u32 = 1 << 7;

/// 256 bits, one per vector.
#[derive(Clone, Copy, Debug, Default)]
struct Vectors([u32; 8]);

impl Vectors {
    fn word(&self, index: u64) -> u32 {
        usize::try_from(index)
            .ok()
            .and_then(|i| self.0.get(i))
            .copied()
            .unwrap_or(0)
    }

    fn set(&mut self, vector: u8, on: bool) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 5)) {
            let bit = 1u32.wrapping_shl(u32::from(vector & 31));
            *word = if on { *word | bit } else { *word & !bit };
        }
    }

    fn has(&self, vector: u8) -> bool {
        self.word(u64::from(vector >> 5))
            .wrapping_shr(u32::from(vector & 31))
            & 1
            != 0
    }

    fn highest(&self) -> Option<u8> {
        let (index, word) = self
            .0
            .iter()
            .enumerate()
            .rev()
            .find(|(_, word)| **word != 0)?;
        let bit = 31u32.wrapping_sub(word.leading_zeros());
        u8::try_from(index.wrapping_mul(32).wrapping_add(bit as usize)).ok()
    }
}

/// State of the one-shot or periodic timer.
#[derive(Clone, Copy, Debug, Default)]
struct Timer {
    initial: u32,
    divide: u32,
    /// When the present count began.
    start: u64,
    running: bool,
}

impl Timer {
    /// The divisor (APM volume 2, figure 16-10): bits 0, 1 and 3; 7 means 1.
    fn divisor(&self) -> u64 {
        let code = (self.divide & 3) | (self.divide >> 1 & 4);
        if code == 7 {
            1
        } else {
            2u64.wrapping_shl(code)
        }
    }

    /// Nanoseconds from the start of a count to its end; at most 2^39.
    fn period(&self) -> u64 {
        u64::from(self.initial).saturating_mul(self.divisor())
    }
}

/// An IPI that is for others, too, or for others only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ipi {
    /// What is sent.
    pub message: Message,
    /// To everybody else, whatever the message's destination says.
    pub to_all_others: bool,
}

/// The local APIC of one of the guest's processors.
#[derive(Clone, Debug)]
pub(crate) struct Lapic {
    /// APIC ID: the processor's index.
    id: u8,
    /// APIC_BASE bit 11.
    hardware_enabled: bool,
    tpr: u8,
    ldr: u8,
    dfr: u32,
    svr: u32,
    irr: Vectors,
    isr: Vectors,
    tmr: Vectors,
    esr: u32,
    esr_latched: u32,
    icr: u64,
    lvt: [u32; 6],
    timer: Timer,
    nmi: bool,
    /// What the last write of the command register sends to others.
    outgoing: Option<Ipi>,
    /// Messages that this APIC cannot act on (INIT, SIPI, SMI, ExtINT, none addressed).
    pub(crate) ignored_messages: u64,
}

impl Lapic {
    /// State after power-on (APM volume 2, 16.3.2).
    pub(crate) fn new(id: u8) -> Lapic {
        Lapic {
            id,
            hardware_enabled: true,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            irr: Vectors::default(),
            isr: Vectors::default(),
            tmr: Vectors::default(),
            esr: 0,
            esr_latched: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            timer: Timer::default(),
            nmi: false,
            outgoing: None,
            ignored_messages: 0,
        }
    }

    /// INIT: the state after power-on, but for APIC_BASE (APM volume 2, 16.3.2).
    pub(crate) fn init(&mut self) {
        *self = Lapic {
            hardware_enabled: self.hardware_enabled,
            ignored_messages: self.ignored_messages,
            ..Lapic::new(self.id)
        };
    }

    /// What senders must know to address this APIC.
    pub(crate) fn route(&self) -> Route {
        Route {
            id: self.id,
            ldr: self.ldr,
            cluster: self.dfr >> 28 != 0xf,
            hardware: self.hardware_enabled,
            software: self.svr & SVR_ENABLED != 0,
        }
    }

    /// Whether APIC_BASE has the APIC on.
    pub(crate) fn hardware_enabled(&self) -> bool {
        self.hardware_enabled
    }

    /// Switching the APIC off by APIC_BASE forgets its state.
    pub(crate) fn set_hardware_enabled(&mut self, on: bool) {
        if self.hardware_enabled && !on {
            *self = Lapic {
                hardware_enabled: false,
                ..Lapic::new(self.id)
            };
        }
        self.hardware_enabled = on;
    }

    fn enabled(&self) -> bool {
        self.hardware_enabled && self.svr & SVR_ENABLED != 0
    }

    /// Reads the 32-bit register at `offset` in the page. Registers lie 16 bytes
    /// apart; anything else between them reads 0.
    pub(crate) fn read(&mut self, offset: u64, now: u64) -> u32 {
        if offset & 0xf != 0 {
            return 0;
        }
        match offset {
            reg::ID => u32::from(self.id) << 24,
            reg::VERSION => VERSION,
            reg::TPR => u32::from(self.tpr),
            reg::APR => 0,
            reg::PPR => u32::from(self.processor_priority()),
            reg::EOI => 0,
            reg::LDR => u32::from(self.ldr) << 24,
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..reg::TMR => self.isr.word(offset.wrapping_sub(reg::ISR) >> 4),
            reg::TMR..reg::IRR => self.tmr.word(offset.wrapping_sub(reg::TMR) >> 4),
            reg::IRR..reg::ESR => self.irr.word(offset.wrapping_sub(reg::IRR) >> 4),
            reg::ESR => self.esr_latched,
            reg::ICR_LOW => self.icr as u32,
            reg::ICR_HIGH => (self.icr >> 32) as u32,
            reg::TIMER_INITIAL => self.timer.initial,
            reg::TIMER_CURRENT => self.current_count(now),
            reg::TIMER_DIVIDE => self.timer.divide,
            _ => match Self::lvt_index(offset) {
                Some(index) => self.lvt.get(index).copied().unwrap_or(0),
                None => {
                    self.error(ESR_REGISTER);
                    0
                }
            },
        }
    }

    /// Writes a register. Returns the vector of a level-triggered interrupt whose
    /// EOI this write was: the I/O APIC has to hear of it.
    pub(crate) fn write(&mut self, offset: u64, value: u32, now: u64) -> Option<u8> {
        if offset & 0xf != 0 {
            return None;
        }
        match offset {
            reg::ID | reg::VERSION | reg::APR | reg::PPR | reg::TIMER_CURRENT => {}
            reg::ISR..reg::ESR => {}
            reg::TPR => self.tpr = value as u8,
            reg::EOI => return self.end_of_interrupt(),
            reg::LDR => self.ldr = (value >> 24) as u8,
            reg::DFR => self.dfr = value | 0x0fff_ffff,
            reg::SVR => self.write_svr(value),
            reg::ESR => {
                self.esr_latched = self.esr;
                self.esr = 0;
            }
            reg::ICR_LOW => {
                self.icr = (self.icr & !0xffff_ffff) | u64::from(value & 0x000c_cfff);
                self.send_ipi();
            }
            reg::ICR_HIGH => {
                self.icr = (self.icr & 0xffff_ffff) | u64::from(value & 0xff00_0000) << 32;
            }
            reg::TIMER_INITIAL => {
                self.timer.initial = value;
                self.timer.start = now;
                self.timer.running = value != 0;
            }
            reg::TIMER_DIVIDE => {
                // The count goes on from where it is at the new rate.
                let left = self.current_count(now);
                self.timer.divide = value & 0xb;
                let done = u64::from(self.timer.initial.saturating_sub(left));
                self.timer.start = now.saturating_sub(done.saturating_mul(self.timer.divisor()));
            }
            _ => match Self::lvt_index(offset) {
                Some(index) => self.write_lvt(index, value, now),
                None => self.error(ESR_REGISTER),
            },
        }
        None
    }

    fn lvt_index(offset: u64) -> Option<usize> {
        match offset {
            reg::LVT_TIMER => Some(0),
            reg::LVT_THERMAL => Some(1),
            reg::LVT_PERFORMANCE => Some(2),
            reg::LVT_LINT0 => Some(3),
            reg::LVT_LINT1 => Some(4),
            reg::LVT_ERROR => Some(5),
            _ => None,
        }
    }

    fn write_lvt(&mut self, index: usize, value: u32, now: u64) {
        // Bits that exist: timer, thermal and performance, LINT0 and 1, error.
        let mask = match index {
            0 => 0x0003_00ff,
            1 | 2 => 0x0001_07ff,
            3 | 4 => 0x0001_a7ff,
            _ => 0x0001_00ff,
        };
        let masked = if self.svr & SVR_ENABLED == 0 {
            LVT_MASKED
        } else {
            0
        };
        let before = self.lvt.first().copied().unwrap_or(0);
        if let Some(entry) = self.lvt.get_mut(index) {
            *entry = (value & mask) | masked;
        }
        if index == 0 && (before ^ value) & TIMER_MODE & mask != 0 {
            // A change between one-shot and periodic stops the count (SDM 11.5.4
            // for the change to and from the deadline mode; harmless for others,
            // since software writes the initial count next).
            self.advance(now);
            self.timer.running = false;
        }
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & 0x1ff;
        if value & SVR_ENABLED == 0 {
            // Software disable masks all LVT entries (APM volume 2, 16.4.7).
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    /// Records an error and raises the error interrupt if that is possible.
    fn error(&mut self, bit: u32) {
        self.esr |= bit;
        let entry = self.lvt.get(5).copied().unwrap_or(LVT_MASKED);
        // An error vector below 16 is not reported again: no recursion.
        if entry & LVT_MASKED == 0 && entry as u8 >= 16 && self.enabled() {
            self.request(entry as u8, false);
        }
    }

    fn request(&mut self, vector: u8, level: bool) {
        self.irr.set(vector, true);
        self.tmr.set(vector, level);
    }

    /// A message from a device, the I/O APIC or this processor itself. Returns
    /// whether this APIC took it.
    pub(crate) fn receive(&mut self, message: Message) -> bool {
        if !self.route().addressed(message.destination, message.logical) {
            self.ignored_messages = self.ignored_messages.saturating_add(1);
            return false;
        }
        match message.mode {
            mode::NMI => self.nmi = true,
            mode::FIXED | mode::LOWEST_PRIORITY => {
                if self.svr & SVR_ENABLED == 0 {
                    self.ignored_messages = self.ignored_messages.saturating_add(1);
                    return false;
                }
                if message.vector < 16 {
                    self.error(ESR_RECEIVE_VECTOR);
                    return false;
                }
                self.request(message.vector, message.level);
            }
            _ => {
                self.ignored_messages = self.ignored_messages.saturating_add(1);
                return false;
            }
        }
        true
    }

    /// Takes what others have sent. Whether the APIC takes an interrupt is decided here:
    /// it may have been switched off since the sender looked.
    pub(crate) fn take_notes(&mut self, notes: &Notes) {
        self.nmi |= notes.nmi && self.hardware_enabled;
        if !self.enabled() {
            return;
        }
        let words = notes.requested.iter().zip(&notes.level);
        let own = self.irr.0.iter_mut().zip(self.tmr.0.iter_mut());
        for ((requested, level), (irr, tmr)) in words.zip(own) {
            *irr |= requested;
            *tmr = *tmr & !requested | level;
        }
    }

    /// The IPI that is for others, once.
    pub(crate) fn take_ipi(&mut self) -> Option<Ipi> {
        self.outgoing.take()
    }

    fn send_ipi(&mut self) {
        let low = self.icr as u32;
        let delivery = (low >> 8) as u8 & 7;
        let vector = low as u8;
        let shorthand = low >> 18 & 3;
        let fixed = matches!(delivery, mode::FIXED | mode::LOWEST_PRIORITY);
        if fixed && vector < 16 {
            self.error(ESR_SEND_VECTOR);
            return;
        }
        let message = Message {
            destination: (self.icr >> 56) as u8,
            logical: low & 1 << 11 != 0,
            mode: delivery,
            vector,
            level: false,
        };
        // The end of INIT's level: meant for processors of old.
        if delivery == mode::INIT && low & LEVEL_TRIGGER != 0 && low & ASSERT == 0 {
            return;
        }
        let to_all_others = shorthand & 2 != 0;
        let here = match shorthand {
            0 => {
                let addressed = self.route().addressed(message.destination, message.logical);
                addressed.then_some(message)
            }
            // Self, and all including self.
            1 | 2 => Some(Message {
                destination: self.id,
                logical: false,
                ..message
            }),
            _ => None,
        };
        let taken = here.is_some_and(|here| self.receive(here));
        // One processor is enough for the lowest priority.
        if shorthand != 1 && !(taken && delivery == mode::LOWEST_PRIORITY) {
            self.outgoing = Some(Ipi {
                message,
                to_all_others,
            });
        }
    }

    fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.set(vector, false);
        self.tmr.has(vector).then_some(vector)
    }

    fn processor_priority(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service {
            self.tpr
        } else {
            in_service
        }
    }

    /// The highest request that the processor priority lets through.
    pub(crate) fn pending(&self) -> Option<PendingInterrupt> {
        if !self.enabled() {
            return None;
        }
        let vector = self.irr.highest()?;
        let priority = vector >> 4;
        (priority > self.processor_priority() >> 4).then_some(PendingInterrupt { vector, priority })
    }

    /// The highest request above what is in service.
    pub(crate) fn requested(&self) -> Option<PendingInterrupt> {
        if !self.enabled() {
            return None;
        }
        let vector = self.irr.highest()?;
        let priority = vector >> 4;
        let in_service = self.isr.highest().unwrap_or(0) >> 4;
        (priority > in_service).then_some(PendingInterrupt { vector, priority })
    }

    /// Bits 7:4 of the task priority.
    pub(crate) fn task_priority(&self) -> u8 {
        self.tpr >> 4
    }

    /// Writes them; the lower half becomes 0, as with CR8 (APM volume 2, 16.6.4). The
    /// same class leaves the register alone.
    pub(crate) fn set_task_priority(&mut self, class: u8) {
        if class & 0xf != self.task_priority() {
            self.tpr = class << 4;
        }
    }

    /// Moves a request into service.
    pub(crate) fn accept(&mut self, vector: u8) {
        if self.irr.has(vector) {
            self.irr.set(vector, false);
            self.isr.set(vector, true);
        }
    }

    /// Whether an NMI waits.
    pub(crate) fn has_nmi(&self) -> bool {
        self.nmi
    }

    /// Takes a pending NMI.
    pub(crate) fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }

    fn periodic(&self) -> bool {
        self.lvt
            .first()
            .is_some_and(|entry| entry & TIMER_MODE == TIMER_PERIODIC)
    }

    fn timer_entry(&self) -> u32 {
        self.lvt.first().copied().unwrap_or(LVT_MASKED)
    }

    fn current_count(&self, now: u64) -> u32 {
        if !self.timer.running {
            return 0;
        }
        let mut elapsed = now.saturating_sub(self.timer.start);
        let period = self.timer.period();
        if elapsed >= period {
            if !self.periodic() {
                return 0;
            }
            elapsed = elapsed.checked_rem(period).unwrap_or(0);
        }
        let ticks = elapsed.checked_div(self.timer.divisor()).unwrap_or(0);
        u32::try_from(u64::from(self.timer.initial).saturating_sub(ticks)).unwrap_or(0)
    }

    /// When the timer expires next, if that matters to anybody.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        if !self.timer.running || !self.enabled() || self.timer_entry() & LVT_MASKED != 0 {
            return None;
        }
        let mut period = self.timer.period();
        if self.periodic() {
            period = period.max(MIN_PERIOD_NS);
        }
        Some(self.timer.start.saturating_add(period))
    }

    /// Lets the timer expire if it is due.
    pub(crate) fn advance(&mut self, now: u64) {
        let period = self.timer.period();
        let elapsed = now.saturating_sub(self.timer.start);
        if !self.timer.running || elapsed < period {
            return;
        }
        if self.periodic() {
            let into = elapsed.checked_rem(period).unwrap_or(0);
            self.timer.start = now.saturating_sub(into);
        } else {
            self.timer.running = false;
        }
        let entry = self.timer_entry();
        if entry & LVT_MASKED == 0 && self.enabled() {
            if (entry as u8) < 16 {
                self.error(ESR_RECEIVE_VECTOR);
            } else {
                self.request(entry as u8, false);
            }
        }
    }
}

impl Deliver for Lapic {
    fn deliver(&mut self, message: Message) -> bool {
        self.receive(message)
    }
}

#[cfg(test)]
mod tests;
