//! Receive scaling: which frames the host puts on which channel, and the hash by which
//! it does so. A host that refuses is none the worse: all frames come on the primary then.
//!
//! The guest may ask for the hash, made with its key. Nothing of it reaches the guest
//! before the host has agreed, nor after something else was asked for. Frames that were
//! under way at that moment may carry a hash of another key: it is a hint.

use crate::handshake::Phase;
use crate::limits;
use crate::nic::Nic;
use abi::nvsp::channel_type;
use abi::rndis::{self, RssParameters, object, oid, rss_flag};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU8, Ordering};
use memory::SharedMemory;
use validate::frame::{HASH_KEY, HashKind, HashKinds, HashRequest};
use validate::rndis::hash::information;
use validate::rndis::response::MAX_TABLE;
use validate::rndis::{Request, Response};
use validate::{Rule, Violation};
use vmbus::Channel;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// The primary channel alone.
const PRIMARY: u64 = 1;
const REQUEST: Request = Request::Set(oid::RECEIVE_SCALE_PARAMETERS);

/// What the host is told about frames for the guest.
pub(crate) struct Spread {
    /// Over these channels, one bit each; 0: over the primary alone.
    channels: u64,
    /// What the guest asks for.
    asked: Option<HashRequest>,
    /// The host would have nothing of it: our own stands in its place.
    refused: bool,
    /// Something is to be said.
    due: bool,
    step: Step,
    /// The host has agreed to what it was asked.
    agreed: bool,
    /// The hash that the host makes.
    host: Host,
    /// Of what it makes hashes for the guest. All lanes look at it.
    standing: Arc<AtomicU8>,
}

/// What was said last, and when.
#[derive(Clone, Copy, Default)]
enum Step {
    /// All that was said is answered.
    #[default]
    Idle,
    /// That scaling is off.
    Off(u64),
    /// How it is to be done.
    On(u64, HashRequest),
}

/// The host's own state, as far as is known.
#[derive(Clone, Copy)]
enum Host {
    /// Scaling is off.
    Off,
    /// It hashes these, with this key.
    On(HashRequest),
    /// It has refused something, or not answered.
    Unknown,
}

impl Spread {
    /// Of a NIC that has said nothing.
    pub fn new() -> Spread {
        Spread::with(Arc::new(AtomicU8::new(0)))
    }

    /// For a lane: it is told by its NIC what the host agreed to.
    pub fn of_lane(&self) -> Spread {
        Spread::with(self.standing.clone())
    }

    fn with(standing: Arc<AtomicU8>) -> Spread {
        Spread {
            channels: 0,
            asked: None,
            refused: false,
            due: false,
            step: Step::Idle,
            agreed: false,
            host: Host::Off,
            standing,
        }
    }

    /// Of what the host makes hashes for the guest.
    pub fn standing(&self) -> HashKinds {
        HashKinds::from_bits(self.standing.load(Ordering::Relaxed))
    }

    fn stand(&self, kinds: HashKinds) {
        self.standing.store(kinds.bits(), Ordering::Relaxed);
    }

    fn since(&self) -> Option<u64> {
        match self.step {
            Step::Idle => None,
            Step::Off(since) | Step::On(since, _) => Some(since),
        }
    }

    /// The host has answered.
    pub fn answered(&mut self, request: Request, response: Response) {
        self.agreed |= request == REQUEST && response == Response::Set;
    }

    /// What was said last has its answer, or never gets one.
    fn settle(&mut self) {
        let agreed = core::mem::take(&mut self.agreed);
        match core::mem::take(&mut self.step) {
            Step::Idle => {}
            // One that refuses even this is told the rest all the same (Linux
            // `rndis_filter_set_rss_param`).
            Step::Off(_) => self.host = Host::Off,
            Step::On(_, request) if agreed => {
                self.host = Host::On(request);
                if let Some(asked) = self.asked.filter(|_| !self.due && !self.refused) {
                    self.stand(asked.kinds);
                }
            }
            Step::On(..) => {
                self.host = Host::Unknown;
                self.stand(HashKinds::empty());
                if self.asked.is_some() && !self.refused && !self.due {
                    self.refused = true;
                    self.due = true;
                }
            }
        }
    }

    /// What the host is to do.
    fn request(&self, seed: u64) -> HashRequest {
        match self.asked.filter(|_| !self.refused) {
            Some(asked) => HashRequest {
                kinds: with_own(asked.kinds),
                key: asked.key,
            },
            None => HashRequest {
                kinds: with_own(HashKinds::empty()),
                key: key(seed),
            },
        }
    }
}

/// What is asked for, and what frames are spread by where that leaves a choice:
/// connections over TCP by addresses and ports, everything else by addresses. Nothing is
/// added that would make a hash of another kind of a frame that was to get one.
fn with_own(asked: HashKinds) -> HashKinds {
    HashKinds::of(|kind| match kind {
        HashKind::Ipv4 | HashKind::Ipv6 => true,
        HashKind::TcpIpv4 => asked.contains(kind) || !asked.contains(HashKind::Ipv4),
        HashKind::TcpIpv6 => asked.contains(kind) || !asked.contains(HashKind::Ipv6),
        HashKind::UdpIpv4 | HashKind::UdpIpv6 => asked.contains(kind),
    })
}

impl<M: SharedMemory> Nic<M> {
    /// Has the host spread frames for the guest over these channels, by index (bit
    /// 0 is the primary), in turn. They must be open and polled.
    pub fn spread(&mut self, channels: u64) {
        if self.subs.scale.is_some() && channels != 0 {
            self.spread.channels = channels;
            self.spread.due = true;
        }
    }

    /// Hashes that the host offers to make. `None`: none, or nothing is known of it yet.
    pub fn offers_hash(&self) -> Option<HashKinds> {
        let offered = self.subs.scale.map(|scale| scale.hashes);
        offered.filter(|hashes| !hashes.is_empty())
    }

    /// What the guest asks for; frames have such hashes as soon as the host has agreed
    /// ([`validate::frame::Arrived::hash`]). `None`: nothing. To say it again changes
    /// nothing.
    pub fn set_hash(&mut self, asked: Option<HashRequest>) {
        let asked = asked.filter(|asked| !asked.kinds.is_empty());
        if self.spread.asked != asked {
            self.spread.stand(HashKinds::empty());
            self.spread.asked = asked;
            self.spread.refused = false;
            self.spread.due = true;
        }
    }

    /// Whether [`Nic::spread`] or [`Nic::set_hash`] has left something that the next
    /// poll can say.
    pub fn spread_due(&self) -> bool {
        let can = self.phase == Phase::Ready && self.awaited.is_none();
        self.spread.due && can && self.subs.scale.is_some()
    }

    /// When the host's answer is overdue.
    pub(crate) fn spread_deadline(&self) -> Option<u64> {
        let since = self.spread.since()?;
        Some(since.saturating_add(limits::REQUEST_DEADLINE))
    }

    /// Says what is wanted, and gives up waiting.
    pub(crate) fn step_spread<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        if let Some(since) = self.spread.since() {
            let waits = self.awaited.is_some_and(|of| of.request == REQUEST);
            let age = now.saturating_sub(since);
            if !waits {
                self.spread.settle();
            } else if age > limits::REQUEST_DEADLINE {
                self.awaited = None;
                self.spread.settle();
                let late = Violation::new(Rule::RND_65, 0, age);
                self.counters.validation.violation(late);
            }
        }
        if !self.spread_due() {
            return Ok(());
        }
        let request = self.spread.request(self.config.seed);
        // Hosts refuse another key while they use one (Linux `rndis_filter_set_rss_param`).
        let off = match self.spread.host {
            Host::Off => false,
            Host::On(uses) => uses != request,
            Host::Unknown => true,
        };
        let flags = if off { rss_flag::DISABLE } else { 0 };
        let request_id = self.next_request_id;
        let message = self.parameters(request_id, flags, &request);
        let parts = message.parts();
        if self.send_rndis(channel, channel_type::CONTROL, &parts, 0, now)? {
            self.next_request_id = request_id.wrapping_add(1);
            self.awaited = Some(self.awaits(request_id, REQUEST));
            self.spread.agreed = false;
            self.spread.step = match off {
                true => Step::Off(now),
                false => Step::On(now, request),
            };
            // After the first of two there is still the second to say.
            self.spread.due = off;
        }
        Ok(())
    }

    /// SET of the receive scale parameters: table and key behind the structure
    /// (Linux `rndis_set_rss_param_msg`).
    fn parameters(&self, request_id: u32, flags: u16, wanted: &HashRequest) -> Parameters {
        let entries = self.subs.scale.map_or(1, |scale| scale.table);
        let table_size = entries.saturating_mul(4);
        let head = size_of::<RssParameters>() as u32;
        let key_at = head.saturating_add(table_size.into());
        let length = key_at.saturating_add(HASH_KEY as u32);
        let parameters = RssParameters {
            header: rndis::ObjectHeader::new(object::RSS_PARAMETERS, 2, size_of::<RssParameters>()),
            flags: flags.into(),
            hash_info: information(wanted.kinds).into(),
            table_size: table_size.into(),
            table_offset: head.into(),
            key_size: (HASH_KEY as u16).into(),
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
        let channels = match self.spread.channels {
            0 => PRIMARY,
            channels => channels,
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
            key: wanted.key,
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
    key: [u8; HASH_KEY],
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
fn key(seed: u64) -> [u8; HASH_KEY] {
    let mut key = [0; HASH_KEY];
    for (n, word) in (1_u64..).zip(key.as_chunks_mut::<8>().0) {
        // splitmix64
        let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z.wrapping_shr(30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z.wrapping_shr(27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = (z ^ z.wrapping_shr(31)).to_le_bytes();
    }
    key
}
