//! The CMOS clock (Motorola MC146818A): tells UTC in BCD and 24-hour form. It has
//! no alarm and no interrupts, its time cannot be set; the other bytes are RAM.

/// Register A: oscillator on, 32 768 Hz, no update in progress.
const REGISTER_A: u8 = 0x26;
/// Register B: 24-hour form; BCD because bit 2 is clear.
const REGISTER_B: u8 = 0x02;
/// Register D: the battery is good.
const REGISTER_D: u8 = 0x80;
/// Byte of the century; the FADT tells of it.
pub(crate) const CENTURY: u8 = 0x32;

/// The clock and its 128 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Rtc {
    index: u8,
    epoch_seconds: u64,
    ram: [u8; 128],
}

impl Rtc {
    pub(crate) fn new(epoch_seconds: u64) -> Rtc {
        Rtc {
            index: 0,
            epoch_seconds,
            ram: [0; 128],
        }
    }

    /// Selects a byte; bit 7 (the NMI mask of a PC) means nothing here.
    pub(crate) fn select(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    /// Reads the selected byte.
    pub(crate) fn read(&self, now: u64) -> u8 {
        let seconds = self.epoch_seconds.saturating_add(now / 1_000_000_000);
        let time = Time::from_unix(seconds);
        match self.index {
            0x00 => bcd(time.second),
            0x02 => bcd(time.minute),
            0x04 => bcd(time.hour),
            0x06 => time.weekday,
            0x07 => bcd(time.day),
            0x08 => bcd(time.month),
            0x09 => bcd((time.year % 100) as u8),
            CENTURY => bcd((time.year / 100 % 100) as u8),
            0x0a => REGISTER_A,
            0x0b => REGISTER_B,
            0x0c => 0,
            0x0d => REGISTER_D,
            index => self.ram.get(usize::from(index)).copied().unwrap_or(0),
        }
    }

    /// Writes the selected byte.
    pub(crate) fn write(&mut self, value: u8) {
        if let Some(byte) = self.ram.get_mut(usize::from(self.index)) {
            *byte = value;
        }
    }
}

fn bcd(value: u8) -> u8 {
    ((value / 10 % 10) << 4) | (value % 10)
}

/// A moment of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    weekday: u8,
    day: u8,
    month: u8,
    year: u64,
}

impl Time {
    fn from_unix(seconds: u64) -> Time {
        let days = seconds / 86_400;
        let of_day = seconds % 86_400;
        let (year, month, day) = civil(days);
        Time {
            second: (of_day % 60) as u8,
            minute: (of_day / 60 % 60) as u8,
            hour: (of_day / 3600) as u8,
            // 1970-01-01 was a Thursday.
            weekday: (days.wrapping_add(4) % 7).wrapping_add(1) as u8,
            day,
            month,
            year,
        }
    }
}

/// Year, month and day of a number of days since 1970-01-01. Counted from
/// 0000-03-01, so that the leap day ends a year; 146 097 days are 400 years.
///
/// Nothing here can wrap around: days are fewer than 2^48, and each difference is of a
/// value and its own part.
fn civil(days: u64) -> (u64, u8, u8) {
    let days = days.min(u64::MAX / 86_400).wrapping_add(719_468);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let leaps = (of_era / 1_460)
        .wrapping_sub(of_era / 36_524)
        .wrapping_add(of_era / 146_096);
    let year_of_era = of_era.wrapping_sub(leaps) / 365;
    let before = year_of_era
        .wrapping_mul(365)
        .wrapping_add(year_of_era / 4)
        .wrapping_sub(year_of_era / 100);
    let of_year = of_era.wrapping_sub(before);
    let month = of_year.wrapping_mul(5).wrapping_add(2) / 153;
    let first = month.wrapping_mul(153).wrapping_add(2) / 5;
    let day = of_year.wrapping_sub(first).wrapping_add(1);
    let (month, carry) = match month {
        0..=9 => (month.wrapping_add(3), 0),
        _ => (month.wrapping_sub(9), 1),
    };
    let year = era.wrapping_mul(400).wrapping_add(year_of_era);
    (year.wrapping_add(carry), month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
        rtc.select(index);
        rtc.read(now)
    }

    #[test]
    fn tells_known_moments() {
        // date -u -d @951782399: 2000-02-28 23:59:59, a Monday.
        let mut rtc = Rtc::new(951_782_399);
        let read: Vec<u8> = [0, 2, 4, 6, 7, 8, 9, 0x32]
            .iter()
            .map(|i| byte(&mut rtc, *i, 999_999_999))
            .collect();
        assert_eq!(read, [0x59, 0x59, 0x23, 2, 0x28, 0x02, 0x00, 0x20]);
        assert_eq!(byte(&mut rtc, 7, 1_000_000_000), 0x29);
        assert_eq!(Time::from_unix(0).weekday, 5);
        assert_eq!(civil(u64::MAX / 86_400).1 / 13, 0);
        for day in 0..200_000 {
            let (year, month, date) = civil(day);
            assert!((1970..2600).contains(&year) && (1..=12).contains(&month));
            assert!((1..=31).contains(&date));
        }
        Time::from_unix(u64::MAX);
    }

    #[test]
    fn linux_sees_a_working_clock() {
        // mc146818_does_rtc_work: the update flag clears; cmos_do_probe: 24-hour form.
        let mut rtc = Rtc::new(0);
        assert_eq!(byte(&mut rtc, 0x0a, 5) & 0x80, 0);
        assert_eq!(byte(&mut rtc, 0x0b, 5) & 0x02, 2);
        assert_eq!(byte(&mut rtc, 0x0d, 5), 0x80);
    }

    #[test]
    fn other_bytes_are_ram() {
        let mut rtc = Rtc::new(0);
        rtc.select(0xff);
        rtc.write(7);
        assert_eq!(byte(&mut rtc, 0x7f, 0), 7);
    }
}
