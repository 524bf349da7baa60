//! The input as a source of decisions. It never runs dry: behind its end are zeros.

/// Bytes that are taken from the front.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of `data`.
    pub fn new(data: &'a [u8]) -> Input<'a> {
        Input { rest: data }
    }
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    /// Up to `count` bytes.
    pub fn slice(&mut self, count: usize) -> &'a [u8] {
        let (now, later) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = later;
        now
    }
    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.slice(usize::MAX)
    }
    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let bytes = self.slice(N);
        out[..bytes.len()].copy_from_slice(bytes);
        out
    }
    /// One byte.
    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }
    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }
    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
    /// A bit.
    pub fn flag(&mut self) -> bool {
        self.u8() & 1 != 0
    }
    /// A number below `count` (at most 65536, not 0).
    pub fn below(&mut self, count: usize) -> usize {
        let raw = if count > 256 {
            usize::from(self.u16())
        } else {
            usize::from(self.u8())
        };
        raw % count.max(1)
    }
    /// A short run of bytes with its length in front.
    pub fn run(&mut self) -> &'a [u8] {
        let count = usize::from(self.u8());
        self.slice(count)
    }
    /// A word of one to five bytes: often one at which things go wrong.
    pub fn word(&mut self) -> u32 {
        match self.u8() {
            0..=7 => self.u32(),
            8 => u32::MAX,
            9 => 0x8000_0000,
            10 => 0x7fff_ffff,
            11 => self.u16().into(),
            12 => !u32::from(self.u8()),
            bits @ 32..=63 => 1 << (bits & 31),
            small => u32::from(small >> 6)
                .wrapping_mul(8)
                .wrapping_add(u32::from(small & 63)),
        }
    }
}
