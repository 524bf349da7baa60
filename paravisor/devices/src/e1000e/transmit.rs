//! Frames of the guest: descriptors are worked off one by one, their buffers gathered
//! in private memory, and frames cut from there (datasheet 7.2).

use super::offload::{Context, Cut, insert_sum};
use super::ring::{Ring, number};
use super::{E1000e, ETHERNET_LEN, TAG_LEN};
use abi::e1000e::{TCTL_EN, cause, ctrl, reg, tx};
use alloc::vec;
use alloc::vec::Vec;
use memory::{GuestMemory, OutOfRange};

/// Longest packet: what IP can say (65535), with headers before it.
const PACKET: usize = 0x1_0000 + 256;
/// Descriptors that one call works off at most; a packet of Linux has 18 fragments.
const BUDGET: u32 = 256;
/// Where a VLAN tag is put: behind both addresses.
const TAG_AT: usize = 12;

/// A packet on its way from descriptors to frames.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    packet: Vec<u8>,
    len: usize,
    /// It cannot be sent; the rest of its descriptors is worked off all the same.
    bad: bool,
    /// Segment it.
    cut: bool,
    /// Upper word of its first data descriptor.
    options: u32,
    /// Legacy checksum: start and place.
    legacy: Option<(usize, usize)>,
    tag: Option<u16>,
    context: Context,
    cutting: Option<Cut>,
}

/// What a descriptor was.
struct Done {
    /// A packet is complete.
    complete: bool,
    /// The driver wants to know.
    report: bool,
}

impl Sender {
    pub(super) fn new() -> Sender {
        Sender {
            packet: vec![0; PACKET],
            len: 0,
            bad: false,
            cut: false,
            options: 0,
            legacy: None,
            tag: None,
            context: Context::default(),
            cutting: None,
        }
    }

    /// Everything of the driver is forgotten.
    pub(super) fn reset(&mut self) {
        self.context = Context::default();
        self.begin();
    }

    fn begin(&mut self) {
        self.len = 0;
        self.bad = false;
        self.cut = false;
        self.options = 0;
        self.legacy = None;
        self.tag = None;
        self.cutting = None;
    }

    /// Works off the descriptor at the head of `ring`.
    fn step(&mut self, ring: &mut Ring, guest: &impl GuestMemory) -> Result<Done, OutOfRange> {
        let descriptor = ring.fetch::<{ tx::LEN }>(guest)?;
        let lower = number(&descriptor, 8, 4) as u32;
        let upper = number(&descriptor, 12, 4) as u32;
        let extended = lower & tx::DEXT != 0;
        let kind = lower >> tx::KIND_SHIFT & 0xf;
        let complete = if extended && kind == tx::KIND_CONTEXT {
            self.context = Context::decode(descriptor);
            false
        } else {
            if extended && kind != tx::KIND_DATA {
                self.bad = true;
            }
            self.gather(&descriptor, lower, upper, guest)?;
            lower & tx::EOP != 0
        };
        if lower & tx::RS != 0 {
            let status = upper as u8 | tx::DD;
            guest.write(ring.address(tx::LEN, tx::STATUS)?, &[status])?;
        }
        ring.advance(tx::LEN);
        Ok(Done {
            complete,
            report: lower & tx::RS != 0,
        })
    }

    fn gather(
        &mut self,
        descriptor: &[u8],
        lower: u32,
        upper: u32,
        guest: &impl GuestMemory,
    ) -> Result<(), OutOfRange> {
        let address = number(descriptor, 0, 8);
        let extended = lower & tx::DEXT != 0;
        let length = lower
            & if extended {
                tx::LENGTH
            } else {
                tx::LEGACY_LENGTH
            };
        if extended {
            if self.len == 0 {
                self.options = upper;
                self.cut = lower & tx::TSE != 0;
            }
        } else if lower & (tx::IC | tx::EOP) == tx::IC | tx::EOP {
            let place = (lower >> 16) as u8;
            let start = (upper >> 8) as u8;
            self.legacy = Some((usize::from(start), usize::from(place)));
        }
        if lower & tx::VLE != 0 {
            self.tag = Some((upper >> 16) as u16);
        }
        let end = self.len.saturating_add(length as usize);
        if self.bad || length == 0 {
            return Ok(());
        }
        match self.packet.get_mut(self.len..end) {
            Some(part) => {
                guest.read(address, part)?;
                self.len = end;
            }
            None => self.bad = true,
        }
        Ok(())
    }

    /// The next frame of a complete packet in `out`: its length, or `None` if the
    /// packet cannot be sent. `true`: there is no further one.
    fn frame(&mut self, out: &mut [u8], tagging: Option<u16>) -> Option<(usize, bool)> {
        if self.bad {
            return None;
        }
        let (len, last) = if self.cut {
            let cutting = match self.cutting.take() {
                Some(cutting) => cutting,
                None => Cut::new(self.context, self.options, self.len)?,
            };
            self.cutting.insert(cutting).next(&self.packet, out)?
        } else {
            let frame = out.get_mut(..self.len)?;
            frame.copy_from_slice(self.packet.get(..self.len)?);
            self.context.insert(frame, self.options)?;
            if let Some((start, place)) = self.legacy {
                insert_sum(frame, start, 0, place)?;
            }
            (self.len, true)
        };
        if len < ETHERNET_LEN {
            return None;
        }
        let len = match (self.tag, tagging) {
            (Some(tag), Some(kind)) => insert_tag(out, len, kind, tag)?,
            _ => len,
        };
        Some((len, last))
    }
}

fn insert_tag(out: &mut [u8], len: usize, kind: u16, tag: u16) -> Option<usize> {
    let longer = len.checked_add(TAG_LEN)?;
    let (_, tail) = out.get_mut(..longer)?.split_at_mut_checked(TAG_AT)?;
    // From the end, four bytes further: what is overwritten was moved before.
    for at in (TAG_LEN..tail.len()).rev() {
        let byte = *tail.get(at.wrapping_sub(TAG_LEN))?;
        *tail.get_mut(at)? = byte;
    }
    let [a, b] = kind.to_be_bytes();
    let [c, d] = tag.to_be_bytes();
    *tail.first_chunk_mut()? = [a, b, c, d];
    Some(longer)
}

impl E1000e {
    /// See [`crate::Machine::take_tx`].
    pub(crate) fn take_tx(&mut self, guest: &impl GuestMemory, buf: &mut [u8]) -> Option<usize> {
        let mut causes = 0;
        let sent = self.work_off(guest, buf, &mut causes);
        if causes != 0 {
            self.interrupts.raise(causes);
        }
        sent
    }

    fn sending(&self) -> bool {
        self.running() && self.plain.get(reg::TCTL) & TCTL_EN != 0
    }

    fn work_off(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
        causes: &mut u32,
    ) -> Option<usize> {
        if !self.sending() {
            return None;
        }
        if self.sender.cutting.is_some()
            && let Some(len) = self.emit(buf)
        {
            return Some(len);
        }
        for _ in 0..BUDGET {
            if self.tx.available(tx::LEN) == 0 {
                return None;
            }
            let Ok(done) = self.sender.step(&mut self.tx, guest) else {
                self.set_broken();
                return None;
            };
            if done.report {
                *causes |= cause::TXDW;
            }
            if self.tx.available(tx::LEN) == 0 {
                *causes |= cause::TXQE;
            }
            if done.complete {
                if self.sender.cut {
                    self.statistics.segmented();
                }
                if let Some(len) = self.emit(buf) {
                    return Some(len);
                }
            }
        }
        // There is more: ring for the guest, so that the owner comes again.
        self.tx_kicked = true;
        None
    }

    /// A frame of the packet that is complete.
    fn emit(&mut self, buf: &mut [u8]) -> Option<usize> {
        let tagging = self.plain.get(reg::CTRL) & ctrl::VME != 0;
        let kind = tagging.then_some(self.plain.get(reg::VET) as u16);
        let room = buf.len().min(self.max_frame);
        let out = buf.get_mut(..room)?;
        let Some((len, last)) = self.sender.frame(out, kind) else {
            self.tx_dropped = self.tx_dropped.saturating_add(1);
            self.sender.begin();
            return None;
        };
        if last {
            self.sender.begin();
        }
        self.tx_frames = self.tx_frames.saturating_add(1);
        self.statistics.sent(out.get(..len).unwrap_or_default());
        Some(len)
    }
}
