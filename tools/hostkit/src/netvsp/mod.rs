//! The NIC provider: NVSP and RNDIS as Hyper-V's virtual switch speaks them, over
//! a primary channel and as many sub-channels as the guest asks for. Facts: Linux `drivers/net/hyperv`, OpenVMM `netvsp`.
//!
//! A guest that breaks the protocol stops its channel: [`Nic::error`] says why,
//! and nothing is read or written any more until the channel is opened anew.
mod channel;
mod coalesce;
mod control;
mod offload;
mod port;
mod receive;
mod steering;
mod transmit;

use crate::backend::Backend;
use crate::fault::Faults;
use crate::mem::VmMemory;
use crate::pages::{PageError, PageList};
use crate::ring::RingError;
use crate::vmbus::{OfferParams, RingRequest};
use abi::nvsp::version;
use abi::vmbus::{Guid, class};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use channel::Channel;

/// Packets of the guest that one poll handles at most.
const PACKETS_PER_POLL: usize = 256;

/// What the NIC is like.
#[derive(Clone, Copy, Debug)]
pub struct NicConfig {
    /// Newest NVSP version that is accepted.
    pub max_version: u32,
    /// Largest frame with Ethernet header until the guest says otherwise, 1514..=9216.
    pub mtu: u32,
    /// Most frames in one packet to the guest (375 at most).
    pub max_ranges: usize,
    /// Message length of received frames is the whole slot (as OpenVMM has it)
    /// in place of what is used.
    pub whole_slot: bool,
    /// Largest frame that the guest may leave to be cut into segments; 0: no
    /// offloads are offered. The guest cannot know it, so the default is a number
    /// below the 64 KiB that guests use if they may.
    pub large_send: u32,
    /// Segments of TCP are joined for a guest that asks for it.
    pub coalesce: bool,
    /// Link speed in 100 bit/s.
    pub link_speed: u32,
    /// Instance id of the offer.
    pub instance: Guid,
    /// Address that the guest is told, if it is not the backend's.
    pub mac: Option<[u8; 6]>,
    /// Most sub-channels that are granted; with 0 there is no receive scaling.
    pub max_sub_channels: u16,
}

impl Default for NicConfig {
    fn default() -> Self {
        NicConfig {
            max_version: version::V61,
            mtu: 1514,
            max_ranges: 64,
            whole_slot: false,
            large_send: 62780,
            coalesce: true,
            link_speed: 100_000_000,
            instance: Guid::new(0x5563_1bd9, 0x0b4e, 0x4d7d, 0x9a3e_21f0_c4a8_6e10),
            mac: None,
            // Linux `VRSS_CHANNEL_MAX` is 64 with the primary.
            max_sub_channels: 63,
        }
    }
}

/// Why the channel was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicError {
    /// The ring is broken.
    Ring(RingError),
    /// A buffer cannot be reached, or the guest points beyond it.
    Pages(PageError),
    /// NVSP or RNDIS was broken; the name says how.
    Protocol(&'static str),
}

impl From<RingError> for NicError {
    fn from(e: RingError) -> Self {
        NicError::Ring(e)
    }
}

impl From<PageError> for NicError {
    fn from(e: PageError) -> Self {
        NicError::Pages(e)
    }
}

/// What a NIC counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// Signals of the guest that were due.
    pub signals_needed: u64,
    /// Signals of the guest that found nothing to do.
    pub signals_not_needed: u64,
    /// Signals to the guest.
    pub signals_sent: u64,
    /// Frames to the guest.
    pub frames_rx: u64,
    /// Bytes in them.
    pub bytes_rx: u64,
    /// Frames of the guest.
    pub frames_tx: u64,
    /// Bytes in them.
    pub bytes_tx: u64,
    /// Ring packets of the guest by type.
    pub packets_in: BTreeMap<u16, u64>,
    /// Ring packets to the guest by type.
    pub packets_out: BTreeMap<u16, u64>,
    /// NVSP messages of the guest by type.
    pub nvsp_in: BTreeMap<u32, u64>,
    /// RNDIS control messages of the guest by type.
    pub rndis_in: BTreeMap<u32, u64>,
    /// Transmissions out of the send buffer.
    pub tx_sections: u64,
    /// Transmissions by GPA direct.
    pub tx_direct: u64,
    /// Those out of the send buffer that went on in pages.
    pub tx_mixed: u64,
    /// Frames to the guest by channel.
    pub channel_rx: BTreeMap<u16, u64>,
    /// Frames of the guest by channel.
    pub channel_tx: BTreeMap<u16, u64>,
    /// RNDIS messages with a frame of the guest, whether it is cut or not.
    pub messages_tx: u64,
    /// Frames of the guest that were cut into segments here.
    pub large_sends: u64,
    /// Frames that they were cut into.
    pub segments: u64,
    /// Frames of the guest whose checksum was filled in here.
    pub checksums: u64,
    /// Frames that the guest got joined to one, and how many of these there were.
    pub joined: u64,
    /// See `joined`.
    pub coalesced: u64,
    /// Bytes of headers that these have no more.
    pub bytes_saved: u64,
    /// Frames for the guest that were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Guest errors by name.
    pub errors: BTreeMap<&'static str, u64>,
}

/// What the NIC needs from its surroundings for one step.
pub struct NicContext<'a> {
    /// Memory of the VM.
    pub mem: &'a dyn VmMemory,
    /// What goes wrong.
    pub faults: &'a mut Faults,
    /// The network.
    pub backend: &'a mut dyn Backend,
    /// GPADLs of the primary channel by id.
    pub gpadl: &'a dyn Fn(u32) -> Option<Arc<PageList>>,
}

/// One NIC.
#[derive(Debug)]
pub struct Nic {
    config: NicConfig,
    channel: Option<Channel>,
    error: Option<NicError>,
    counters: NicCounters,
}

/// Where a NIC stands, for tests and reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicState {
    /// The channel is open.
    pub open: bool,
    /// NVSP version agreed on.
    pub version: Option<u32>,
    /// RNDIS is initialised.
    pub rndis: bool,
    /// Packet filter; 0 = nothing is received.
    pub filter: u32,
    /// Slots of the receive buffer that the guest holds.
    pub slots_in_flight: usize,
    /// Sub-channels that are open.
    pub sub_channels: usize,
}

impl Nic {
    /// A NIC whose channel is closed.
    pub fn new(config: NicConfig) -> Self {
        Nic {
            config,
            channel: None,
            error: None,
            counters: NicCounters::default(),
        }
    }

    /// What to offer for it.
    pub fn offer_params(&self) -> OfferParams {
        OfferParams::new(class::NIC, self.config.instance)
    }

    /// Whether segments of TCP may be joined, from the next opening of the channel on.
    pub fn set_coalesce(&mut self, may: bool) {
        self.config.coalesce = may;
    }

    /// Tells the guest this address from now on, in place of the backend's.
    pub fn set_mac(&mut self, mac: [u8; 6]) {
        self.config.mac = Some(mac);
    }

    /// What to offer for one of its sub-channels.
    pub fn sub_offer_params(&self, index: u16) -> OfferParams {
        OfferParams {
            sub_channel_index: index,
            ..self.offer_params()
        }
    }

    /// Why the channel was stopped, if it was.
    pub fn error(&self) -> Option<NicError> {
        self.error
    }

    /// What was counted so far.
    pub fn counters(&self) -> &NicCounters {
        &self.counters
    }

    /// Where the NIC stands.
    pub fn state(&self) -> NicState {
        self.channel
            .as_ref()
            .map_or(NicState::default(), Channel::state)
    }

    /// The guest opens the channel. `false` refuses.
    pub fn open(&mut self, mem: &dyn VmMemory, request: &RingRequest) -> bool {
        self.error = None;
        self.channel = Channel::open(mem, request, &self.config);
        self.channel.is_some()
    }

    /// The channel is gone: lets go of rings and buffers. Frames that waited for a
    /// sub-channel are lost.
    pub fn close(&mut self) {
        let lost = self.frames_waiting();
        self.channel = None;
        self.lose(lost);
    }

    /// Frames that wait for room on a sub-channel.
    pub fn frames_waiting(&self) -> usize {
        self.channel.as_ref().map_or(0, Channel::frames_waiting)
    }

    fn lose(&mut self, lost: usize) {
        if lost > 0 {
            *self.counters.dropped.entry("channel-closed").or_default() += lost as u64;
        }
    }

    /// The guest opens a sub-channel. `false` refuses.
    pub fn open_sub(&mut self, mem: &dyn VmMemory, request: &RingRequest, index: u16) -> bool {
        let channel = self.channel.as_mut();
        channel.is_some_and(|c| c.open_sub(mem, request, index))
    }

    /// A sub-channel is gone.
    pub fn close_sub(&mut self, index: u16) {
        let lost = self.channel.as_mut().map_or(0, |c| c.close_sub(index));
        self.lose(lost);
    }

    /// Sub-channels to be offered now: those from 1 to this number, once.
    pub fn take_granted(&mut self) -> u16 {
        let channel = self.channel.as_mut();
        channel.map_or(0, |c| core::mem::take(&mut c.to_offer))
    }

    /// The guest signalled the channel with this index.
    pub fn signalled(&mut self, index: u16) {
        let Some(c) = &mut self.channel else {
            return;
        };
        let port = match index {
            0 => Some(&mut c.port),
            index => c.subs.get_mut(&index),
        };
        if let Some(port) = port {
            port.signalled = true;
        }
    }

    /// Puts a raw ring packet (descriptor first) into the queue to the guest.
    pub fn inject_packet(&mut self, packet: &[u8]) {
        if let Some(c) = &mut self.channel {
            c.port.out_queue.push_back(packet.to_vec());
        }
    }

    /// Sends a raw RNDIS message to the guest as a control message.
    pub fn inject_control(&mut self, rndis: &[u8]) {
        if let Some(c) = &mut self.channel {
            c.control_queue.push_back(rndis.to_vec());
        }
    }

    /// Sends a raw RNDIS message past the hooks, as data or control by its type.
    pub(crate) fn inject_rndis(&mut self, rndis: &[u8]) {
        if let Some(c) = &mut self.channel {
            c.late_queue.push_back(rndis.to_vec());
        }
    }

    /// Writes over a word of a ring's control page: of the ring to the guest
    /// (`incoming` there) or from it.
    pub(crate) fn poke(&self, mem: &dyn VmMemory, incoming: bool, at: usize, value: u32) {
        if let Some(c) = &self.channel {
            c.port.poke(mem, incoming, at, value);
        }
    }

    /// Does everything that can be done now, on every channel. Returns which of them
    /// want a signal to the guest, and whether there is more to do at once.
    pub fn poll(&mut self, cx: &mut NicContext<'_>) -> Polled {
        let mut polled = Polled::default();
        let (None, Some(channel)) = (self.error, &mut self.channel) else {
            return polled;
        };
        let mut env = Env {
            mem: cx.mem,
            faults: cx.faults,
            backend: cx.backend,
            gpadl: cx.gpadl,
            counters: &mut self.counters,
        };
        if let Err(e) = channel.poll(&mut env, &mut polled) {
            log::warn!("netvsp: channel stopped: {e:?}");
            let name = match e {
                NicError::Protocol(name) => name,
                NicError::Ring(_) => "ring",
                NicError::Pages(_) => "pages",
            };
            *self.counters.errors.entry(name).or_default() += 1;
            self.error = Some(e);
        }
        self.counters.signals_sent += polled.signals.len() as u64;
        polled
    }
}

/// Outcome of a poll.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Channels, by relid, on which the guest is to be signalled.
    pub signals: Vec<u32>,
    /// Poll again soon: the budget was used up.
    pub more: bool,
}

/// A [`NicContext`] with the counters.
struct Env<'a> {
    mem: &'a dyn VmMemory,
    faults: &'a mut Faults,
    backend: &'a mut dyn Backend,
    gpadl: &'a dyn Fn(u32) -> Option<Arc<PageList>>,
    counters: &'a mut NicCounters,
}

/// Reads a structure from the front of guest bytes.
fn parse<T: zerocopy::FromBytes>(bytes: &[u8], error: &'static str) -> Result<T, NicError> {
    T::read_from_prefix(bytes)
        .map(|(t, _)| t)
        .map_err(|_| NicError::Protocol(error))
}

/// `bytes[at..at + len]`, or a protocol error.
fn part<'b>(
    bytes: &'b [u8],
    at: usize,
    len: usize,
    error: &'static str,
) -> Result<&'b [u8], NicError> {
    at.checked_add(len)
        .and_then(|end| bytes.get(at..end))
        .ok_or(NicError::Protocol(error))
}

type Bytes = Vec<u8>;
