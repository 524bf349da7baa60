//! What leaves: RNDIS messages in sections, NVSP messages in the ring.

use crate::nic::Nic;
use crate::requests::Request;
use crate::transmit::{Parts, Sections};
use abi::nvsp::{self, channel_type};
use memory::SharedMemory;
use validate::nvsp::Awaited;
use validate::{Rule, Violation};
use vmbus::{Channel, Outbound, Reply, SendError};
use zerocopy::IntoBytes;

impl<M: SharedMemory> Nic<M> {
    /// Sends the answer to a keepalive, if one waits and there is a section.
    pub(crate) fn send_keepalive<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        let Some(request_id) = self.keepalive else {
            return Ok(());
        };
        let message = abi::rndis::StatusComplete {
            header: abi::rndis::Header {
                message_type: abi::rndis::message::KEEPALIVE_COMPLETE.into(),
                length: (size_of::<abi::rndis::StatusComplete>() as u32).into(),
            },
            request_id: request_id.into(),
            status: abi::rndis::status::SUCCESS.into(),
        };
        if self.send_rndis(
            channel,
            channel_type::CONTROL,
            &[message.as_bytes()],
            0,
            now,
        )? {
            self.keepalive = None;
        }
        Ok(())
    }

    /// Copies an RNDIS message into sections and queues it. `Ok(false)`: no
    /// sections, no entry in the table or no room in the ring now.
    pub(crate) fn send_rndis<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        channel_type: u32,
        parts: &[&[u8]],
        reserve: u16,
        now: u64,
    ) -> Result<bool, Violation> {
        let parts = Parts::new(parts);
        let Some(sections) = self.send.take(parts.len(), reserve) else {
            return Ok(false);
        };
        let Ok(length) = self.send.write(sections, &parts) else {
            // Outside of the buffer: our own mistake, not to be repeated.
            self.send.give_back(sections);
            return Err(Violation::new(Rule::NVS_20, 0, u64::from(sections.first())));
        };
        let request = Request {
            awaited: Awaited::Rndis,
            sections: Some(sections),
            messages: 1,
            sent: now,
        };
        let (section_index, section_size) = match sections.is_one() {
            true => (u32::from(sections.first()), length),
            // The host finds it by its pages.
            false => (nvsp::NO_SECTION, 0),
        };
        let message = nvsp::SendRndisPacket {
            message_type: nvsp::message::SEND_RNDIS_PACKET.into(),
            channel_type: channel_type.into(),
            section_index: section_index.into(),
            section_size: section_size.into(),
        };
        let sent = if sections.is_one() {
            self.send_request(channel, message.as_bytes(), request)
        } else {
            self.send_pages(channel, message.as_bytes(), request, sections, length)
        };
        if !matches!(sent, Ok(true)) {
            self.send.give_back(sections);
        }
        sent
    }

    /// Queues an NVSP message whose RNDIS message lies in several sections.
    fn send_pages<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        message: &[u8],
        request: Request,
        sections: Sections,
        length: u32,
    ) -> Result<bool, Violation> {
        let Some(id) = self.requests.issue(request) else {
            return Ok(false);
        };
        let zeros = [0; nvsp::MESSAGE_SIZE_V61];
        let filling = zeros.get(message.len()..).unwrap_or(&[]);
        let at = self.send.offset(sections);
        let memory = self.send.memory();
        let queued = channel.queue_pages(memory, at, length as usize, id, &[message, filling]);
        let sent = taken(queued, message.len());
        if !matches!(sent, Ok(true)) {
            self.requests.cancel(id);
        }
        sent
    }

    /// Queues an NVSP message that the host completes. `Ok(false)`: not now.
    pub(crate) fn send_request<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        message: &[u8],
        request: Request,
    ) -> Result<bool, Violation> {
        let Some(id) = self.requests.issue(request) else {
            return Ok(false);
        };
        let sent = send_message(channel, message, id, Reply::Requested);
        if !matches!(sent, Ok(true)) {
            self.requests.cancel(id);
        }
        sent
    }
}

/// Queues an NVSP message, filled up with zeros to the size that 6.1 has.
/// `Ok(false)`: the ring is full.
pub(crate) fn send_message<R: SharedMemory>(
    channel: &mut Channel<R>,
    message: &[u8],
    transaction_id: u64,
    reply: Reply,
) -> Result<bool, Violation> {
    let zeros = [0; nvsp::MESSAGE_SIZE_V61];
    let filling = zeros.get(message.len()..).unwrap_or(&[]);
    let queued = channel.queue(Outbound::InBand(reply), transaction_id, &[message, filling]);
    taken(queued, message.len())
}

/// Whether the ring took a packet.
fn taken(queued: Result<(), SendError>, length: usize) -> Result<bool, Violation> {
    match queued {
        Ok(()) => Ok(true),
        Err(SendError::Full) => Ok(false),
        Err(SendError::Corrupt(violation)) => Err(violation),
        // A ring that cannot hold this was never made.
        Err(SendError::TooLong) => Err(Violation::new(Rule::RNG_27, 0, length as u64)),
    }
}
