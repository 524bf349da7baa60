//! The script from INIT to a NIC that is ready, and back. One phase after the
//! other (NVS-50); each that waits for the host has a deadline.

use crate::lane::Scale;
use crate::limits;
use crate::nic::Nic;
use crate::requests::Request;
use crate::send::send_message;
use abi::nvsp::{self, channel_type};
use abi::rndis::{self, ObjectHeader, filter, object, offload_parameter, oid};
use memory::SharedMemory;
use validate::frame::{Network, Transport};
use validate::nvsp::{Awaited, Completion};
use validate::rndis::{self as judged, AwaitedResponse, Offloads, Response, Value};
use validate::{Rule, Violation};
use vmbus::{Channel, Reply};
use zerocopy::IntoBytes;

/// Where the NIC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    /// NVSP 6.1 is proposed, and nothing below it (NVS-07, NVS-09).
    Init,
    Config,
    NdisVersion,
    ReceiveBuffer,
    SendBuffer,
    /// Request number n of [`SCRIPT`].
    Rndis(usize),
    /// Sub-channels are asked for.
    SubChannels,
    /// Waiting until no section is used, so that they can be dealt out.
    Share,
    Ready,
    /// Stopping: the packet filter is set to 0.
    FilterOff,
    Halt,
    /// Waiting for transmits to be completed, a short time.
    Drain,
    RevokeReceive,
    RevokeSend,
    Stopped,
    Failed,
}

/// RNDIS requests in their order, and whether the NIC can do without the answer.
const SCRIPT: [(judged::Request, bool); 10] = [
    (judged::Request::Initialize, false),
    (judged::Request::Query(oid::PERMANENT_ADDRESS), true),
    (judged::Request::Query(oid::CURRENT_ADDRESS), false),
    (judged::Request::Query(oid::MAXIMUM_FRAME_SIZE), false),
    // A host without offloads is one that we do their work for.
    (
        judged::Request::Query(oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES),
        true,
    ),
    (judged::Request::Set(oid::TCP_OFFLOAD_PARAMETERS), true),
    (judged::Request::Query(oid::LINK_SPEED), true),
    // Without an answer there are no sub-channels, and no hashes for the guest.
    (
        judged::Request::Query(oid::RECEIVE_SCALE_CAPABILITIES),
        true,
    ),
    (judged::Request::Query(oid::MEDIA_CONNECT_STATUS), false),
    (judged::Request::Set(oid::CURRENT_PACKET_FILTER), false),
];

/// The last of them.
pub(crate) const FILTER: usize = SCRIPT.len() - 1;

/// What the host shall give us: our own frames and groups (as Linux and the
/// UEFI client ask), or all.
fn packet_filter(promiscuous: bool) -> u32 {
    let own = filter::DIRECTED | filter::ALL_MULTICAST | filter::BROADCAST;
    if promiscuous {
        own | filter::PROMISCUOUS
    } else {
        own
    }
}

impl<M: SharedMemory> Nic<M> {
    pub(crate) fn enter(&mut self, phase: Phase, now: u64) {
        self.phase = phase;
        self.sent = false;
        self.entered = now;
        if phase == Phase::Ready {
            self.ready_untold = true;
        }
        if phase == Phase::Stopped {
            self.stopped_untold = true;
        }
    }

    /// When the phase is overdue.
    pub(crate) fn phase_deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Idle | Phase::Ready | Phase::Stopped | Phase::Failed => None,
            Phase::Drain => Some(self.entered.saturating_add(limits::DRAIN)),
            _ => Some(self.entered.saturating_add(limits::REQUEST_DEADLINE)),
        }
    }

    /// Sends what the phase has to send, as far as the ring takes it.
    pub(crate) fn step<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        self.send_keepalive(channel, now)?;
        self.step_spread(channel, now)?;
        self.step_coalesce(channel, now)?;
        // Phases that await nothing follow one another; there are fewer than 8.
        for _ in 0..8 {
            let overdue = self.phase_deadline().is_some_and(|deadline| now > deadline);
            let before = self.phase;
            match self.phase {
                Phase::Idle | Phase::Ready | Phase::Stopped | Phase::Failed => return Ok(()),
                Phase::Drain => {
                    if overdue || self.requests.outstanding() == 0 {
                        self.enter(Phase::RevokeReceive, now);
                    }
                }
                _ if overdue => {
                    let rule = match self.phase {
                        Phase::Rndis(_) | Phase::FilterOff => Rule::RND_65,
                        _ => Rule::PKT_24,
                    };
                    let age = now.saturating_sub(self.entered);
                    self.fail_noted(Violation::new(rule, 0, age));
                    return Ok(());
                }
                _ if self.sent => return Ok(()),
                Phase::Init => self.propose(channel, now)?,
                Phase::Config => self.send_config(channel, now)?,
                Phase::NdisVersion => self.send_ndis_version(channel, now)?,
                Phase::ReceiveBuffer | Phase::SendBuffer => self.send_buffer(channel, now)?,
                Phase::Share => {
                    if self.requests.outstanding() == 0 {
                        let lanes = self.subs.granted.saturating_add(1);
                        self.send.keep(0, lanes);
                        self.subs.settled = true;
                        self.enter(Phase::Rndis(FILTER), now);
                    }
                }
                Phase::SubChannels => self.ask_sub_channels(channel, now)?,
                Phase::Rndis(step) => match SCRIPT.get(step) {
                    // Frames come behind this one.
                    Some(_) if step == FILTER && !self.subs.settled => {
                        self.enter(Phase::SubChannels, now);
                    }
                    Some((request, _)) => self.send_rndis_request(channel, *request, now)?,
                    None => self.enter(Phase::Ready, now),
                },
                Phase::FilterOff => {
                    let request = judged::Request::Set(oid::CURRENT_PACKET_FILTER);
                    self.send_rndis_request(channel, request, now)?;
                }
                Phase::Halt => self.halt(channel, now)?,
                Phase::RevokeReceive => {
                    let kind = nvsp::message::REVOKE_RECEIVE_BUFFER;
                    if self.revoke(channel, kind, nvsp::RECEIVE_BUFFER_ID)? {
                        self.receive.revoke();
                        self.enter(Phase::RevokeSend, now);
                    }
                }
                Phase::RevokeSend => {
                    let kind = nvsp::message::REVOKE_SEND_BUFFER;
                    if self.revoke(channel, kind, nvsp::SEND_BUFFER_ID)? {
                        self.enter(Phase::Stopped, now);
                    }
                }
            }
            if self.phase == before {
                return Ok(());
            }
        }
        Ok(())
    }

    fn propose<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        let message = nvsp::Init {
            message_type: nvsp::message::INIT.into(),
            min_version: nvsp::version::V61.into(),
            max_version: nvsp::version::V61.into(),
        };
        let request = Request {
            awaited: Awaited::Init,
            sections: None,
            messages: 0,
            sent: now,
        };
        self.sent = self.send_request(channel, message.as_bytes(), request)?;
        Ok(())
    }

    fn send_config<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        // NVS-10: no SR-IOV. Teaming is what lets the host send link speed events; tags
        // travel beside their frames.
        let coalescing = match self.config.coalescing {
            true => nvsp::capability::RSC,
            false => 0,
        };
        let capabilities = nvsp::capability::TEAMING | nvsp::capability::IEEE_8021Q | coalescing;
        let message = nvsp::SendNdisConfig {
            message_type: nvsp::message::SEND_NDIS_CONFIG.into(),
            mtu: self
                .config
                .mtu
                .saturating_add(judged::packet::MIN_FRAME)
                .into(),
            reserved: 0.into(),
            capabilities: capabilities.into(),
        };
        if send_message(channel, message.as_bytes(), 0, Reply::None)? {
            self.enter(Phase::NdisVersion, now);
        }
        Ok(())
    }

    fn send_ndis_version<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        let (major, minor) = nvsp::NDIS_VERSION;
        let message = nvsp::SendNdisVersion {
            message_type: nvsp::message::SEND_NDIS_VERSION.into(),
            major: major.into(),
            minor: minor.into(),
        };
        if send_message(channel, message.as_bytes(), 0, Reply::None)? {
            self.enter(Phase::ReceiveBuffer, now);
        }
        Ok(())
    }

    fn send_buffer<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        let length = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (kind, gpadl, id, awaited) = if self.phase == Phase::ReceiveBuffer {
            let len = length(self.receive.len());
            (
                nvsp::message::SEND_RECEIVE_BUFFER,
                self.config.receive_gpadl,
                nvsp::RECEIVE_BUFFER_ID,
                Awaited::ReceiveBuffer { len },
            )
        } else {
            let len = length(self.send.len());
            (
                nvsp::message::SEND_SEND_BUFFER,
                self.config.send_gpadl,
                nvsp::SEND_BUFFER_ID,
                Awaited::SendBuffer { len },
            )
        };
        let message = nvsp::SendBuffer {
            message_type: kind.into(),
            gpadl: gpadl.into(),
            id: id.into(),
        };
        let request = Request {
            awaited,
            sections: None,
            messages: 0,
            sent: now,
        };
        self.sent = self.send_request(channel, message.as_bytes(), request)?;
        Ok(())
    }

    fn send_rndis_request<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        request: judged::Request,
        now: u64,
    ) -> Result<(), Violation> {
        let request_id = self.next_request_id;
        let parts = match request {
            judged::Request::Query(oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES) => {
                RequestMessage::new(request, request_id, wanted_capabilities().as_bytes())
            }
            judged::Request::Set(oid::TCP_OFFLOAD_PARAMETERS) => {
                let parameters = offload_parameters(&self.offloads);
                RequestMessage::new(request, request_id, parameters.as_bytes())
            }
            judged::Request::Set(_) => {
                let filter = match self.phase {
                    Phase::FilterOff => 0,
                    _ => packet_filter(self.config.promiscuous),
                };
                RequestMessage::new(request, request_id, &filter.to_le_bytes())
            }
            _ => RequestMessage::new(request, request_id, &[]),
        };
        self.sent = self.send_rndis(channel, channel_type::CONTROL, &parts.parts(), 0, now)?;
        if self.sent {
            self.next_request_id = request_id.wrapping_add(1);
            self.awaited = Some(self.awaits(request_id, request));
        }
        Ok(())
    }

    /// What the response to a request is measured against.
    pub(crate) fn awaits(&self, request_id: u32, request: judged::Request) -> AwaitedResponse {
        let frame = self.mtu.saturating_add(judged::packet::FRAME_OVERHEAD);
        // The permanent address is for display; the current one is ours.
        let permanent = request == judged::Request::Query(oid::PERMANENT_ADDRESS);
        AwaitedResponse {
            request_id,
            request,
            transfer: frame.saturating_add(size_of::<rndis::Packet>() as u32),
            mtu: self.config.mtu,
            mac: if permanent { None } else { self.config.mac },
            enforce_medium: self.config.enforce_unmeasured,
        }
    }

    fn halt<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        now: u64,
    ) -> Result<(), Violation> {
        let message = rndis::Halt {
            header: rndis::Header {
                message_type: rndis::message::HALT.into(),
                length: (size_of::<rndis::Halt>() as u32).into(),
            },
            request_id: self.next_request_id.into(),
        };
        if self.send_rndis(
            channel,
            channel_type::CONTROL,
            &[message.as_bytes()],
            0,
            now,
        )? {
            self.enter(Phase::Drain, now);
        }
        Ok(())
    }

    /// Takes a buffer back. No completion is asked for: hosts that send none
    /// are known, hosts that need one are not.
    fn revoke<R: SharedMemory>(
        &mut self,
        channel: &mut Channel<R>,
        kind: u32,
        id: u16,
    ) -> Result<bool, Violation> {
        let message = nvsp::RevokeBuffer {
            message_type: kind.into(),
            id: id.into(),
        };
        send_message(channel, message.as_bytes(), 0, Reply::None)
    }

    /// A completion that fits its request.
    pub(crate) fn completed(&mut self, completion: Completion, now: u64) {
        match (self.phase, completion) {
            (_, Completion::Rndis | Completion::Nothing) => {}
            (Phase::Init, Completion::Init) => self.enter(Phase::Config, now),
            (Phase::ReceiveBuffer, Completion::ReceiveBuffer(geometry)) => {
                self.receive.open(geometry, self.config.coalescing);
                self.enter(Phase::SendBuffer, now);
            }
            (Phase::SendBuffer, Completion::SendBuffer(geometry)) => {
                self.send.open(geometry);
                self.enter(Phase::Rndis(0), now);
            }
            (Phase::SubChannels, Completion::SubChannels(count)) => {
                self.sub_channels_granted(count, now);
            }
            // One request of the handshake is outstanding at a time and NVS-03 ties
            // its answer to it, so no host gets here; the order holds by itself too.
            _ => self.fail_noted(Violation::new(Rule::NVS_50, 0, 0u32)),
        }
    }

    /// The response to the request that waited.
    pub(crate) fn responded(&mut self, request: judged::Request, response: Response, now: u64) {
        match response {
            Response::Value(Value::Mac(mac)) => {
                if request == judged::Request::Query(oid::CURRENT_ADDRESS) {
                    self.mac = Some(mac);
                }
            }
            Response::Value(Value::Mtu(mtu)) => self.mtu = mtu,
            Response::Value(Value::LinkSpeed(speed)) => self.link_speed = Some(speed),
            Response::Value(Value::LinkUp(up)) => {
                self.link.hear(up);
            }
            Response::Value(Value::Offloads(offloads)) => self.offloads = offloads,
            Response::Value(Value::Scale {
                queues,
                table,
                hashes,
            }) => {
                self.subs.scale = Some(Scale {
                    queues,
                    table,
                    hashes,
                });
            }
            Response::Initialized(allowed) => self.allowed = Some(allowed),
            Response::Value(Value::Number(_)) | Response::Set => {}
        }
        self.spread.answered(request, response);
        self.next_request(now);
    }

    /// The request that waited has failed.
    pub(crate) fn request_failed(&mut self, violation: Violation, now: u64) {
        self.awaited = None;
        let optional = match self.phase {
            Phase::Rndis(step) => SCRIPT.get(step).is_some_and(|(_, optional)| *optional),
            // A filter that cannot be switched off is no reason not to halt.
            Phase::FilterOff => true,
            // Frames that are not spread come on the primary.
            Phase::Ready => true,
            _ => false,
        };
        if optional {
            self.counters.validation.violation(violation);
            if self.setting_offloads() {
                // What the host did not agree to is not used.
                self.offloads = Offloads::default();
            }
            self.next_request(now);
        } else {
            self.fail_noted(violation);
        }
    }

    /// The request at hand is the one that switches offloads on.
    fn setting_offloads(&self) -> bool {
        let Phase::Rndis(step) = self.phase else {
            return false;
        };
        let setting = judged::Request::Set(oid::TCP_OFFLOAD_PARAMETERS);
        SCRIPT
            .get(step)
            .is_some_and(|(request, _)| *request == setting)
    }

    fn next_request(&mut self, now: u64) {
        match self.phase {
            Phase::Rndis(step) => {
                self.enter(Phase::Rndis(step.saturating_add(1)), now);
                if self.setting_offloads() && self.offloads == Offloads::default() {
                    self.enter(Phase::Rndis(step.saturating_add(2)), now);
                }
            }
            Phase::FilterOff => self.enter(Phase::Halt, now),
            _ => {}
        }
    }
}

/// The offload structure that a query names, by its header: as Linux asks
/// (`rndis_filter_query_device`).
fn wanted_capabilities() -> rndis::Offload {
    rndis::Offload {
        header: ObjectHeader::new(object::OFFLOAD, 3, size_of::<rndis::Offload>()),
        ..Default::default()
    }
}

/// What is switched on: all that the host has and that we use (RND-58); as Linux
/// `rndis_netdev_set_hwcaps` does it.
fn offload_parameters(host: &Offloads) -> rndis::OffloadParameters {
    use offload_parameter::{OFF, TX_OR_ON, TX_RX};
    let sums = |network, transport| match host.checksum(network, transport) {
        true => TX_RX,
        false => OFF,
    };
    let large = |network| match host.large_send(network) {
        Some(_) => TX_OR_ON,
        None => OFF,
    };
    rndis::OffloadParameters {
        header: ObjectHeader::new(object::DEFAULT, 3, size_of::<rndis::OffloadParameters>()),
        tcp_ipv4_checksum: sums(Network::V4, Transport::Tcp),
        udp_ipv4_checksum: sums(Network::V4, Transport::Udp),
        tcp_ipv6_checksum: sums(Network::V6, Transport::Tcp),
        udp_ipv6_checksum: sums(Network::V6, Transport::Udp),
        lso_v2_ipv4: large(Network::V4),
        lso_v2_ipv6: large(Network::V6),
        // Until the guest's driver can take what is coalesced.
        rsc_ipv4: OFF,
        rsc_ipv6: OFF,
        ..Default::default()
    }
}

/// Largest value of a request.
const VALUE: usize = size_of::<rndis::Offload>();
const _: () = assert!(VALUE >= size_of::<rndis::OffloadParameters>());

/// An RNDIS request: its structure, and the value behind it.
pub(crate) struct RequestMessage {
    bytes: [u8; size_of::<rndis::Request>()],
    len: usize,
    value: [u8; VALUE],
    value_len: usize,
}

impl RequestMessage {
    pub fn new(request: judged::Request, request_id: u32, value: &[u8]) -> RequestMessage {
        const BEHIND: u32 = (size_of::<rndis::Request>() - rndis::OFFSET_BASE) as u32;
        let mut message = RequestMessage {
            bytes: [0; size_of::<rndis::Request>()],
            len: 0,
            value: [0; VALUE],
            value_len: value.len().min(VALUE),
        };
        for (to, from) in message.value.iter_mut().zip(value) {
            *to = *from;
        }
        let header = |message_type: u32, length: usize| rndis::Header {
            message_type: message_type.into(),
            length: (length.saturating_add(value.len()) as u32).into(),
        };
        let (message_type, oid) = match request {
            judged::Request::Initialize => {
                let (major, minor) = rndis::VERSION;
                let initialize = rndis::Initialize {
                    header: header(rndis::message::INITIALIZE, size_of::<rndis::Initialize>()),
                    request_id: request_id.into(),
                    major: major.into(),
                    minor: minor.into(),
                    max_transfer: limits::MAX_TRANSFER.into(),
                };
                message.put(initialize.as_bytes());
                return message;
            }
            judged::Request::Query(oid) => (rndis::message::QUERY, oid),
            judged::Request::Set(oid) => (rndis::message::SET, oid),
        };
        let request = rndis::Request {
            header: header(message_type, size_of::<rndis::Request>()),
            request_id: request_id.into(),
            oid: oid.into(),
            buffer_length: (value.len() as u32).into(),
            buffer_offset: BEHIND.into(),
            vc_handle: 0.into(),
        };
        message.put(request.as_bytes());
        message
    }

    fn put(&mut self, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.len = bytes.len();
    }

    pub fn parts(&self) -> [&[u8]; 2] {
        [
            self.bytes.get(..self.len).unwrap_or_default(),
            self.value.get(..self.value_len).unwrap_or_default(),
        ]
    }
}
