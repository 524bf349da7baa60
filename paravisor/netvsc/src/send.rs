//! What leaves: RNDIS messages in sections, NVSP messages in the ring.

use crate::nic::Nic;
use crate::requests::Request;
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
        let parts = [message.as_bytes(), &[]];
        if self.send_rndis(channel, channel_type::CONTROL, parts, 0, now)? {
            self.keepalive = None;
        }
        Ok(())
    }

    /// Copies an RNDIS message into a section and queues it. `Ok(false)`: no
    /// section, no entry in the table or no room in the ring now.
    pub(crate) fn send_rndis<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        channel_type: u32,
        parts: [&[u8]; 2],
        reserve: usize,
        now: u64,
    ) -> Result<bool, Violation> {
        let Some(section) = self.send.take(reserve) else {
            return Ok(false);
        };
        let Ok(length) = self.send.write(section, parts) else {
            // Longer than a section: our own mistake, not to be repeated.
            self.send.give_back(section);
            return Err(Violation::new(Rule::NVS_20, 0, u64::from(section)));
        };
        let message = nvsp::SendRndisPacket {
            message_type: nvsp::message::SEND_RNDIS_PACKET.into(),
            channel_type: channel_type.into(),
            section_index: u32::from(section).into(),
            section_size: length.into(),
        };
        let request = Request {
            awaited: Awaited::Rndis,
            section: Some(section),
            sent: now,
        };
        let sent = self.send_request(channel, message.as_bytes(), request);
        if !matches!(sent, Ok(true)) {
            self.send.give_back(section);
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
    match channel.queue(Outbound::InBand(reply), transaction_id, &[message, filling]) {
        Ok(()) => Ok(true),
        Err(SendError::Full) => Ok(false),
        Err(SendError::Corrupt(violation)) => Err(violation),
        // A ring that cannot hold 64 bytes was never made.
        Err(SendError::TooLong) => Err(Violation::new(Rule::RNG_27, 0, message.len() as u64)),
    }
}
