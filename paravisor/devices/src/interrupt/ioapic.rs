//! The I/O APIC (Intel 82093AA, with the EOI register of later parts): 24 pins,
//! level and edge, routed to the local APICs.

use super::{Deliver, Message};

/// Number of pins.
pub(crate) const PINS: usize = 24;
/// Version 0x20 has the EOI register; bits 16 to 23 are the highest pin.
const VERSION: u32 = 0x0017_0020;

/// Redirection entry bits (82093AA, 3.2.4).
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Bits that software may write: all but delivery status and remote IRR, and no
/// reserved ones.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The I/O APIC.
#[derive(Clone, Debug)]
pub(crate) struct IoApic {
    id: u8,
    select: u8,
    entries: [u64; PINS],
    /// Whether each pin is asserted. Polarity is a matter of boards, not of us.
    asserted: u32,
}

impl IoApic {
    pub(crate) fn new() -> IoApic {
        IoApic {
            id: 0,
            select: 0,
            entries: [MASKED; PINS],
            asserted: 0,
        }
    }

    /// Reads a register of the page; only the two windows answer.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => u32::from(self.select),
            0x10 => match self.select {
                0 => u32::from(self.id) << 24,
                1 => VERSION,
                2 => u32::from(self.id) << 24,
                _ => match self.selected() {
                    Some((entry, true)) => (entry >> 32) as u32,
                    Some((entry, false)) => entry as u32,
                    None => 0,
                },
            },
            _ => 0,
        }
    }

    fn selected(&self) -> Option<(u64, bool)> {
        let index = self.select.checked_sub(0x10)?;
        let entry = self.entries.get(usize::from(index >> 1))?;
        Some((*entry, index & 1 != 0))
    }

    /// Writes a register; what that lets through goes to `apics`.
    pub(crate) fn write(&mut self, offset: u64, value: u32, apics: &mut impl Deliver) {
        match offset {
            0x00 => self.select = value as u8,
            0x10 if self.select == 0 => self.id = (value >> 24) as u8 & 0xf,
            0x10 => {
                let Some(index) = self.select.checked_sub(0x10) else {
                    return;
                };
                let pin = usize::from(index >> 1);
                if let Some(entry) = self.entries.get_mut(pin) {
                    let written = if index & 1 != 0 {
                        (*entry & 0xffff_ffff) | u64::from(value) << 32
                    } else {
                        (*entry & !0xffff_ffff) | u64::from(value)
                    };
                    let mut kept = *entry & REMOTE_IRR;
                    if written & LEVEL == 0 {
                        // Turning a pin to edge mode clears remote IRR; Linux
                        // uses that to end interrupts on old parts.
                        kept = 0;
                    }
                    *entry = (written & WRITABLE) | kept;
                    self.service(pin, apics);
                }
            }
            0x40 => self.end_of_interrupt(value as u8, apics),
            _ => {}
        }
    }

    /// Sets the state of a pin.
    pub(crate) fn set_line(&mut self, pin: u8, on: bool, apics: &mut impl Deliver) {
        let bit = 1u32.wrapping_shl(u32::from(pin));
        let before = self.asserted & bit != 0;
        if !on && !before {
            // As most lines most of the time: looked at after each frame.
            return;
        }
        self.asserted = if on {
            self.asserted | bit
        } else {
            self.asserted & !bit
        };
        let index = usize::from(pin);
        let Some(entry) = self.entries.get(index) else {
            return;
        };
        if entry & LEVEL != 0 {
            self.service(index, apics);
        } else if on && !before && entry & MASKED == 0 {
            // An edge at a masked pin is lost (82093AA, 3.2.4, bit 16).
            apics.deliver(Self::message(*entry));
        }
    }

    /// A local APIC has ended this level-triggered vector.
    pub(crate) fn end_of_interrupt(&mut self, vector: u8, apics: &mut impl Deliver) {
        for pin in 0..PINS {
            let Some(entry) = self.entries.get_mut(pin) else {
                continue;
            };
            if *entry & LEVEL != 0 && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.service(pin, apics);
            }
        }
    }

    /// Sends the interrupt of an asserted level pin that nobody has served yet.
    fn service(&mut self, pin: usize, apics: &mut impl Deliver) {
        let asserted = self.asserted.wrapping_shr(pin as u32) & 1 != 0;
        let Some(entry) = self.entries.get_mut(pin) else {
            return;
        };
        if asserted
            && *entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL
            && apics.deliver(Self::message(*entry))
        {
            *entry |= REMOTE_IRR;
        }
    }

    fn message(entry: u64) -> Message {
        Message {
            destination: (entry >> 56) as u8,
            logical: entry & LOGICAL != 0,
            mode: (entry >> 8) as u8 & 7,
            vector: entry as u8,
            level: entry & LEVEL != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lapic::Lapic;
    use super::*;

    fn apics() -> (IoApic, Lapic) {
        let mut lapic = Lapic::new(0);
        lapic.write(0xf0, 0x1ff, 0);
        (IoApic::new(), lapic)
    }

    fn redirect(ioapic: &mut IoApic, lapic: &mut Lapic, pin: u32, low: u32) {
        ioapic.write(0, 0x11 + 2 * pin, lapic);
        ioapic.write(0x10, 0, lapic);
        ioapic.write(0, 0x10 + 2 * pin, lapic);
        ioapic.write(0x10, low, lapic);
    }

    fn vector(lapic: &Lapic) -> Option<u8> {
        lapic.pending().map(|p| p.vector)
    }

    #[test]
    fn version_tells_24_pins_and_an_eoi_register() {
        let (mut ioapic, mut lapic) = apics();
        ioapic.write(0, 1, &mut lapic);
        assert_eq!(ioapic.read(0x10), 0x0017_0020);
        ioapic.write(0, 0x10 + 2 * 24, &mut lapic);
        assert_eq!(ioapic.read(0x10), 0);
    }

    #[test]
    fn edge_sends_once_per_rise_and_is_lost_when_masked() {
        let (mut ioapic, mut lapic) = apics();
        redirect(&mut ioapic, &mut lapic, 4, 0x1_0034);
        ioapic.set_line(4, true, &mut lapic);
        assert_eq!(vector(&lapic), None);
        redirect(&mut ioapic, &mut lapic, 4, 0x34);
        assert_eq!(vector(&lapic), None);
        ioapic.set_line(4, false, &mut lapic);
        ioapic.set_line(4, true, &mut lapic);
        assert_eq!(vector(&lapic), Some(0x34));
        lapic.accept(0x34);
        ioapic.set_line(4, true, &mut lapic);
        assert_eq!(lapic.write(0xb0, 0, 0), None);
        assert_eq!(vector(&lapic), None);
    }

    #[test]
    fn level_is_sent_again_after_eoi_while_asserted() {
        let (mut ioapic, mut lapic) = apics();
        redirect(&mut ioapic, &mut lapic, 16, 0x8041);
        ioapic.set_line(16, true, &mut lapic);
        lapic.accept(0x41);
        ioapic.set_line(16, true, &mut lapic);
        assert_eq!(vector(&lapic), None);
        ioapic.write(0, 0x10 + 32, &mut lapic);
        assert_eq!(ioapic.read(0x10) & REMOTE_IRR as u32, REMOTE_IRR as u32);
        let ended = lapic.write(0xb0, 0, 0).unwrap();
        ioapic.end_of_interrupt(ended, &mut lapic);
        assert_eq!(vector(&lapic), Some(0x41));
        lapic.accept(0x41);
        ioapic.set_line(16, false, &mut lapic);
        let ended = lapic.write(0xb0, 0, 0).unwrap();
        ioapic.end_of_interrupt(ended, &mut lapic);
        assert_eq!(vector(&lapic), None);
    }

    #[test]
    fn unmasking_an_asserted_level_pin_sends() {
        let (mut ioapic, mut lapic) = apics();
        redirect(&mut ioapic, &mut lapic, 9, 0x1_8050);
        ioapic.set_line(9, true, &mut lapic);
        assert_eq!(vector(&lapic), None);
        redirect(&mut ioapic, &mut lapic, 9, 0x8050);
        assert_eq!(vector(&lapic), Some(0x50));
    }

    #[test]
    fn eoi_register_ends_a_level_interrupt() {
        let (mut ioapic, mut lapic) = apics();
        redirect(&mut ioapic, &mut lapic, 9, 0x8050);
        ioapic.set_line(9, true, &mut lapic);
        lapic.accept(0x50);
        ioapic.set_line(9, false, &mut lapic);
        ioapic.write(0x40, 0x50, &mut lapic);
        ioapic.write(0, 0x10 + 18, &mut lapic);
        assert_eq!(ioapic.read(0x10) & REMOTE_IRR as u32, 0);
    }
}
