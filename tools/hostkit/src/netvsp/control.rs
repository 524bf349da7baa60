//! RNDIS control messages: initialise, query, set, keepalive, halt, indicate.
use super::channel::Channel;
use super::offload::{self, Enabled};
use super::steering::{Steering, TABLE_ENTRIES};
use super::transmit::MAX_PACKETS;
use super::{Bytes, Env, NicError, parse, part};
use abi::rndis::{
    self, Header, IndicateStatus, Initialize, InitializeComplete, LinkState, ObjectHeader,
    QueryComplete, Request, RssCapabilities, StatusComplete, hash, message, object, oid,
    rss_capability, status,
};
use alloc::vec::Vec;
use zerocopy::{Immutable, IntoBytes};

/// Largest message that INITIALIZE_COMPLETE allows.
const MAX_TRANSFER: u32 = 0x4000;
/// Power of two that messages in one buffer are aligned to.
pub(super) const ALIGNMENT_FACTOR: u32 = 3;
/// Hashes in the RSS capabilities: over TCP, UDP and IP of both versions.
const HASHES: u32 = hash::TOEPLITZ
    | rss_capability::TCP_IPV4
    | rss_capability::TCP_IPV6
    | rss_capability::UDP_IPV4
    | rss_capability::UDP_IPV6;
/// Control answers that may wait for a slot.
const MAX_CONTROL: usize = 64;

/// State of the RNDIS device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rndis {
    pub initialized: bool,
    /// Packet filter, 0 = receive nothing.
    pub filter: u32,
    /// Link state as the guest was last told.
    link: bool,
    /// Offloads that the guest has switched on.
    pub enabled: Enabled,
}

fn header(kind: u32, length: usize) -> Header {
    Header {
        message_type: kind.into(),
        length: (length as u32).into(),
    }
}

impl Channel {
    /// One control message of the guest.
    pub fn control(&mut self, env: &mut Env<'_>, bytes: &[u8]) -> Result<(), NicError> {
        let head: Header = parse(bytes, "control-short")?;
        let kind = head.message_type.get();
        *env.counters.rndis_in.entry(kind).or_default() += 1;
        let m = part(bytes, 0, head.length.get() as usize, "control-length")?;
        if self.control_queue.len() >= MAX_CONTROL {
            return Err(NicError::Protocol("control-flood"));
        }
        if !self.rndis.initialized && !matches!(kind, message::INITIALIZE | message::HALT) {
            return Err(NicError::Protocol("control-before-initialize"));
        }
        match kind {
            message::INITIALIZE => self.initialize(env, m),
            message::QUERY => self.query(env, m),
            message::SET => self.set(m),
            message::KEEPALIVE => {
                let request: rndis::Keepalive = parse(m, "keepalive-short")?;
                self.answer(status_answer(
                    message::KEEPALIVE_COMPLETE,
                    request.request_id.get(),
                    status::SUCCESS,
                ));
                Ok(())
            }
            // The answer to a keepalive of ours; only scenarios send one.
            message::KEEPALIVE_COMPLETE => Ok(()),
            message::HALT => {
                self.rndis = Rndis::default();
                self.steering = Steering::default();
                Ok(())
            }
            _ => Err(NicError::Protocol("control-type")),
        }
    }

    fn answer<T: IntoBytes + Immutable>(&mut self, message: T) {
        self.control_queue.push_back(message.as_bytes().to_vec());
    }

    fn initialize(&mut self, env: &mut Env<'_>, m: &[u8]) -> Result<(), NicError> {
        let request: Initialize = parse(m, "initialize-short")?;
        if self.rndis.initialized {
            return Err(NicError::Protocol("initialize-twice"));
        }
        self.rndis.initialized = true;
        self.rndis.link = env.backend.link_up();
        self.answer(InitializeComplete {
            header: header(
                message::INITIALIZE_COMPLETE,
                size_of::<InitializeComplete>(),
            ),
            request_id: request.request_id,
            status: status::SUCCESS.into(),
            major: rndis::VERSION.0.into(),
            minor: rndis::VERSION.1.into(),
            device_flags: rndis::DEVICE_CONNECTIONLESS.into(),
            medium: rndis::MEDIUM_802_3.into(),
            max_packets_per_message: MAX_PACKETS.into(),
            max_transfer: MAX_TRANSFER.into(),
            alignment_factor: ALIGNMENT_FACTOR.into(),
            ..Default::default()
        });
        self.send_vf_association(env);
        Ok(())
    }

    fn query(&mut self, env: &mut Env<'_>, m: &[u8]) -> Result<(), NicError> {
        let request: Request = parse(m, "query-short")?;
        let input = request_buffer(m, &request)?;
        let (status, data) = match self.value(env, request.oid.get(), input) {
            Some(data) => (status::SUCCESS, data),
            None => (status::NOT_SUPPORTED, Vec::new()),
        };
        let offset = if data.is_empty() {
            0
        } else {
            size_of::<QueryComplete>() - rndis::OFFSET_BASE
        };
        let head = QueryComplete {
            header: header(
                message::QUERY_COMPLETE,
                size_of::<QueryComplete>() + data.len(),
            ),
            request_id: request.request_id,
            status: status.into(),
            buffer_length: (data.len() as u32).into(),
            buffer_offset: (offset as u32).into(),
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(&data);
        self.control_queue.push_back(bytes);
        Ok(())
    }

    /// Value of an OID; `None` if the device does not have it.
    fn value(&self, env: &mut Env<'_>, oid: u32, input: &[u8]) -> Option<Bytes> {
        let word = |w: u32| Some(w.to_le_bytes().to_vec());
        match oid {
            oid::PERMANENT_ADDRESS | oid::CURRENT_ADDRESS => {
                let mac = self.config.mac.unwrap_or_else(|| env.backend.mac());
                Some(mac.to_vec())
            }
            oid::MAXIMUM_FRAME_SIZE => word(self.mtu - 14),
            oid::MAXIMUM_TOTAL_SIZE => word(self.mtu),
            oid::LINK_SPEED => word(self.config.link_speed),
            oid::MEDIA_CONNECT_STATUS => word(u32::from(!env.backend.link_up())),
            oid::CURRENT_PACKET_FILTER => word(self.rndis.filter),
            oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES | oid::TCP_OFFLOAD_CURRENT_CONFIG => Some(
                offload::capabilities(input, self.config.large_send, self.coalesces()),
            ),
            oid::RECEIVE_SCALE_CAPABILITIES if self.config.max_sub_channels > 0 => {
                let capabilities = RssCapabilities {
                    header: ObjectHeader::new(
                        object::RSS_CAPABILITIES,
                        2,
                        size_of::<RssCapabilities>(),
                    ),
                    flags: HASHES.into(),
                    interrupt_messages: 1.into(),
                    receive_queues: (u32::from(self.config.max_sub_channels) + 1).into(),
                    table_entries: (TABLE_ENTRIES as u16).into(),
                };
                Some(capabilities.as_bytes().to_vec())
            }
            oid::LINK_STATE => {
                let speed = u64::from(self.config.link_speed) * 100;
                let state = LinkState {
                    header: ObjectHeader::new(object::DEFAULT, 1, size_of::<LinkState>()),
                    connect_state: if env.backend.link_up() { 1 } else { 2 }.into(),
                    duplex: 2.into(),
                    tx_speed: speed.into(),
                    rx_speed: speed.into(),
                    ..Default::default()
                };
                Some(state.as_bytes().to_vec())
            }
            oid::FRIENDLY_NAME => {
                let mut name: Bytes = "Network Adapter"
                    .encode_utf16()
                    .flat_map(u16::to_le_bytes)
                    .collect();
                name.resize(512, 0);
                Some(name)
            }
            _ => None,
        }
    }

    fn set(&mut self, m: &[u8]) -> Result<(), NicError> {
        let request: Request = parse(m, "set-short")?;
        let input = request_buffer(m, &request)?;
        let mut offloads_set = false;
        let status = match (request.oid.get(), input) {
            (oid::CURRENT_PACKET_FILTER, [a, b, c, d, ..]) => {
                self.rndis.filter = u32::from_le_bytes([*a, *b, *c, *d]);
                status::SUCCESS
            }
            (oid::CURRENT_PACKET_FILTER, _) => status::INVALID_DATA,
            (oid::TCP_OFFLOAD_PARAMETERS, parameters) => {
                let offered = self.config.large_send != 0;
                let coalesces = self.coalesces();
                offloads_set = self.rndis.enabled.set(parameters, offered, coalesces);
                if offloads_set {
                    status::SUCCESS
                } else {
                    status::INVALID_DATA
                }
            }
            (oid::RECEIVE_SCALE_PARAMETERS, p) if self.config.max_sub_channels > 0 => {
                let channels = self.granted.unwrap_or(0) + 1;
                if self.steering.set(p, channels)? {
                    status::SUCCESS
                } else {
                    status::INVALID_DATA
                }
            }
            (oid::OFFLOAD_ENCAPSULATION | oid::RNDIS_CONFIG_PARAMETER, _) => status::SUCCESS,
            _ => status::NOT_SUPPORTED,
        };
        self.answer(status_answer(
            message::SET_COMPLETE,
            request.request_id.get(),
            status,
        ));
        if offloads_set {
            let now = offload::capabilities(&[], self.config.large_send, self.coalesces());
            self.indicate(status::TASK_OFFLOAD_CURRENT_CONFIG, &now);
        }
        Ok(())
    }

    /// Queues an INDICATE_STATUS.
    pub fn indicate(&mut self, status: u32, data: &[u8]) {
        let offset = if data.is_empty() {
            0
        } else {
            size_of::<IndicateStatus>() - rndis::OFFSET_BASE
        };
        let head = IndicateStatus {
            header: header(
                message::INDICATE_STATUS,
                size_of::<IndicateStatus>() + data.len(),
            ),
            status: status.into(),
            buffer_length: (data.len() as u32).into(),
            buffer_offset: (offset as u32).into(),
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        self.control_queue.push_back(bytes);
    }

    /// Tells the guest when the link changed.
    pub fn rndis_poll(&mut self, env: &mut Env<'_>) -> Result<(), NicError> {
        let up = env.backend.link_up();
        if self.rndis.initialized && up != self.rndis.link && self.control_queue.len() < MAX_CONTROL
        {
            self.rndis.link = up;
            self.indicate(
                if up {
                    status::MEDIA_CONNECT
                } else {
                    status::MEDIA_DISCONNECT
                },
                &[],
            );
        }
        Ok(())
    }
}

fn status_answer(kind: u32, request_id: u32, status: u32) -> StatusComplete {
    let header = header(kind, size_of::<StatusComplete>());
    StatusComplete {
        header,
        request_id: request_id.into(),
        status: status.into(),
    }
}

/// Input of a QUERY or SET. Offset and length may both be 0.
fn request_buffer<'m>(m: &'m [u8], request: &Request) -> Result<&'m [u8], NicError> {
    let len = request.buffer_length.get() as usize;
    if len == 0 {
        return Ok(&[]);
    }
    let body = m.get(rndis::OFFSET_BASE..).unwrap_or_default();
    part(
        body,
        request.buffer_offset.get() as usize,
        len,
        "request-buffer",
    )
}
