//! The script from INIT to a NIC that is ready, and back. One phase after the
//! other (NVS-50); each that waits for the host has a deadline.

use crate::limits;
use crate::nic::Nic;
use crate::requests::Request;
use crate::send::send_message;
use abi::nvsp::{self, channel_type};
use abi::rndis::{self, filter, oid};
use memory::SharedMemory;
use validate::nvsp::{Awaited, Completion};
use validate::rndis::{self as judged, AwaitedResponse, Response, Value};
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
const SCRIPT: [(judged::Request, bool); 7] = [
    (judged::Request::Initialize, false),
    (judged::Request::Query(oid::PERMANENT_ADDRESS), true),
    (judged::Request::Query(oid::CURRENT_ADDRESS), false),
    (judged::Request::Query(oid::MAXIMUM_FRAME_SIZE), false),
    (judged::Request::Query(oid::LINK_SPEED), true),
    (judged::Request::Query(oid::MEDIA_CONNECT_STATUS), false),
    (judged::Request::Set(oid::CURRENT_PACKET_FILTER), false),
];

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
                Phase::Rndis(step) => match SCRIPT.get(step) {
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
            section: None,
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
        // NVS-10: neither SR-IOV nor receive coalescing. Teaming is what lets
        // the host send link speed events.
        let message = nvsp::SendNdisConfig {
            message_type: nvsp::message::SEND_NDIS_CONFIG.into(),
            mtu: self
                .config
                .mtu
                .saturating_add(judged::packet::MIN_FRAME)
                .into(),
            reserved: 0.into(),
            capabilities: nvsp::capability::TEAMING.into(),
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
            section: None,
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
        let on = self.phase != Phase::FilterOff;
        let value = if on {
            packet_filter(self.config.promiscuous)
        } else {
            0
        };
        let parts = request_message(request, request_id, value);
        self.sent = self.send_rndis(channel, channel_type::CONTROL, parts.parts(), 0, now)?;
        if self.sent {
            self.next_request_id = request_id.wrapping_add(1);
            let frame = self.mtu.saturating_add(judged::packet::FRAME_OVERHEAD);
            // The permanent address is for display; the current one is ours.
            let permanent = request == judged::Request::Query(oid::PERMANENT_ADDRESS);
            self.awaited = Some(AwaitedResponse {
                request_id,
                request,
                transfer: frame.saturating_add(size_of::<rndis::Packet>() as u32),
                mtu: self.config.mtu,
                mac: if permanent { None } else { self.config.mac },
                enforce_medium: self.config.enforce_unmeasured,
            });
        }
        Ok(())
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
        let parts = [message.as_bytes(), &[]];
        if self.send_rndis(channel, channel_type::CONTROL, parts, 0, now)? {
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
                self.receive.open(geometry);
                self.enter(Phase::SendBuffer, now);
            }
            (Phase::SendBuffer, Completion::SendBuffer(geometry)) => {
                self.send.open(geometry);
                self.enter(Phase::Rndis(0), now);
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
            Response::Value(Value::Number(_)) | Response::Initialized(_) | Response::Set => {}
        }
        self.next_request(now);
    }

    /// The request that waited has failed.
    pub(crate) fn request_failed(&mut self, violation: Violation, now: u64) {
        self.awaited = None;
        let optional = match self.phase {
            Phase::Rndis(step) => SCRIPT.get(step).is_some_and(|(_, optional)| *optional),
            // A filter that cannot be switched off is no reason not to halt.
            Phase::FilterOff => true,
            _ => false,
        };
        if optional {
            self.counters.validation.violation(violation);
            self.next_request(now);
        } else {
            self.fail_noted(violation);
        }
    }

    fn next_request(&mut self, now: u64) {
        match self.phase {
            Phase::Rndis(step) => self.enter(Phase::Rndis(step.saturating_add(1)), now),
            Phase::FilterOff => self.enter(Phase::Halt, now),
            _ => {}
        }
    }
}

/// An RNDIS request: its structure, and the value that a SET has behind it.
enum RequestMessage {
    Initialize(rndis::Initialize),
    Query(rndis::Request),
    Set(rndis::Request, [u8; 4]),
}

impl RequestMessage {
    fn parts(&self) -> [&[u8]; 2] {
        match self {
            RequestMessage::Initialize(message) => [message.as_bytes(), &[]],
            RequestMessage::Query(message) => [message.as_bytes(), &[]],
            RequestMessage::Set(message, value) => [message.as_bytes(), value],
        }
    }
}

fn request_message(request: judged::Request, request_id: u32, value: u32) -> RequestMessage {
    const BEHIND: u32 = (size_of::<rndis::Request>() - rndis::OFFSET_BASE) as u32;
    let header = |message_type: u32, length: usize| rndis::Header {
        message_type: message_type.into(),
        length: (length as u32).into(),
    };
    let with_oid = |message_type: u32, oid: u32, value: u32| rndis::Request {
        header: header(
            message_type,
            size_of::<rndis::Request>().saturating_add(value as usize),
        ),
        request_id: request_id.into(),
        oid: oid.into(),
        buffer_length: value.into(),
        buffer_offset: BEHIND.into(),
        vc_handle: 0.into(),
    };
    match request {
        judged::Request::Initialize => {
            let (major, minor) = rndis::VERSION;
            RequestMessage::Initialize(rndis::Initialize {
                header: header(rndis::message::INITIALIZE, size_of::<rndis::Initialize>()),
                request_id: request_id.into(),
                major: major.into(),
                minor: minor.into(),
                max_transfer: limits::MAX_TRANSFER.into(),
            })
        }
        judged::Request::Query(oid) => {
            RequestMessage::Query(with_oid(rndis::message::QUERY, oid, 0))
        }
        judged::Request::Set(oid) => {
            RequestMessage::Set(with_oid(rndis::message::SET, oid, 4), value.to_le_bytes())
        }
    }
}
