//! Checksums and segmentation (datasheet 7.2.4 to 7.2.6). Every offset is the
//! guest's: what does not lie in the packet ends in `None`, and the packet is dropped.
//! Sums of IP headers and unusual ones are made here, the sums of TCP and UDP and the
//! segments by whoever has the frame next: what is left to do is judged against the
//! frame ([`validate::frame::Task::judge`]).

use abi::e1000e::tx;
use validate::frame::{Network, PartialSum, Request, fold, sum};

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
    segment: u16,
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
            segment: u16::from_le_bytes([s0, s1]),
            ipv4: lower & tx::CONTEXT_IPV4 != 0,
            tcp: lower & tx::CONTEXT_TCP != 0,
        }
    }

    /// Whether the driver means the headers that are in the frame: where IP starts and
    /// where the payload does, behind a tag of `moved` bytes. Bytes of a segment then.
    pub(super) fn agrees(&self, frame: (usize, usize), moved: usize) -> Option<usize> {
        let network = self.ip_start.checked_add(moved)?;
        let payload = self.header.checked_add(moved)?;
        (frame == (network, payload)).then(|| payload.saturating_add(self.segment.into()))
    }

    /// Does what is to be done here of the sums that `options` (a descriptor's upper
    /// word) asks for. The rest is the request.
    pub(super) fn request(&self, frame: &mut [u8], options: u32) -> Option<Request> {
        if options & tx::IXSM != 0 {
            insert_sum(frame, self.ip_start, self.ip_end, self.ip_sum)?;
        }
        let mut request = Request::default();
        if options & tx::TXSM != 0 {
            match self.sum.checked_sub(self.start) {
                Some(offset) if self.end == 0 => {
                    request.sum = Some(PartialSum {
                        start: self.start as u16,
                        offset: offset as u16,
                    });
                }
                // Not over all that follows: a sum that nobody else makes.
                _ => insert_sum(frame, self.start, self.end, self.sum)?,
            }
        }
        Some(request)
    }

    /// The same for a packet that is to be cut: its lengths and its pseudo header's sum
    /// become those of the whole packet, which its driver leaves out (Linux
    /// `e1000_tso`). Only TCP is cut, and not without sums.
    pub(super) fn segments(&self, frame: &mut [u8], options: u32) -> Option<Request> {
        if !self.tcp || options & tx::TXSM == 0 || self.end != 0 {
            return None;
        }
        let network = frame.len().checked_sub(self.ip_start)?;
        let version = if self.ipv4 {
            let length = u16::try_from(network).ok()?;
            put(frame, self.ip_start.checked_add(2)?, length)?;
            Network::V4
        } else {
            let length = u16::try_from(network.checked_sub(IPV6_HEADER)?).ok()?;
            put(frame, self.ip_start.checked_add(4)?, length)?;
            Network::V6
        };
        let transport = frame.len().checked_sub(self.start)? as u64;
        let partial = u64::from(word(frame, self.sum)?).saturating_add(transport);
        put(frame, self.sum, fold(partial))?;
        let mut request = self.request(frame, options)?;
        request.segment = Some((version, self.segment));
        Some(request)
    }
}

/// Puts the checksum of `start..=end` (an `end` of 0: of all from `start` on) at
/// `place`; what stands there already is part of the sum (a pseudo header's).
pub(super) fn insert_sum(frame: &mut [u8], start: usize, end: usize, place: usize) -> Option<()> {
    let covered = match end {
        0 => frame.get(start..)?,
        end => frame.get(start..end.checked_add(1)?)?,
    };
    // A sum of 0 would say that there is none (RFC 768).
    let value = match !fold(sum(covered)) {
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

/// Bytes of an IPv6 header, which its length field does not count.
const IPV6_HEADER: usize = 40;
