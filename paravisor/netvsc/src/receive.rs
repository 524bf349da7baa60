//! The receive buffer: the packet at hand and its ranges.
//!
//! One transfer-page packet is worked on at a time; the next is read when the
//! host has our completion of this one. So a receive that the guest has no room
//! for stays where it is, in its slots, and nothing is outstanding beside it
//! (NVS-30, PKT-19). Of a frame only what is judged is copied here; the rest goes
//! from its slot to the guest in one copy ([`memory::Parcel`]).

use crate::joint::Joint;
use alloc::vec::Vec;
use memory::{OutOfRange, Parcel, Piece, SharedMemory};
use validate::frame::{Arrived, MAX_HEADERS};
use validate::nvsp::{Carrier, Range, ReceiveGeometry, ReceivePhase, Slots};
use validate::packet::Ranges;
use validate::rndis::Part;
use validate::rndis::packet::{Packet, goes_on, judged_part};
use validate::{Judged, Rule, Violation};

/// Bytes of both addresses of a frame, and of a tag behind them.
const ADDRESSES: usize = 12;
const TAG: usize = 4;

/// The packet at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub transaction_id: u64,
    pub carrier: Carrier,
    /// All ranges so far were accepted (NVS-29).
    pub accepted: bool,
    /// The range that is next.
    next: usize,
    /// The next range holds this frame, for which the guest had no room.
    waiting: Option<Frame>,
}

/// A frame that was judged. Its bytes start at `start` of the private copy and go
/// on in the receive buffer behind what was copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    start: usize,
    len: usize,
    copied: usize,
    /// It is the one that was joined, and the rest says nothing.
    fragments: u32,
    pub arrived: Arrived,
}

impl Frame {
    /// Fragments that it was joined of; 0: it came whole.
    pub fn fragments(&self) -> usize {
        self.fragments as usize
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.len
    }
}

pub(crate) struct ReceiveBuffer<M> {
    memory: M,
    phase: ReceivePhase,
    geometry: Option<ReceiveGeometry>,
    /// Private copy of one range, or of as much of it as is judged.
    copy: Vec<u8>,
    /// Bytes of it.
    copied: usize,
    /// The part of a frame that is not copied.
    rest: [Piece; 1],
    /// Ranges of the packet at hand.
    ranges: Vec<Range>,
    joint: Joint,
    slots: Slots,
    pub job: Option<Job>,
}

/// A fragment of a coalesced packet, in the range at hand.
pub(crate) struct Piecemeal {
    part: Part,
    start: usize,
    vlan: Option<u16>,
    arrived: Arrived,
}

impl Piecemeal {
    /// `None`: a frame that is whole. `arrived`: what the host says about the part.
    pub fn of(packet: &Packet<'_>, arrived: Arrived) -> Option<Piecemeal> {
        Some(Piecemeal {
            part: packet.part()?,
            start: packet.start(),
            vlan: packet.vlan(),
            arrived,
        })
    }
}

/// What the packet at hand has next.
pub(crate) enum Next<'a> {
    /// No range any more.
    Nothing,
    /// A range that nobody has judged: its first bytes, and how many it has.
    Range { bytes: &'a [u8], size: usize },
    /// A frame that waits for room at the guest's side.
    Frame(Frame),
}

impl<M: SharedMemory> ReceiveBuffer<M> {
    pub fn new(memory: M) -> Self {
        ReceiveBuffer {
            memory,
            phase: ReceivePhase::NotReady,
            geometry: None,
            copy: Vec::new(),
            copied: 0,
            rest: [Piece::new(0, 0)],
            ranges: Vec::new(),
            joint: Joint::new(),
            slots: Slots::new(),
            job: None,
        }
    }

    /// Another view of the same buffer, for a channel of its own. What is taken of
    /// slots is known to each alone: a host that names one on two channels at a
    /// time gets it read twice, into two copies.
    pub fn view<V: SharedMemory>(&self, memory: V, coalescing: bool) -> ReceiveBuffer<V> {
        let mut view = ReceiveBuffer::new(memory);
        if let Some(geometry) = self.geometry {
            view.open(geometry, coalescing);
        }
        view
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Bytes of a slot, 0 before the host has made them.
    pub fn slot_size(&self) -> usize {
        self.geometry
            .map_or(0, |geometry| geometry.slot_size() as usize)
    }

    pub fn into_memory(self) -> M {
        self.memory
    }

    pub fn phase(&self) -> ReceivePhase {
        self.phase
    }

    /// Takes the slots that the host made, once. The private copy has the size
    /// of a slot, which `validate` has bounded (SYS-02).
    pub fn open(&mut self, geometry: ReceiveGeometry, coalescing: bool) {
        const RANGES: usize = crate::limits::MAX_RANGES as usize;
        if coalescing {
            self.joint.reserve(RANGES);
        }
        self.copy.resize(geometry.slot_size() as usize, 0);
        self.ranges.reserve_exact(RANGES);
        self.geometry = Some(geometry);
        self.phase = ReceivePhase::Open;
    }

    /// No range is read any more.
    pub fn revoke(&mut self) {
        self.phase = ReceivePhase::Revoked;
        self.job = None;
    }

    /// Judges the ranges of a packet and makes it the packet at hand. A range
    /// that breaks a rule is left out and reported to `refuse`; two ranges that
    /// overlap end the packet.
    ///
    /// With `enforce` unset the rules that no host was measured for (NVS-25,
    /// NVS-26) are reported only.
    pub fn begin(
        &mut self,
        transaction_id: u64,
        carrier: Carrier,
        ranges: Ranges<'_>,
        enforce: bool,
        mut refuse: impl FnMut(Violation),
    ) {
        self.ranges.clear();
        let Some(geometry) = self.geometry else {
            return;
        };
        let mut accepted = true;
        for (index, range) in (0..ranges.len()).zip(ranges.iter()) {
            let judged = geometry
                .range(index, range.byte_count, range.byte_offset)
                .and_then(|range| match geometry.in_one_slot(range) {
                    Err(violation) if enforce => Err(violation),
                    other => Ok(Judged {
                        value: range,
                        noted: other.err(),
                    }),
                });
            let range = match judged {
                Ok(judged) => {
                    judged.noted.into_iter().for_each(&mut refuse);
                    judged.value
                }
                Err(violation) => {
                    refuse(violation);
                    accepted = false;
                    continue;
                }
            };
            if let Err(violation) = self.slots.take(range) {
                refuse(violation);
                if enforce {
                    self.ranges.iter().for_each(|r| self.slots.release(*r));
                    self.ranges.clear();
                    accepted = false;
                    break;
                }
            }
            self.ranges.push(range);
        }
        self.job = Some(Job {
            transaction_id,
            carrier,
            accepted,
            next: 0,
            waiting: None,
        });
    }

    /// Copies the next range of the packet at hand: whole, or of a frame as much as
    /// is judged, if the taker can do with that. Each byte is read once.
    /// Of a message that only goes on with a coalesced packet, if such may come
    /// (`fragments`), nothing of the data is.
    pub fn next_range(&mut self, whole: bool, fragments: bool) -> Result<Next<'_>, OutOfRange> {
        let Some(job) = self.job.as_ref() else {
            return Ok(Next::Nothing);
        };
        if let Some(frame) = job.waiting {
            return Ok(Next::Frame(frame));
        }
        let Some(range) = self.ranges.get(job.next).copied() else {
            return Ok(Next::Nothing);
        };
        let copy = self.copy.get_mut(..range.len()).ok_or(OutOfRange)?;
        let mut have = 0;
        let mut want = range.len();
        if !whole && job.carrier == Carrier::Data {
            const HEADER: usize = size_of::<abi::rndis::Packet>();
            if let Some(head) = copy.first_chunk_mut::<HEADER>() {
                self.memory.copy_in(range.offset(), head)?;
                have = HEADER;
                let (mut front, mut part) = judged_part(head).unwrap_or((want, want));
                front = front.min(want);
                part = part.min(want);
                if fragments && front < want {
                    let behind = range.offset().checked_add(have).ok_or(OutOfRange)?;
                    let information = copy.get_mut(have..front).ok_or(OutOfRange)?;
                    self.memory.copy_in(behind, information)?;
                    have = front;
                    if goes_on(copy.get(..front).unwrap_or_default()) {
                        part = front;
                    }
                }
                want = part;
            }
        }
        let behind = range.offset().checked_add(have).ok_or(OutOfRange)?;
        self.memory
            .copy_in(behind, copy.get_mut(have..want).ok_or(OutOfRange)?)?;
        self.copied = want;
        Ok(Next::Range {
            bytes: copy.get(..want).ok_or(OutOfRange)?,
            size: range.len(),
        })
    }

    /// The range at hand holds a frame: it is kept until it is dealt with. Its tag,
    /// which travelled beside it, goes where guests look for it.
    pub fn hold(&mut self, start: usize, len: usize, vlan: Option<u16>, arrived: Arrived) -> Frame {
        let mut frame = Frame {
            start,
            len,
            copied: self.copied,
            fragments: 0,
            arrived,
        };
        if let Some(tag) = vlan {
            // In front of a frame lies its message's header: there is room for 4 bytes.
            let early = start.saturating_sub(TAG);
            let mut addresses = [0; ADDRESSES];
            for (to, from) in addresses.iter_mut().zip(self.copy.iter().skip(start)) {
                *to = *from;
            }
            let [high, low] = tag.to_be_bytes();
            let tagged = addresses.into_iter().chain([0x81, 0x00, high, low]);
            for (to, from) in self.copy.iter_mut().skip(early).zip(tagged) {
                *to = from;
            }
            frame.start = early;
            frame.len = len.saturating_add(TAG);
        }
        if let Some(job) = self.job.as_mut() {
            job.waiting = Some(frame);
        }
        frame
    }

    /// The range at hand holds a fragment of a coalesced packet; with the last one that
    /// is a frame, which is kept until it is dealt with.
    pub fn gather(&mut self, fragment: &Piecemeal) -> Result<Option<Frame>, Violation> {
        let Some(job) = self.job.as_mut() else {
            return Ok(None);
        };
        let Some(range) = self.ranges.get(job.next).copied() else {
            return Ok(None);
        };
        if !job.accepted {
            self.joint.gathered.interrupted();
            return Err(Violation::new(Rule::RND_33, 0, job.next as u64));
        }
        let more = job.next.saturating_add(1) < self.ranges.len();
        let last = self.joint.gathered.add(&fragment.part, more)?;
        let outside = |OutOfRange| Violation::new(Rule::NVS_23, 0, 0u32);
        let (start, end) = (
            fragment.start,
            fragment.start.saturating_add(fragment.part.len()),
        );
        // What a first fragment has of headers becomes private, too.
        let private = match fragment.part.is_first() {
            true => start.saturating_add(MAX_HEADERS).min(end).max(self.copied),
            false => start,
        };
        if self.copied > private {
            self.joint.gathered.interrupted();
            return Err(Violation::new(Rule::RND_34, 8, start as u64));
        }
        let behind = |at: usize| range.offset().saturating_add(at);
        if fragment.part.is_first() {
            let room = self.copy.get_mut(self.copied..private).unwrap_or_default();
            let read = self.memory.copy_in(behind(self.copied), room);
            read.map_err(outside)?;
            self.copied = private;
            let bytes = self.copy.get(start..private.min(end)).unwrap_or_default();
            self.joint.begin(bytes, fragment.vlan, fragment.arrived);
        }
        let behind = Piece::new(behind(private), end.saturating_sub(private));
        self.joint.push(behind);
        if !last {
            return Ok(None);
        }
        let fragments = core::mem::take(&mut self.joint.gathered).count();
        let frame = Frame {
            start: 0,
            len: self.joint.len(),
            copied: 0,
            fragments,
            arrived: self.joint.finish()?,
        };
        job.waiting = Some(frame);
        Ok(Some(frame))
    }

    /// A frame that is whole comes in between, or something was refused: what was
    /// collected of a coalesced packet is thrown away, if anything was.
    pub fn interrupted(&mut self) -> Option<Violation> {
        let violation = self.joint.gathered.interrupted()?;
        if let Some(job) = self.job.as_mut() {
            job.accepted = false;
        }
        Some(violation)
    }

    /// The bytes of a frame that [`hold`](Self::hold) or [`gather`](Self::gather) keeps.
    pub fn parcel(&mut self, frame: &Frame) -> Parcel<'_> {
        if frame.fragments != 0 {
            let (head, pieces) = self.joint.parts();
            return Parcel::new(head, pieces, &self.memory);
        }
        let end = frame.start.saturating_add(frame.len);
        let private = frame.copied.min(end);
        let offset = self
            .job
            .as_ref()
            .and_then(|job| self.ranges.get(job.next))
            .map_or(0, |range| range.offset());
        let behind = offset.saturating_add(private);
        self.rest = [Piece::new(behind, end.saturating_sub(private))];
        let head = self.copy.get(frame.start..private).unwrap_or_default();
        match end == private {
            true => Parcel::private(head),
            false => Parcel::new(head, &self.rest, &self.memory),
        }
    }

    /// The range at hand is dealt with.
    pub fn advance(&mut self, accepted: bool) {
        if let Some(job) = self.job.as_mut() {
            job.accepted &= accepted;
            job.next = job.next.saturating_add(1);
            job.waiting = None;
        }
    }

    /// Ends the packet at hand; its slots may come again.
    pub fn finish(&mut self) -> Option<Job> {
        self.ranges
            .iter()
            .for_each(|range| self.slots.release(*range));
        self.ranges.clear();
        self.joint.gathered.interrupted();
        self.job.take()
    }
}
