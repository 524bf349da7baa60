//! ACPI hardware: PM1 events and control and the PM timer (ACPI 6.5, section 4.8.3),
//! the sleep registers of the hardware-reduced interface (4.8.3.7), and the PC's
//! reset register. All are there; the FADT says which of them to use.

use crate::{PowerEvent, layout};

/// The PM timer's rate in Hz (ACPI 6.5, 4.8.3.3).
const PM_TIMER_HZ: u64 = 3_579_545;
/// PM1 control: SCI_EN is always set, there is no legacy mode.
const SCI_ENABLE: u16 = 1;
/// PM1 control: SLP_TYP is bits 10 to 12, SLP_EN is bit 13 and reads 0.
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_TYPE_MASK: u16 = 7 << SLEEP_TYPE_SHIFT;
const SLEEP_ENABLE: u16 = 1 << 13;
/// Sleep control register: SLP_TYPx is bits 2 to 4, SLP_EN is bit 5 and reads 0.
const EXTENDED_TYPE_SHIFT: u32 = 2;
const EXTENDED_TYPE_MASK: u8 = 7 << EXTENDED_TYPE_SHIFT;
const EXTENDED_ENABLE: u8 = 1 << 5;
/// Reset register: bit 2 resets, when it goes from 0 to 1 on a PC.
const RESET_CPU: u8 = 1 << 2;

/// Power management registers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Power {
    pm1_enable: u16,
    pm1_control: u16,
    sleep_control: u8,
    reset_control: u8,
    event: Option<PowerEvent>,
}

impl Power {
    /// Reads the byte at `port`; `None` if it is not one of ours.
    pub(crate) fn read(&self, port: u16, now: u64) -> Option<u8> {
        let (register, offset): (u32, u16) = match port {
            0x600..=0x601 => (0, port.wrapping_sub(layout::PM1_EVENT_BASE)),
            0x602..=0x603 => (u32::from(self.pm1_enable), port & 1),
            0x604..=0x605 => (
                u32::from(self.pm1_control | SCI_ENABLE),
                port.wrapping_sub(layout::PM1_CONTROL_BASE),
            ),
            0x608..=0x60b => (Power::timer(now), port.wrapping_sub(layout::PM_TIMER_BASE)),
            layout::SLEEP_CONTROL => (u32::from(self.sleep_control), 0),
            // WAK_STS: this machine never woke up.
            layout::SLEEP_STATUS => (0, 0),
            layout::RESET_PORT => (u32::from(self.reset_control), 0),
            _ => return None,
        };
        Some(register.wrapping_shr(u32::from(offset).wrapping_mul(8)) as u8)
    }

    /// The PM timer: 32 bits of its rate.
    pub(crate) fn timer(now: u64) -> u32 {
        let ticks = u128::from(now).wrapping_mul(u128::from(PM_TIMER_HZ)) / 1_000_000_000;
        ticks as u32
    }

    /// Writes the byte at `port`; whether it is one of ours.
    pub(crate) fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            // Status bits are written to be cleared; none is ever set.
            0x600..=0x601 | 0x608..=0x60b | layout::SLEEP_STATUS => {}
            0x602 => self.pm1_enable = (self.pm1_enable & 0xff00) | u16::from(value),
            0x603 => self.pm1_enable = (self.pm1_enable & 0x00ff) | u16::from(value) << 8,
            0x604 => {}
            0x605 => {
                let control = u16::from(value) << 8;
                self.pm1_control = control & SLEEP_TYPE_MASK;
                let kind = (control & SLEEP_TYPE_MASK) >> SLEEP_TYPE_SHIFT;
                if control & SLEEP_ENABLE != 0 && kind == u16::from(layout::SLEEP_TYPE_S5) {
                    self.event = Some(PowerEvent::PowerOff);
                }
            }
            layout::SLEEP_CONTROL => {
                self.sleep_control = value & EXTENDED_TYPE_MASK;
                let kind = self.sleep_control >> EXTENDED_TYPE_SHIFT;
                if value & EXTENDED_ENABLE != 0 && kind == layout::SLEEP_TYPE_S5 {
                    self.event = Some(PowerEvent::PowerOff);
                }
            }
            layout::RESET_PORT => {
                self.reset_control = value & !RESET_CPU;
                if value & RESET_CPU != 0 {
                    self.event = Some(PowerEvent::Reset);
                }
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn has_event(&self) -> bool {
        self.event.is_some()
    }

    pub(crate) fn take_event(&mut self) -> Option<PowerEvent> {
        self.event.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acpi_4_8_3_3_timer_rate() {
        assert_eq!(Power::timer(1_000_000_000), 3_579_545);
        assert_eq!(Power::timer(2_000_000_000_000), (2000 * PM_TIMER_HZ) as u32);
        Power::timer(u64::MAX);
        let power = Power::default();
        let bytes: Vec<u8> = (0x608..=0x60b)
            .map(|p| power.read(p, 1_000_000_000).unwrap())
            .collect();
        assert_eq!(u32::from_le_bytes(bytes.try_into().unwrap()), 3_579_545);
    }

    #[test]
    fn acpi_4_8_3_2_1_sci_is_always_enabled() {
        let mut power = Power::default();
        assert!(power.write(0x604, 0));
        assert_eq!(power.read(0x604, 0), Some(1));
    }

    #[test]
    fn acpi_4_8_3_2_1_s5_needs_the_type_and_the_enable_bit() {
        let mut power = Power::default();
        power.write(0x605, 5 << 2);
        assert_eq!(power.take_event(), None);
        power.write(0x605, 1 << 5 | 3 << 2);
        assert_eq!(power.take_event(), None);
        power.write(0x605, 1 << 5 | 5 << 2);
        assert_eq!(power.take_event(), Some(PowerEvent::PowerOff));
        assert_eq!(power.take_event(), None);
        assert_eq!(power.read(0x605, 0), Some(5 << 2));
    }

    #[test]
    fn acpi_4_8_3_7_s5_by_the_sleep_control_register() {
        let mut power = Power::default();
        power.write(0x60d, 0x80);
        assert_eq!(power.read(0x60d, 0), Some(0));
        power.write(0x60c, 5 << 2);
        power.write(0x60c, 4 << 2 | 1 << 5);
        assert_eq!(power.take_event(), None);
        power.write(0x60c, 5 << 2 | 1 << 5);
        assert_eq!(power.take_event(), Some(PowerEvent::PowerOff));
        assert_eq!(power.read(0x60c, 0), Some(5 << 2));
    }

    #[test]
    fn reset_register() {
        let mut power = Power::default();
        power.write(0xcf9, 2);
        assert_eq!(power.take_event(), None);
        power.write(0xcf9, layout::RESET_VALUE);
        assert_eq!(power.take_event(), Some(PowerEvent::Reset));
    }
}
