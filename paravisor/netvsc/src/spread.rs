//! Receive scaling: which frames the host puts on which channel. A host that
//! refuses is none the worse: all frames come on the primary then.

use crate::handshake::Phase;
use crate::limits;
use crate::nic::Nic;
use abi::nvsp::channel_type;
use abi::rndis::{self, RssParameters, hash, object, oid};
use memory::SharedMemory;
use validate::rndis::Request;
use validate::rndis::response::MAX_TABLE;
use validate::{Rule, Violation};
use vmbus::Channel;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

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
                let parts = message.parts();
                if self.send_rndis(channel, channel_type::CONTROL, &parts, 0, now)? {
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
    fn parameters(&self, request_id: u32, channels: u64) -> Parameters {
        let entries = self.subs.scale.map_or(1, |(_, table)| table);
        let table_size = entries.saturating_mul(4);
        let head = size_of::<RssParameters>() as u32;
        let key_at = head.saturating_add(table_size.into());
        let length = key_at.saturating_add(KEY as u32);
        let parameters = RssParameters {
            header: rndis::ObjectHeader::new(object::RSS_PARAMETERS, 2, size_of::<RssParameters>()),
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
        let turns = (0..u64::BITS).filter(|bit| channels.wrapping_shr(*bit) & 1 == 1);
        let mut table = [U32::ZERO; MAX_TABLE as usize];
        for (entry, channel) in table.iter_mut().zip(turns.cycle()) {
            *entry = channel.into();
        }
        Parameters {
            request,
            parameters,
            table,
            table_size: table_size.into(),
            key: key(self.config.seed),
        }
    }
}

/// The message in its parts.
struct Parameters {
    request: rndis::Request,
    parameters: RssParameters,
    table: [U32; MAX_TABLE as usize],
    /// Bytes of the table that are said.
    table_size: usize,
    key: [u8; KEY],
}

impl Parameters {
    fn parts(&self) -> [&[u8]; 4] {
        let table = self.table.as_bytes();
        [
            self.request.as_bytes(),
            self.parameters.as_bytes(),
            table.get(..self.table_size).unwrap_or(table),
            &self.key,
        ]
    }
}

/// A key from the NIC's random start: the host knows it, the guest's peers do not.
fn key(seed: u64) -> [u8; KEY] {
    let mut key = [0; KEY];
    for (n, word) in (1_u64..).zip(key.as_chunks_mut::<8>().0) {
        // splitmix64
        let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z.wrapping_shr(30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z.wrapping_shr(27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = (z ^ z.wrapping_shr(31)).to_le_bytes();
    }
    key
}
