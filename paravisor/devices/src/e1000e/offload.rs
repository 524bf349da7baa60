//! Checksums and segmentation (datasheet 7.2.4 to 7.2.6). Every offset is the
//! guest's: what does not lie in the packet ends in `None`, and the packet is dropped.

use abi::e1000e::tx;

/// An offload context: where headers are and how to cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    ip_start: usize,
    ip_sum: usize,
    ip_end: usize,
    start: usize,
    sum: usize,
    end: usize,
    header: usize,
    segment: usize,
    ipv4: bool,
    tcp: bool,
}

impl Context {
    /// Reads a context descriptor: two configurations of 4 bytes (start, place of the
    /// sum, end in two), the lower word, and header length and segment size.
    pub(super) fn decode(descriptor: [u8; tx::LEN]) -> Context {
        let [
            ip_start,
            ip_sum,
            e0,
            e1,
            start,
            sum,
            e2,
            e3,
            l0,
            l1,
            l2,
            l3,
            _,
            header,
            s0,
            s1,
        ] = descriptor;
        let lower = u32::from_le_bytes([l0, l1, l2, l3]);
        Context {
            ip_start: usize::from(ip_start),
            ip_sum: usize::from(ip_sum),
            ip_end: usize::from(u16::from_le_bytes([e0, e1])),
            start: usize::from(start),
            sum: usize::from(sum),
            end: usize::from(u16::from_le_bytes([e2, e3])),
            header: usize::from(header),
            segment: usize::from(u16::from_le_bytes([s0, s1])),
            ipv4: lower & tx::CONTEXT_IPV4 != 0,
            tcp: lower & tx::CONTEXT_TCP != 0,
        }
    }

    /// Inserts the sums that `options` (a descriptor's upper word) asks for.
    pub(super) fn insert(&self, frame: &mut [u8], options: u32) -> Option<()> {
        if options & tx::IXSM != 0 {
            insert_sum(frame, self.ip_start, self.ip_end, self.ip_sum)?;
        }
        if options & tx::TXSM != 0 {
            insert_sum(frame, self.start, self.end, self.sum)?;
        }
        Some(())
    }
}

/// The 16-bit ones' complement sum (RFC 1071), not inverted.
fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    let mut pairs = bytes.chunks_exact(2);
    for pair in pairs.by_ref() {
        if let [high, low] = pair {
            total = total.saturating_add(u64::from(u16::from_be_bytes([*high, *low])));
        }
    }
    if let [last] = pairs.remainder() {
        total = total.saturating_add(u64::from(u16::from_be_bytes([*last, 0])));
    }
    fold(total)
}

fn fold(mut total: u64) -> u16 {
    // A 64-bit number is folded into 16 bits by four turns at most.
    for _ in 0..4 {
        total = (total & 0xffff).saturating_add(total >> 16);
    }
    total as u16
}

/// Puts the checksum of `start..=end` (an `end` of 0: of all from `start` on) at
/// `place`; what stands there already is part of the sum (a pseudo header's).
pub(super) fn insert_sum(frame: &mut [u8], start: usize, end: usize, place: usize) -> Option<()> {
    let covered = match end {
        0 => frame.get(start..)?,
        end => frame.get(start..end.checked_add(1)?)?,
    };
    // A sum of 0 would say that there is none (RFC 768).
    let value = match !sum(covered) {
        0 => u16::MAX,
        value => value,
    };
    put(frame, place, value)
}

fn put(frame: &mut [u8], at: usize, value: u16) -> Option<()> {
    let field = frame.get_mut(at..at.checked_add(2)?)?;
    field.copy_from_slice(&value.to_be_bytes());
    Some(())
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    match frame.get(at..at.checked_add(2)?)? {
        [high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// A packet that is being cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    context: Context,
    options: u32,
    /// Bytes of the packet, and of its payload that were sent.
    len: usize,
    done: usize,
    index: u16,
}

/// Bytes of an IPv6 header, which its length field does not count.
const IPV6_HEADER: usize = 40;
/// TCP flags that only the last segment has: FIN and PSH.
const LAST_FLAGS: u8 = 0x09;
/// TCP flag that only the first segment has: CWR (datasheet 7.2.4.7 leaves it; RFC
/// 3168, 6.1.2 wants it once).
const FIRST_FLAGS: u8 = 0x80;

impl Cut {
    /// Starts cutting a packet of `len` bytes; `None` if the context makes no sense.
    pub(super) fn new(context: Context, options: u32, len: usize) -> Option<Cut> {
        let transport = if context.tcp { 20 } else { 8 };
        let network = if context.ipv4 { 20 } else { IPV6_HEADER };
        let fits = context.segment != 0
            && context.ip_start.checked_add(network)? <= context.start
            && context.start.checked_add(transport)? <= context.header
            && context.header < len;
        fits.then_some(Cut {
            context,
            options,
            len,
            done: 0,
            index: 0,
        })
    }

    /// Builds the next frame in `out`; its length, or `None` if it does not fit.
    /// With `true`: it was the last one.
    pub(super) fn next(&mut self, packet: &[u8], out: &mut [u8]) -> Option<(usize, bool)> {
        let Context {
            header,
            segment,
            ip_start,
            start,
            ..
        } = self.context;
        let from = header.checked_add(self.done)?;
        let count = self.len.checked_sub(from)?.min(segment);
        let len = header.checked_add(count)?;
        let last = from.checked_add(count)? >= self.len;
        let frame = out.get_mut(..len)?;
        let (head, body) = frame.split_at_mut_checked(header)?;
        head.copy_from_slice(packet.get(..header)?);
        body.copy_from_slice(packet.get(from..from.checked_add(count)?)?);

        let network = len.checked_sub(ip_start)?;
        if self.context.ipv4 {
            put(frame, ip_start.checked_add(2)?, network as u16)?;
            let id = ip_start.checked_add(4)?;
            let next = word(frame, id)?.wrapping_add(self.index);
            put(frame, id, next)?;
        } else {
            let payload = network.checked_sub(IPV6_HEADER)?;
            put(frame, ip_start.checked_add(4)?, payload as u16)?;
        }
        let transport = len.checked_sub(start)?;
        if self.context.tcp {
            self.fix_tcp(frame, start, last)?;
        } else {
            put(frame, start.checked_add(4)?, transport as u16)?;
        }
        if self.options & tx::TXSM != 0 {
            // The driver's pseudo header has no length (Linux `e1000_tso`).
            let partial = word(frame, self.context.sum)?;
            let with_length = fold(u64::from(partial).saturating_add(transport as u64));
            put(frame, self.context.sum, with_length)?;
        }
        // The sum of TCP or UDP covers each frame to its end.
        let to_the_end = Context {
            end: 0,
            ..self.context
        };
        to_the_end.insert(frame, self.options)?;
        self.done = self.done.checked_add(count)?;
        self.index = self.index.wrapping_add(1);
        Some((len, last))
    }

    fn fix_tcp(&self, frame: &mut [u8], start: usize, last: bool) -> Option<()> {
        let at = start.checked_add(4)?;
        let field = frame.get_mut(at..at.checked_add(4)?)?;
        let sequence = u32::from_be_bytes(<[u8; 4]>::try_from(&*field).ok()?);
        field.copy_from_slice(&sequence.wrapping_add(self.done as u32).to_be_bytes());
        let flags = frame.get_mut(start.checked_add(13)?)?;
        if !last {
            *flags &= !LAST_FLAGS;
        }
        if self.index != 0 {
            *flags &= !FIRST_FLAGS;
        }
        Some(())
    }
}
