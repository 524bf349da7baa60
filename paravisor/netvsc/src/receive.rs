//! The receive buffer: the packet at hand and its ranges.
//!
//! One transfer-page packet is worked on at a time; the next is read when the
//! host has our completion of this one. So a receive that the guest has no room
//! for stays where it is, in its slots, and nothing is outstanding beside it
//! (NVS-30, PKT-19).

use alloc::vec::Vec;
use memory::{OutOfRange, SharedMemory};
use validate::nvsp::{Carrier, Range, ReceiveGeometry, ReceivePhase, Slots};
use validate::packet::Ranges;
use validate::{Judged, Violation};

/// The packet at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub transaction_id: u64,
    pub carrier: Carrier,
    /// All ranges so far were accepted (NVS-29).
    pub accepted: bool,
    /// The range that is next.
    next: usize,
    /// The next range has been copied already, and judged.
    copied: bool,
}

pub(crate) struct ReceiveBuffer<M> {
    memory: M,
    phase: ReceivePhase,
    geometry: Option<ReceiveGeometry>,
    /// Private copy of one range.
    copy: Vec<u8>,
    /// Ranges of the packet at hand.
    ranges: Vec<Range>,
    slots: Slots,
    pub job: Option<Job>,
}

/// A range in private memory.
pub(crate) struct Copied<'a> {
    pub bytes: &'a [u8],
    /// It was judged before: the guest had no room then.
    pub again: bool,
}

impl<M: SharedMemory> ReceiveBuffer<M> {
    pub fn new(memory: M) -> Self {
        ReceiveBuffer {
            memory,
            phase: ReceivePhase::NotReady,
            geometry: None,
            copy: Vec::new(),
            ranges: Vec::new(),
            slots: Slots::new(),
            job: None,
        }
    }

    /// Another view of the same buffer, for a channel of its own. What is taken of
    /// slots is known to each alone: a host that names one on two channels at a
    /// time gets it read twice, into two copies.
    pub fn view<V: SharedMemory>(&self, memory: V) -> ReceiveBuffer<V> {
        let mut view = ReceiveBuffer::new(memory);
        if let Some(geometry) = self.geometry {
            view.open(geometry);
        }
        view
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }

    pub fn into_memory(self) -> M {
        self.memory
    }

    pub fn phase(&self) -> ReceivePhase {
        self.phase
    }

    /// Takes the slots that the host made, once. The private copy has the size
    /// of a slot, which `validate` has bounded (SYS-02).
    pub fn open(&mut self, geometry: ReceiveGeometry) {
        self.copy.resize(geometry.slot_size() as usize, 0);
        self.ranges
            .reserve_exact(crate::limits::MAX_RANGES as usize);
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
            if let Err(violation) = self.slots.take(&geometry, range) {
                refuse(violation);
                if enforce {
                    self.ranges
                        .iter()
                        .for_each(|r| self.slots.release(&geometry, *r));
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
            copied: false,
        });
    }

    /// Copies the next range of the packet at hand, if it was not copied yet.
    /// `Ok(None)`: there is none left.
    pub fn next_range(&mut self) -> Result<Option<Copied<'_>>, OutOfRange> {
        let Some(job) = self.job.as_mut() else {
            return Ok(None);
        };
        let Some(range) = self.ranges.get(job.next).copied() else {
            return Ok(None);
        };
        let copy = self.copy.get_mut(..range.len()).ok_or(OutOfRange)?;
        let again = job.copied;
        if !again {
            self.memory.copy_in(range.offset(), copy)?;
            job.copied = true;
        }
        Ok(Some(Copied { bytes: copy, again }))
    }

    /// The range at hand is dealt with.
    pub fn advance(&mut self, accepted: bool) {
        if let Some(job) = self.job.as_mut() {
            job.accepted &= accepted;
            job.next = job.next.saturating_add(1);
            job.copied = false;
        }
    }

    /// Ends the packet at hand; its slots may come again.
    pub fn finish(&mut self) -> Option<Job> {
        if let Some(geometry) = self.geometry {
            self.ranges
                .iter()
                .for_each(|range| self.slots.release(&geometry, *range));
        }
        self.ranges.clear();
        self.job.take()
    }
}
