//! Frames of the guest: descriptors are worked off one by one and their buffers
//! gathered in private memory (datasheet 7.2).

use super::offload::{Context, insert_sum};
use super::ring::{Ring, number};
use super::{E1000e, ETHERNET_LEN, TAG_LEN};
use abi::e1000e::{TCTL_EN, cause, ctrl, reg, tx};
use alloc::vec;
use alloc::vec::Vec;
use memory::{GuestMemory, OutOfRange};
use validate::frame::{MAX_SEGMENTED, Task, TaskKind};

/// Descriptors that one call works off at most; a packet of Linux has 18 fragments.
const BUDGET: u32 = 256;
/// Where a VLAN tag is put: behind both addresses.
const TAG_AT: usize = 12;

/// A packet on its way from descriptors to a frame.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    /// A beginning whose end the driver still owes. Else a packet is gathered where
    /// its frame is wanted.
    kept: Vec<u8>,
    /// Bytes so far.
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
}

/// What a descriptor was.
struct Done {
    /// A packet is complete.
    complete: bool,
    /// The driver wants to know.
    report: bool,
    /// It need not know at once.
    may_wait: bool,
}

impl Sender {
    pub(super) fn new() -> Sender {
        Sender {
            kept: vec![0; MAX_SEGMENTED],
            len: 0,
            bad: false,
            cut: false,
            options: 0,
            legacy: None,
            tag: None,
            context: Context::default(),
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
    }

    /// Keeps a beginning until there is more.
    fn keep(&mut self, buf: &[u8]) {
        let kept = self.kept.iter_mut().zip(buf).take(self.len);
        for (to, from) in kept {
            *to = *from;
        }
        self.bad |= self.len > self.kept.len();
    }

    /// Goes on with what was kept.
    fn resume(&mut self, buf: &mut [u8]) {
        let kept = buf.iter_mut().zip(&self.kept).take(self.len);
        for (to, from) in kept {
            *to = *from;
        }
        self.bad |= self.len > buf.len();
    }

    /// Works off the descriptor at the head of `ring`; `buf` has what came before.
    fn step(
        &mut self,
        ring: &mut Ring,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Result<Done, OutOfRange> {
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
            self.gather(&descriptor, [lower, upper], guest, buf)?;
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
            may_wait: lower & tx::IDE != 0,
        })
    }

    fn gather(
        &mut self,
        descriptor: &[u8],
        [lower, upper]: [u32; 2],
        guest: &impl GuestMemory,
        buf: &mut [u8],
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
        match buf.get_mut(self.len..end) {
            Some(part) => {
                guest.read(address, part)?;
                self.len = end;
            }
            None => self.bad = true,
        }
        Ok(())
    }

    /// The frame of a complete packet in `buf`, and what is left to do for it; `None`
    /// if it cannot be sent.
    fn finish(
        &self,
        buf: &mut [u8],
        tagging: Option<u16>,
        longest: usize,
    ) -> Option<(usize, Task)> {
        if self.bad {
            return None;
        }
        let frame = buf.get_mut(..self.len)?;
        let mut request = if self.cut {
            self.context.segments(frame, self.options)?
        } else {
            self.context.request(frame, self.options)?
        };
        if let Some((start, place)) = self.legacy {
            insert_sum(frame, start, 0, place)?;
        }
        let mut len = self.len;
        let mut moved = 0;
        if let (Some(tag), Some(kind)) = (self.tag, tagging) {
            len = insert_tag(buf, len, kind, tag)?;
            moved = TAG_LEN;
            if let Some(sum) = &mut request.sum {
                sum.start = sum.start.checked_add(TAG_LEN as u16)?;
            }
        }
        let task = Task::judge(&request, buf.get(..len)?).ok()?;
        // What a frame of it has on the wire.
        let mut wire = len;
        if self.cut {
            let (TaskKind::Segments(headers, _) | TaskKind::Checksum(headers)) = task.kind() else {
                return None;
            };
            let places = (headers.network_at(), headers.payload_at());
            wire = wire.min(self.context.agrees(places, moved)?);
        }
        (ETHERNET_LEN..=longest)
            .contains(&wire)
            .then_some((len, task))
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

/// What the driver is told of.
struct Told {
    causes: u32,
    /// All that it wants to hear of may be told later.
    may_wait: bool,
}

impl E1000e {
    /// See [`crate::Machine::take_frame`].
    pub(crate) fn take_frame(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
    ) -> Option<(usize, Task)> {
        let mut told = Told {
            causes: 0,
            may_wait: true,
        };
        let sent = self.work_off(guest, buf, &mut told);
        self.interrupts.sent(told.causes, told.may_wait);
        sent
    }

    fn sending(&self) -> bool {
        self.running() && self.plain.get(reg::TCTL) & TCTL_EN != 0
    }

    fn work_off(
        &mut self,
        guest: &impl GuestMemory,
        buf: &mut [u8],
        told: &mut Told,
    ) -> Option<(usize, Task)> {
        if !self.sending() {
            return None;
        }
        self.sender.resume(buf);
        for _ in 0..BUDGET {
            if self.tx.available(tx::LEN) == 0 {
                self.sender.keep(buf);
                return None;
            }
            let Ok(done) = self.sender.step(&mut self.tx, guest, buf) else {
                self.set_broken();
                return None;
            };
            if done.report {
                told.causes |= cause::TXDW;
                told.may_wait &= done.may_wait;
            }
            if self.tx.available(tx::LEN) == 0 {
                told.causes |= cause::TXQE;
            }
            if done.complete
                && let Some(sent) = self.emit(buf)
            {
                return Some(sent);
            }
        }
        // There is more: ring for the guest, so that the owner comes again.
        self.sender.keep(buf);
        self.tx_kicked = true;
        None
    }

    /// The frame of the packet that is complete.
    fn emit(&mut self, buf: &mut [u8]) -> Option<(usize, Task)> {
        let tagging = self.plain.get(reg::CTRL) & ctrl::VME != 0;
        let kind = tagging.then_some(self.plain.get(reg::VET) as u16);
        let sent = self.sender.finish(buf, kind, self.max_frame);
        if self.sender.cut {
            self.statistics.segmented(sent.is_some());
        }
        self.sender.begin();
        let Some((len, task)) = sent else {
            self.tx_dropped = self.tx_dropped.saturating_add(1);
            return None;
        };
        self.tx_frames = self.tx_frames.saturating_add(1);
        let frame = buf.get(..len).unwrap_or_default();
        match task.kind() {
            TaskKind::Segments(headers, size) => {
                self.statistics
                    .sent_segments(frame, headers.payload_at(), size.into());
            }
            _ => self.statistics.sent(frame),
        }
        Some((len, task))
    }
}
