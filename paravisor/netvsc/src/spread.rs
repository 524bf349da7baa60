//! Receive scaling: which frames the host puts on which channel. A host that
//! refuses is none the worse: all frames come on the primary then.

use crate::handshake::Phase;
use crate::limits;
use crate::nic::Nic;
use abi::nvsp::channel_type;
use abi::rndis::{self, RssParameters, hash, object, oid};
use alloc::vec::Vec;
use memory::SharedMemory;
use validate::rndis::Request;
use validate::{Rule, Violation};
use vmbus::Channel;
use zerocopy::IntoBytes;

/// Bytes of the hash's key.
const KEY: usize = 40;
/// Connections over TCP by addresses and ports, everything else by addresses.
const HASHES: u32 = hash::TOEPLITZ | hash::IPV4 | hash::TCP_IPV4 | hash::IPV6 | hash::TCP_IPV6;

/// The request to spread frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Spread {
    /// Nothing is asked for.
    #[default]
    Idle,
    /// Over these channels, one bit each, as soon as it can be said.
    Wanted(u64),
    /// Said at this time.
    Sent(u64),
}

impl<M: SharedMemory> Nic<M> {
    /// Has the host spread frames for the guest over these channels, by index (bit
    /// 0 is the primary), in turn. They must be open and polled.
    pub fn spread(&mut self, channels: u64) {
        if self.subs.scale.is_some() && channels != 0 {
            self.spread = Spread::Wanted(channels);
        }
    }

    /// When the host's answer is overdue.
    pub(crate) fn spread_deadline(&self) -> Option<u64> {
        match self.spread {
            Spread::Sent(since) => Some(since.saturating_add(limits::REQUEST_DEADLINE)),
            _ => None,
        }
    }

    /// Says what is wanted, and gives up waiting.
    pub(crate) fn step_spread<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        match self.spread {
            Spread::Wanted(channels) if self.phase == Phase::Ready && self.awaited.is_none() => {
                let request_id = self.next_request_id;
                let message = self.parameters(request_id, channels);
                if self.send_rndis(channel, channel_type::CONTROL, &[&message], 0, now)? {
                    self.next_request_id = request_id.wrapping_add(1);
                    let request = Request::Set(oid::RECEIVE_SCALE_PARAMETERS);
                    self.awaited = Some(self.awaits(request_id, request));
                    self.spread = Spread::Sent(now);
                }
            }
            Spread::Sent(_) if self.awaited.is_none() => self.spread = Spread::Idle,
            Spread::Sent(since) if now.saturating_sub(since) > limits::REQUEST_DEADLINE => {
                self.awaited = None;
                self.spread = Spread::Idle;
                let age = now.saturating_sub(since);
                self.counters
                    .validation
                    .violation(Violation::new(Rule::RND_65, 0, age));
            }
            _ => {}
        }
        Ok(())
    }

    /// SET of the receive scale parameters: table and key behind the structure
    /// (Linux `rndis_set_rss_param_msg`).
    fn parameters(&self, request_id: u32, channels: u64) -> Vec<u8> {
        let entries = self.subs.scale.map_or(1, |(_, table)| table);
        let table_size = entries.saturating_mul(4);
        let head = size_of::<RssParameters>() as u32;
        let key_at = head.saturating_add(table_size.into());
        let length = key_at.saturating_add(KEY as u32);
        let parameters = RssParameters {
            header: rndis::ObjectHeader {
                object_type: object::RSS_PARAMETERS,
                revision: 2,
                size: (head as u16).into(),
            },
            hash_info: HASHES.into(),
            table_size: table_size.into(),
            table_offset: head.into(),
            key_size: (KEY as u16).into(),
            key_offset: key_at.into(),
            ..Default::default()
        };
        const BEHIND: u32 = (size_of::<rndis::Request>() - rndis::OFFSET_BASE) as u32;
        let request = rndis::Request {
            header: rndis::Header {
                message_type: rndis::message::SET.into(),
                length: length
                    .saturating_add(size_of::<rndis::Request>() as u32)
                    .into(),
            },
            request_id: request_id.into(),
            oid: oid::RECEIVE_SCALE_PARAMETERS.into(),
            buffer_length: length.into(),
            buffer_offset: BEHIND.into(),
            vc_handle: 0.into(),
        };
        let mut message = Vec::from(request.as_bytes());
        message.extend_from_slice(parameters.as_bytes());
        let turns = (0..u64::BITS).filter(|bit| channels.wrapping_shr(*bit) & 1 == 1);
        for channel in turns.cycle().take(entries.into()) {
            message.extend_from_slice(&channel.to_le_bytes());
        }
        message.extend(key(self.config.seed));
        message
    }
}

/// A key from the NIC's random start: the host knows it, the guest's peers do not.
fn key(seed: u64) -> impl Iterator<Item = u8> {
    (1..=KEY as u64 / 8).flat_map(move |n| {
        // splitmix64
        let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z.wrapping_shr(30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z.wrapping_shr(27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z.wrapping_shr(31)).to_le_bytes()
    })
}
