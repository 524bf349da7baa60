//! A channel's pair of rings.
//!
//! Our indices live here, in private memory; their shared copies are only
//! written (RNG-01). What the host writes, its write index of the incoming ring
//! and its read index of the outgoing ring, is loaded once per decision and
//! judged by `validate::ring` (RNG-07). A packet is copied once, then judged
//! (RNG-20). The first violation of a ring kills the channel (RNG-23).

mod incoming;
mod outgoing;
mod pages;
mod storm;
#[cfg(test)]
mod tests;

use crate::counters::{Counters, News, Traffic};
use crate::limits::SPURIOUS_EVENTS;
use abi::vmbus::{
    PAGE_SIZE, PacketType, RING_FEATURE_BITS, RING_FEATURE_PENDING_SEND_SIZE, RING_HEADER_SIZE,
};
use alloc::vec::Vec;
use incoming::Incoming;
use memory::SharedMemory;
use outgoing::Outgoing;
use pages::Pages;
pub use storm::Attention;
use storm::{Verdict, Watch};
use validate::packet::{Packet, Policy};
use validate::ring::DataSize;
use validate::{Layer, Reaction, Rule, Violation};

/// Whether the host has to be signalled (one SignalEvent hypercall).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Signal {
    /// The host waits for it.
    Needed,
    /// The host is awake or did not ask.
    NotNeeded,
}

impl Signal {
    /// `Needed` if either is.
    pub fn or(self, other: Signal) -> Signal {
        if self == Signal::Needed { self } else { other }
    }
    /// Whether to signal.
    pub fn is_needed(self) -> bool {
        self == Signal::Needed
    }
}

/// What is sent. GPA-direct packets are not among it, they are made by
/// [`Channel::queue_pages`] from shared memory only: no address of private memory
/// ever leaves (SYS-09).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// A packet with its payload in the ring.
    InBand(Reply),
    /// The answer to a packet of the host.
    Completion,
}

/// Whether the host shall answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A completion is asked for. The transaction id is not 0 then: Hyper-V
    /// does not answer id 0.
    Requested,
    /// None is.
    None,
}

/// What stands in a packet's descriptor.
#[derive(Clone, Copy)]
struct Kind {
    packet_type: PacketType,
    wants_reply: bool,
}

impl Outbound {
    const fn kind(self) -> Kind {
        match self {
            Outbound::InBand(reply) => Kind {
                packet_type: PacketType::IN_BAND,
                wants_reply: matches!(reply, Reply::Requested),
            },
            Outbound::Completion => Kind {
                packet_type: PacketType::COMPLETION,
                wants_reply: false,
            },
        }
    }
}

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No room now. The host has been asked to signal when there is; try again
    /// then, or after a while (RNG-17).
    Full,
    /// The packet will never fit into this ring.
    TooLong,
    /// The channel is dead; this is what killed it.
    Corrupt(Violation),
}

/// Why no packet was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveError {
    /// One packet was discarded; go on with the next. `transaction_id` is what
    /// it carried, for an answer if `completion_requested`.
    Dropped {
        /// Why.
        violation: Violation,
        /// The host's id.
        transaction_id: u64,
        /// Whether the host waits for a completion.
        completion_requested: bool,
    },
    /// The channel is dead; this is what killed it.
    Corrupt(Violation),
}

/// The memory cannot hold two rings as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeometryError;

/// Result of [`Channel::end_receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// There are packets left, or new ones came: poll again, no interrupt will come.
    pub more: bool,
    /// The host waits for the room that was made.
    pub signal: Signal,
}

/// Two rings in one region of shared memory: guest to host first, host to guest
/// from page `downstream_page` on. Each has one control page and whole pages of
/// data.
#[derive(Debug)]
pub struct Channel<M> {
    memory: M,
    downstream_page: u32,
    policy: Policy,
    outgoing: Outgoing,
    incoming: Incoming,
    dead: Option<Violation>,
    counters: Counters,
    traffic: Traffic,
    watch: Watch,
}

impl<M: SharedMemory> Channel<M> {
    /// Lays the rings out in `memory`, which is zeroed first. `policy` is what
    /// the receiver is ready for. From the moment in which the GPADL is created
    /// nothing in `memory` is trusted (GPD-13, RNG-19).
    pub fn new(memory: M, downstream_page: u32, policy: Policy) -> Result<Self, GeometryError> {
        let split = usize::try_from(downstream_page)
            .ok()
            .and_then(|page| page.checked_mul(PAGE_SIZE))
            .ok_or(GeometryError)?;
        let upstream = data_size(split)?;
        let downstream = data_size(memory.len().checked_sub(split).ok_or(GeometryError)?)?;
        memory.zero(0, memory.len()).map_err(|_| GeometryError)?;
        for start in [0, split] {
            let at = start.checked_add(RING_FEATURE_BITS).ok_or(GeometryError)?;
            memory
                .store_u32(at, RING_FEATURE_PENDING_SEND_SIZE)
                .map_err(|_| GeometryError)?;
        }
        Ok(Channel {
            memory,
            downstream_page,
            policy,
            outgoing: Outgoing::new(0, upstream),
            incoming: Incoming::new(split, downstream),
            dead: None,
            counters: Counters::new(),
            traffic: Traffic::default(),
            watch: Watch::new(),
        })
    }

    /// The memory of both rings.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Gives the memory back, to be returned to its pool after the GPADL is
    /// torn down, or leaked.
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// Page at which the host-to-guest ring starts, for OPENCHANNEL.
    pub fn downstream_page(&self) -> u32 {
        self.downstream_page
    }

    /// What killed the channel.
    pub fn dead(&self) -> Option<Violation> {
        self.dead
    }

    /// Packets judged and rules violated on this channel.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes the rules that did not hold since the last call.
    pub fn take_news(&mut self) -> Vec<News> {
        self.counters.take_news()
    }

    /// Packets, bytes and events of this channel since it was made.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// How often the rules of the protocol called for a signal.
    pub fn signals_needed(&self) -> u64 {
        self.traffic.signals_needed
    }

    /// The host has set the channel's event flag: whether to poll the rings for
    /// it, or by the clock because such events bring nothing (SYN-18, RNG-30).
    /// The channel may be polled for other reasons at any time. An error: it is
    /// dead, by its indices or because the storm has lasted.
    pub fn on_event(&mut self, now: u64) -> Result<Attention, Violation> {
        self.alive()?;
        self.traffic.events = self.traffic.events.saturating_add(1);
        let Channel {
            incoming,
            outgoing,
            memory,
            watch,
            ..
        } = self;
        let verdict = watch.event(now, || {
            incoming.refresh(memory)?;
            outgoing.refresh(memory)?;
            Ok((incoming.arrived(), outgoing.consumed()))
        });
        match verdict {
            Ok(Verdict::Attend(attention)) => Ok(attention),
            Ok(Verdict::Throttled(attention)) => {
                for rule in [Rule::RNG_30, Rule::SYN_18] {
                    self.counters
                        .violation(Violation::new(rule, 0, SPURIOUS_EVENTS));
                }
                self.traffic.storms = self.traffic.storms.saturating_add(1);
                Ok(attention)
            }
            Ok(Verdict::Reset(violation)) | Err(violation) => Err(self.kill(violation)),
        }
    }

    /// Longest payload that [`Channel::send`] can ever take.
    pub fn max_payload(&self) -> usize {
        self.outgoing.max_payload()
    }

    /// Sends one packet: the concatenation of `parts`, padded to 8 bytes.
    pub fn send(
        &mut self,
        kind: Outbound,
        transaction_id: u64,
        parts: &[&[u8]],
    ) -> Result<Signal, SendError> {
        self.queue(kind, transaction_id, parts)?;
        self.flush().map_err(SendError::Corrupt)
    }

    /// Writes one packet without telling the host; [`Channel::flush`] does, once
    /// for all packets of a batch. After [`SendError::Full`] flush too: unseen
    /// packets are never read, and so no room would be made.
    pub fn queue(
        &mut self,
        kind: Outbound,
        transaction_id: u64,
        parts: &[&[u8]],
    ) -> Result<(), SendError> {
        if let Some(violation) = self.dead {
            return Err(SendError::Corrupt(violation));
        }
        self.put(kind.kind(), transaction_id, &[], parts)
    }

    /// Whether a packet with so many bytes of payload fits now, as [`Channel::queue`]
    /// finds out; what fits will fit as long as nothing else is queued.
    pub fn reserve(&mut self, payload: usize) -> Result<(), SendError> {
        if let Some(violation) = self.dead {
            return Err(SendError::Corrupt(violation));
        }
        let result = self.outgoing.reserve_payload(&self.memory, payload);
        self.not_killed(result)
    }

    /// As [`Channel::queue`], for a packet whose data are the `len` bytes at
    /// `offset` of a shared region: the host finds them by the page numbers of that
    /// region, so that none of private memory can be among them (SYS-09). A
    /// completion is asked for.
    pub fn queue_pages(
        &mut self,
        region: &impl SharedMemory,
        offset: usize,
        len: usize,
        transaction_id: u64,
        parts: &[&[u8]],
    ) -> Result<(), SendError> {
        if let Some(violation) = self.dead {
            return Err(SendError::Corrupt(violation));
        }
        let pages = Pages::of(region, offset, len).ok_or(SendError::TooLong)?;
        let kind = Kind {
            packet_type: PacketType::GPA_DIRECT,
            wants_reply: true,
        };
        self.put(kind, transaction_id, pages.bytes(), parts)
    }

    fn put(
        &mut self,
        kind: Kind,
        transaction_id: u64,
        head: &[u8],
        parts: &[&[u8]],
    ) -> Result<(), SendError> {
        let result = self
            .outgoing
            .queue(&self.memory, kind, transaction_id, head, parts);
        match result {
            Ok(bytes) => {
                self.traffic.packets_out = self.traffic.packets_out.saturating_add(1);
                self.traffic.bytes_out = self.traffic.bytes_out.saturating_add(bytes.into());
                Ok(())
            }
            Err(error) => self.not_killed(Err(error)),
        }
    }

    /// A corrupt ring ends the channel.
    fn not_killed(&mut self, result: Result<(), SendError>) -> Result<(), SendError> {
        if let Err(SendError::Corrupt(violation)) = result {
            self.kill(violation);
        }
        result
    }

    /// Makes all queued packets visible to the host.
    pub fn flush(&mut self) -> Result<Signal, Violation> {
        self.alive()?;
        let result = self.outgoing.flush(&self.memory);
        self.signalled(result)
    }

    /// Bytes of the outgoing ring that the host has not read, for a watchdog:
    /// if they stay, signal again (RNG-13).
    pub fn unread_by_host(&mut self) -> Result<u32, Violation> {
        self.alive()?;
        let result = self.outgoing.refresh(&self.memory);
        result.map_err(|violation| self.kill(violation))
    }

    /// Starts a batch: asks the host not to signal.
    pub fn begin_receive(&mut self) -> Result<(), Violation> {
        self.alive()?;
        let result = self.incoming.mask(&self.memory, true);
        result.map_err(|violation| self.kill(violation))
    }

    /// Takes the next packet into `buffer`, whose size is the longest packet
    /// that this channel accepts (RNG-22). `Ok(None)`: the ring is empty.
    pub fn receive<'b>(
        &mut self,
        buffer: &'b mut [u8],
    ) -> Result<Option<Packet<'b>>, ReceiveError> {
        if let Some(violation) = self.dead {
            return Err(ReceiveError::Corrupt(violation));
        }
        let span = match self.incoming.take(&self.memory, buffer) {
            Ok(None) => return Ok(None),
            Ok(Some(span)) => span,
            Err(violation) => return Err(ReceiveError::Corrupt(self.kill(violation))),
        };
        let length = span.length() as usize;
        let bytes: &'b [u8] = buffer;
        let bytes = bytes.get(..length).unwrap_or(&[]);
        self.counters.judged(Layer::Packet);
        self.traffic.packets_in = self.traffic.packets_in.saturating_add(1);
        self.traffic.bytes_in = self.traffic.bytes_in.saturating_add(length as u64);
        match validate::packet::judge_measured(bytes, span, &self.policy) {
            Ok(packet) => Ok(Some(packet)),
            Err(violation) if violation.rule.reaction() == Reaction::Drop => {
                self.counters.violation(violation);
                let (transaction_id, completion_requested) =
                    validate::packet::refused(bytes).unwrap_or((0, false));
                Err(ReceiveError::Dropped {
                    violation,
                    transaction_id,
                    completion_requested,
                })
            }
            Err(violation) => Err(ReceiveError::Corrupt(self.kill(violation))),
        }
    }

    /// Ends a batch: gives the room of all packets taken so far back to the
    /// host, lets it signal again, and looks once more for packets that came
    /// before it could know.
    pub fn end_receive(&mut self) -> Result<Drained, Violation> {
        self.alive()?;
        match self.incoming.finish(&self.memory) {
            Ok(finished) => {
                if let Some(violation) = finished.noted {
                    self.counters.violation(violation);
                }
                let signal = self.signalled(Ok(finished.value.signal))?;
                Ok(Drained {
                    more: finished.value.more,
                    signal,
                })
            }
            Err(violation) => Err(self.kill(violation)),
        }
    }

    /// Whether packets wait, for a poll by the clock when no interrupt came
    /// (RNG-12).
    pub fn has_packets(&mut self) -> Result<bool, Violation> {
        self.alive()?;
        let result = self.incoming.refresh(&self.memory);
        result
            .map(|bytes| bytes != 0)
            .map_err(|violation| self.kill(violation))
    }

    /// Declares the channel dead for a reason that a layer above has found.
    pub fn condemn(&mut self, violation: Violation) {
        if self.dead.is_none() {
            self.dead = Some(violation);
        }
    }

    fn alive(&self) -> Result<(), Violation> {
        self.dead.map_or(Ok(()), Err)
    }

    fn kill(&mut self, violation: Violation) -> Violation {
        self.counters.violation(violation);
        self.condemn(violation);
        violation
    }

    fn signalled(&mut self, result: Result<Signal, Violation>) -> Result<Signal, Violation> {
        match result {
            Ok(signal) => {
                self.traffic.signals_needed = self
                    .traffic
                    .signals_needed
                    .saturating_add(u64::from(signal.is_needed()));
                Ok(signal)
            }
            Err(violation) => Err(self.kill(violation)),
        }
    }
}

/// Data size of a ring that has `bytes` bytes with its control page.
fn data_size(bytes: usize) -> Result<DataSize, GeometryError> {
    let data = bytes.checked_sub(RING_HEADER_SIZE).ok_or(GeometryError)?;
    if !data.is_multiple_of(PAGE_SIZE) {
        return Err(GeometryError);
    }
    DataSize::pages(data / PAGE_SIZE).ok_or(GeometryError)
}
