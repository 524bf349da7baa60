//! Counters that a driver reads, and clears by reading (datasheet 10.2.7; offsets
//! from Linux `regs.h`).

/// First register.
pub(super) const FIRST: u32 = 0x4000;
/// First byte behind the last one.
pub(super) const END: u32 = 0x4128;

/// Offsets of what is counted.
const RX_BY_SIZE: u32 = 0x405c;
const GPRC: u32 = 0x4074;
const BPRC: u32 = 0x4078;
const MPRC: u32 = 0x407c;
const GPTC: u32 = 0x4080;
const GORCL: u32 = 0x4088;
const GOTCL: u32 = 0x4090;
const RNBC: u32 = 0x40a0;
const ROC: u32 = 0x40ac;
const TORL: u32 = 0x40c0;
const TOTL: u32 = 0x40c8;
const TPR: u32 = 0x40d0;
const TPT: u32 = 0x40d4;
const TX_BY_SIZE: u32 = 0x40d8;
const MPTC: u32 = 0x40f0;
const BPTC: u32 = 0x40f4;
const TSCTC: u32 = 0x40f8;
const TSCTFC: u32 = 0x40fc;

/// Where frames that were sent are counted.
const SENT: [u32; 7] = [GPTC, TPT, GOTCL, TOTL, BPTC, MPTC, TX_BY_SIZE];

/// Bytes of the FCS, which octet counters include (datasheet 10.2.7.32).
const FCS: usize = 4;

/// The counters.
#[derive(Clone, Debug)]
pub(super) struct Statistics {
    words: [u32; 74],
}

const _: () = assert!((END - FIRST) / 4 == 74);

impl Statistics {
    pub(super) fn new() -> Statistics {
        Statistics { words: [0; 74] }
    }

    fn word(&mut self, offset: u32) -> Option<&mut u32> {
        let index = offset.checked_sub(FIRST)? >> 2;
        self.words.get_mut(usize::try_from(index).ok()?)
    }

    /// Reads a register, which clears it. Of a pair the high half clears both.
    pub(super) fn read(&mut self, offset: u32) -> u32 {
        match offset {
            GORCL | GOTCL | TORL | TOTL => self.word(offset).map_or(0, |word| *word),
            0x408c | 0x4094 | 0x40c4 | 0x40cc => {
                if let Some(low) = self.word(offset.wrapping_sub(4)) {
                    *low = 0;
                }
                self.word(offset).map_or(0, core::mem::take)
            }
            _ => self.word(offset).map_or(0, core::mem::take),
        }
    }

    fn count(&mut self, offset: u32) {
        self.add(offset, 1);
    }

    /// Counters stay at their maximum (datasheet 10.2.7).
    fn add(&mut self, offset: u32, count: u32) {
        if let Some(word) = self.word(offset) {
            *word = word.saturating_add(count);
        }
    }

    fn add_octets(&mut self, low: u32, octets: usize) {
        let high = low.wrapping_add(4);
        let have = u64::from(self.word(low).map_or(0, |word| *word))
            | u64::from(self.word(high).map_or(0, |word| *word)) << 32;
        let sum = have.saturating_add(octets as u64);
        for (offset, value) in [(low, sum as u32), (high, (sum >> 32) as u32)] {
            if let Some(word) = self.word(offset) {
                *word = value;
            }
        }
    }

    /// `count` frames of `len` bytes to where the first bytes of `head` say.
    fn frames(&mut self, head: &[u8], len: usize, count: u32, registers: &[u32; 7]) {
        let [
            good,
            total,
            good_octets,
            octets,
            broadcast,
            multicast,
            sizes,
        ] = *registers;
        let len = len.saturating_add(FCS);
        for counter in [good, total] {
            self.add(counter, count);
        }
        for pair in [good_octets, octets] {
            self.add_octets(pair, len.saturating_mul(count as usize));
        }
        match head.get(..6) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => self.add(broadcast, count),
            Some([first, ..]) if first & 1 != 0 => self.add(multicast, count),
            _ => {}
        }
        let class = match len {
            0..=64 => 0u32,
            65..=127 => 1,
            128..=255 => 2,
            256..=511 => 3,
            512..=1023 => 4,
            _ => 5,
        };
        self.add(sizes.wrapping_add(class.wrapping_mul(4)), count);
    }

    /// A frame was given to the driver.
    pub(super) fn received(&mut self, head: &[u8], len: usize) {
        let registers = [GPRC, TPR, GORCL, TORL, BPRC, MPRC, RX_BY_SIZE];
        self.frames(head, len, 1, &registers);
    }

    /// A frame of the driver was sent.
    pub(super) fn sent(&mut self, frame: &[u8]) {
        self.frames(frame, frame.len(), 1, &SENT);
    }

    /// The same, cut into segments of `size` bytes, each behind `header` bytes.
    pub(super) fn sent_segments(&mut self, frame: &[u8], header: usize, size: usize) {
        let payload = frame.len().saturating_sub(header);
        let whole = payload.checked_div(size).unwrap_or(0);
        let rest = payload.checked_rem(size).unwrap_or(0);
        self.frames(frame, header.saturating_add(size), whole as u32, &SENT);
        if rest != 0 {
            self.frames(frame, header.saturating_add(rest), 1, &SENT);
        }
    }

    /// A packet was to be segmented; whether it could be.
    pub(super) fn segmented(&mut self, done: bool) {
        self.count(if done { TSCTC } else { TSCTFC });
    }

    /// A frame found no buffer.
    pub(super) fn no_buffer(&mut self) {
        self.count(RNBC);
    }

    /// A frame was too long.
    pub(super) fn oversized(&mut self) {
        self.count(ROC);
    }
}
