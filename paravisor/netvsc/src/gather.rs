//! Frames that leave together. What waits in the guest's queue at the same time goes to
//! the host as several RNDIS messages in one section and one NVSP packet, within what
//! the host's INITIALIZE_COMPLETE allows (Linux `netvsc_send`, `netvsc_copy_to_send_buf`).
//! Nothing is held back for it: a packet that was begun is queued when the next message
//! does not fit, before anything else is queued, and at the end of every batch
//! ([`Nic::flush`]).

use crate::counters::add;
use crate::limits;
use crate::nic::Nic;
use crate::offload::ZEROS;
use crate::requests::Request;
use crate::transmit::{Parts, Sections};
use abi::nvsp::{self, channel_type};
use memory::{OutOfRange, SharedMemory};
use validate::nvsp::Awaited;
use validate::rndis::Initialized;
use validate::{Rule, Violation};
use vmbus::{Channel, SendError};
use zerocopy::IntoBytes;

/// A packet that was begun: its messages lie in a section, and the host does not know.
pub(crate) struct Begun {
    section: Sections,
    /// Bytes of all messages so far.
    length: usize,
    /// Where the last of them starts.
    last: usize,
    messages: u16,
    since: u64,
}

impl Begun {
    /// Where a message of `length` bytes goes behind those that are there: the padding in
    /// front of it, which is a part of the message before it, and its start. `None`: it
    /// does not fit.
    fn place(&self, length: usize, room: usize, allowed: &Initialized) -> Option<(usize, usize)> {
        // A power of two, by its type.
        let below = (allowed.alignment() as usize).checked_sub(1)?;
        let start = self.length.checked_add(below)? & !below;
        let end = start.checked_add(length)?;
        let most = room.min(allowed.max_transfer() as usize);
        let fits = u32::from(self.messages) < allowed.max_packets() && end <= most;
        fits.then(|| (start.saturating_sub(self.length), start))
    }
}

impl<M: SharedMemory> Nic<M> {
    /// Copies a message about a frame into the packet that was begun, or begins one.
    /// `Ok(false)`: no room now.
    pub(crate) fn gather<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        parts: &Parts<'_>,
        now: u64,
    ) -> Result<bool, Violation> {
        let length = parts.len();
        // Outside of the buffer: our own mistake, not to be repeated.
        let outside = |OutOfRange| Violation::new(Rule::NVS_20, 0, length as u64);
        if self.append(parts).map_err(outside)? {
            return Ok(true);
        }
        if !self.close(channel)? {
            return Ok(false);
        }
        if length > self.send.section_size() {
            let reserve = limits::CONTROL_SECTIONS;
            return self.send_rndis(channel, channel_type::DATA, parts.all(), reserve, now);
        }
        // What is begun can be ended: there is an entry in the table and room in the ring,
        // which only we fill.
        if !self.requests.has_room() {
            return Ok(false);
        }
        match channel.reserve(nvsp::MESSAGE_SIZE_V61) {
            Ok(()) => {}
            Err(SendError::Corrupt(violation)) => return Err(violation),
            Err(SendError::Full | SendError::TooLong) => return Ok(false),
        }
        let Some(section) = self.send.take(length, limits::CONTROL_SECTIONS) else {
            return Ok(false);
        };
        self.send.put(section, 0, &[], parts).map_err(outside)?;
        self.begun = Some(Begun {
            section,
            length,
            last: 0,
            messages: 1,
            since: now,
        });
        Ok(true)
    }

    /// What messages about frames are aligned to, where others may follow them. Linux, too,
    /// has such a message padded before it knows whether one does.
    pub(crate) fn alignment(&self) -> usize {
        let several = self.allowed.filter(|allowed| allowed.max_packets() > 1);
        several.map_or(1, |allowed| allowed.alignment() as usize)
    }

    /// Puts a message behind those of the packet that was begun, if that may be.
    fn append(&mut self, parts: &Parts<'_>) -> Result<bool, OutOfRange> {
        let length = parts.len();
        let (Some(begun), Some(allowed)) = (&mut self.begun, &self.allowed) else {
            return Ok(false);
        };
        let Some((padding, start)) = begun.place(length, self.send.section_size(), allowed) else {
            return Ok(false);
        };
        if padding != 0 {
            // The message in front now ends where this one starts.
            const LENGTH_AT: usize = size_of::<u32>();
            let whole = u32::try_from(start.saturating_sub(begun.last)).map_err(|_| OutOfRange)?;
            let at = begun.last.saturating_add(LENGTH_AT);
            let bytes = whole.to_le_bytes();
            self.send.put(begun.section, at, &bytes, &Parts::NONE)?;
        }
        let zeros = ZEROS.get(..padding).ok_or(OutOfRange)?;
        self.send.put(begun.section, begun.length, zeros, parts)?;
        begun.last = start;
        begun.length = start.saturating_add(length);
        begun.messages = begun.messages.saturating_add(1);
        Ok(true)
    }

    /// Queues the packet that was begun, if there is one. `Ok(false)`: not now.
    pub(crate) fn close<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
    ) -> Result<bool, Violation> {
        let Some(begun) = self.begun.take() else {
            return Ok(true);
        };
        let section = begun.section;
        let Ok(length) = self.send.seal(section, begun.length) else {
            return Err(Violation::new(Rule::NVS_20, 0, u64::from(section.first())));
        };
        let message = nvsp::SendRndisPacket {
            message_type: nvsp::message::SEND_RNDIS_PACKET.into(),
            channel_type: channel_type::DATA.into(),
            section_index: u32::from(section.first()).into(),
            section_size: length.into(),
        };
        let request = Request {
            awaited: Awaited::Rndis,
            sections: Some(section),
            messages: begun.messages,
            sent: begun.since,
        };
        let sent = self.send_request(channel, message.as_bytes(), request)?;
        if sent {
            add(&mut self.counters.tx_packets, 1);
        } else {
            // Its frames are not lost: they leave when there is room.
            self.begun = Some(begun);
        }
        Ok(sent)
    }
}
