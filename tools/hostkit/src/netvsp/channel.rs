//! The open channel: the loop over ring packets, and NVSP.
use super::control::Rndis;
use super::receive::ReceiveBuffer;
use super::transmit::{self, SEND_SECTION};
use super::{Bytes, Env, NicConfig, NicError, NicState, PACKETS_PER_POLL, Polled, parse};
use crate::fault::Layer;
use crate::mem::VmMemory;
use crate::pages::PageList;
use crate::ring::{InRing, OutRing, Packet, packet};
use crate::vmbus::RingRequest;
use abi::nvsp::{
    self, Init, InitComplete, ReceiveSection, SendBuffer, SendNdisConfig, SendNdisVersion,
    SendReceiveBufferComplete, SendRndisPacket, SendRndisPacketComplete, SendSendBufferComplete,
    SendVfAssociation, SubChannelComplete, SubChannelRequest, capability, channel_type, message,
    status, version,
};
use abi::vmbus::{PACKET_FLAG_COMPLETION_REQUESTED, PacketType};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::{Immutable, IntoBytes};

/// Versions in order.
const VERSIONS: [u32; 6] = [
    version::V1,
    version::V2,
    version::V4,
    version::V5,
    version::V6,
    version::V61,
];
/// Longest chain of buffers in a packet, as Hyper-V reports it.
const MAX_MDL_CHAIN: u32 = 34;
/// NVSP messages before 6.1 have this size.
const LEGACY_SIZE: usize = 28;
/// Transaction id of the VF association (OpenVMM).
const VF_TRANSACTION: u64 = 1 << 63;
/// Completions that may wait for ring space before reading stops.
const MAX_WAITING: usize = 64;

/// An open channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub relid: u32,
    pub config: NicConfig,
    in_ring: InRing,
    out_ring: OutRing,
    pub signalled: bool,
    backlog: bool,
    /// Packets that wait for ring space.
    pub out_queue: VecDeque<Bytes>,
    /// RNDIS control messages that wait for a receive slot.
    pub control_queue: VecDeque<Bytes>,
    /// RNDIS messages of a scenario that wait for a receive slot, past its hooks.
    pub late_queue: VecDeque<Bytes>,
    pub version: Option<u32>,
    capabilities: u64,
    configured: bool,
    ndis_version: bool,
    /// Largest frame with Ethernet header.
    pub mtu: u32,
    pub receive: Option<ReceiveBuffer>,
    send: Option<Arc<PageList>>,
    pub rndis: Rndis,
    signal: bool,
}

impl Channel {
    pub fn open(mem: &dyn VmMemory, request: &RingRequest, config: &NicConfig) -> Option<Self> {
        let in_ring = InRing::new(&request.ring, request.downstream_offset)?;
        let out_ring = OutRing::new(&request.ring, request.downstream_offset)?;
        out_ring.start(mem).ok()?;
        Some(Channel {
            relid: request.relid,
            config: *config,
            in_ring,
            out_ring,
            signalled: false,
            backlog: false,
            out_queue: VecDeque::new(),
            control_queue: VecDeque::new(),
            late_queue: VecDeque::new(),
            version: None,
            capabilities: 0,
            configured: false,
            ndis_version: false,
            mtu: config.mtu,
            receive: None,
            send: None,
            rndis: Rndis::default(),
            signal: false,
        })
    }

    pub fn state(&self) -> NicState {
        NicState {
            open: true,
            version: self.version,
            rndis: self.rndis.initialized,
            filter: self.rndis.filter,
            slots_in_flight: self.receive.as_ref().map_or(0, ReceiveBuffer::in_flight),
        }
    }

    pub fn poll(&mut self, env: &mut Env<'_>, polled: &mut Polled) -> Result<(), NicError> {
        self.signal = false;
        let result = self.step(env, polled);
        polled.signal = self.signal;
        result
    }

    fn step(&mut self, env: &mut Env<'_>, polled: &mut Polled) -> Result<(), NicError> {
        let waited = self.out_ring.is_blocked();
        if waited && !self.signalled {
            // The guest owes a signal once there is room; a real host waits for it.
            return Ok(());
        }
        self.flush(env)?;
        let signalled = core::mem::take(&mut self.signalled);
        if signalled || self.backlog {
            self.drain(env, signalled, waited)?;
        }
        self.rndis_poll(env)?;
        self.receive_poll(env)?;
        self.flush(env)?;
        polled.more = self.backlog && self.out_queue.is_empty();
        Ok(())
    }

    /// Reads packets until the ring is empty, the budget is used up or answers
    /// wait for space in the other ring. While reading, signals are masked.
    fn drain(&mut self, env: &mut Env<'_>, signalled: bool, waited: bool) -> Result<(), NicError> {
        let mut budget = PACKETS_PER_POLL;
        let mut first = true;
        self.in_ring.set_mask(env.mem, true)?;
        loop {
            if budget == 0 || self.out_queue.len() >= MAX_WAITING {
                self.backlog = true;
                break;
            }
            match self.in_ring.next(env.mem)? {
                Some(packet) => {
                    if core::mem::take(&mut first) && signalled {
                        env.counters.signals_needed += 1;
                    }
                    budget -= 1;
                    self.packet(env, packet)?;
                }
                None => {
                    self.signal |= self.in_ring.publish(env.mem)?;
                    self.in_ring.set_mask(env.mem, false)?;
                    self.backlog = false;
                    if !self.in_ring.has_data(env.mem)? {
                        break;
                    }
                    self.in_ring.set_mask(env.mem, true)?;
                }
            }
        }
        self.signal |= self.in_ring.publish(env.mem)?;
        if first && signalled {
            // Room in a full ring is a reason to signal, too.
            if waited && !self.out_ring.is_blocked() {
                env.counters.signals_needed += 1;
            } else {
                env.counters.signals_not_needed += 1;
            }
        }
        Ok(())
    }

    /// Moves waiting packets into the ring and shows them to the guest.
    pub fn flush(&mut self, env: &mut Env<'_>) -> Result<(), NicError> {
        while let Some(front) = self.out_queue.front() {
            if !self.out_ring.write(env.mem, front)? {
                break;
            }
            let kind = front
                .get(..2)
                .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            *env.counters.packets_out.entry(kind).or_default() += 1;
            self.out_queue.pop_front();
        }
        self.signal |= self.out_ring.publish(env.mem)?;
        Ok(())
    }

    /// Queues a packet to the guest, as often as the faults want it.
    pub fn queue(&mut self, env: &mut Env<'_>, bytes: Bytes) {
        let passed = env.faults.pass(Layer::Packet, self.relid, bytes);
        let (bytes, copies) = (passed.bytes, passed.copies);
        for _ in 1..copies {
            self.out_queue.push_back(bytes.clone());
        }
        if copies > 0 {
            self.out_queue.push_back(bytes);
        }
    }

    /// Writes over a word of a ring's control page.
    pub fn poke(&self, mem: &dyn VmMemory, incoming: bool, at: usize, value: u32) {
        let done = if incoming {
            self.out_ring.poke(mem, at, value)
        } else {
            self.in_ring.poke(mem, at, value)
        };
        if let Err(e) = done {
            log::warn!("scenario: poke: {e:?}");
        }
    }

    /// An NVSP message at the size of the version in use.
    pub fn nvsp<T: IntoBytes + Immutable>(&self, message: &T) -> Vec<u8> {
        let size = if self.version == Some(version::V61) {
            nvsp::MESSAGE_SIZE_V61
        } else {
            LEGACY_SIZE
        };
        let mut bytes = message.as_bytes().to_vec();
        bytes.resize(size.max(bytes.len()), 0);
        bytes
    }

    /// Completes a packet if the guest asked for it. Hyper-V does not answer
    /// transaction id 0.
    fn complete(&mut self, env: &mut Env<'_>, request: &Packet, payload: &[u8]) {
        if request.wants_completion() && request.transaction_id != 0 {
            self.queue(
                env,
                packet(
                    PacketType::COMPLETION,
                    0,
                    request.transaction_id,
                    &[],
                    payload,
                ),
            );
        }
    }

    fn packet(&mut self, env: &mut Env<'_>, p: Packet) -> Result<(), NicError> {
        *env.counters.packets_in.entry(p.kind.0).or_default() += 1;
        if p.flags & !PACKET_FLAG_COMPLETION_REQUESTED != 0 {
            return Err(NicError::Protocol("packet-flags"));
        }
        match p.kind {
            PacketType::COMPLETION => self.completion(&p),
            PacketType::IN_BAND | PacketType::GPA_DIRECT => self.nvsp_message(env, &p),
            _ => Err(NicError::Protocol("packet-type")),
        }
    }

    /// The guest gives receive slots back.
    fn completion(&mut self, p: &Packet) -> Result<(), NicError> {
        if p.transaction_id == VF_TRANSACTION {
            return Ok(());
        }
        let m: SendRndisPacketComplete = parse(p.payload(), "completion-short")?;
        if m.message_type.get() != message::SEND_RNDIS_PACKET_COMPLETE {
            return Err(NicError::Protocol("completion-type"));
        }
        let freed = self
            .receive
            .as_mut()
            .is_some_and(|r| r.complete(p.transaction_id));
        if freed {
            Ok(())
        } else {
            Err(NicError::Protocol("completion-unknown"))
        }
    }

    fn nvsp_message(&mut self, env: &mut Env<'_>, p: &Packet) -> Result<(), NicError> {
        let head: nvsp::Header = parse(p.payload(), "nvsp-short")?;
        let kind = head.message_type.get();
        *env.counters.nvsp_in.entry(kind).or_default() += 1;
        if self.version.is_none() && kind != message::INIT {
            return Err(NicError::Protocol("nvsp-before-init"));
        }
        if p.kind == PacketType::GPA_DIRECT && kind != message::SEND_RNDIS_PACKET {
            return Err(NicError::Protocol("nvsp-not-in-band"));
        }
        match kind {
            message::INIT => self.init(env, p),
            message::SEND_NDIS_CONFIG => self.ndis_config(env, p),
            message::SEND_NDIS_VERSION => {
                let _: SendNdisVersion = parse(p.payload(), "ndis-version-short")?;
                if core::mem::replace(&mut self.ndis_version, true) {
                    return Err(NicError::Protocol("ndis-version-twice"));
                }
                self.complete(env, p, &[]);
                Ok(())
            }
            message::SEND_RECEIVE_BUFFER => self.receive_buffer(env, p),
            message::SEND_SEND_BUFFER => self.send_buffer(env, p),
            message::REVOKE_RECEIVE_BUFFER => {
                self.receive = None;
                self.complete(env, p, &[]);
                Ok(())
            }
            message::REVOKE_SEND_BUFFER => {
                self.send = None;
                self.complete(env, p, &[]);
                Ok(())
            }
            message::SEND_RNDIS_PACKET => self.rndis_packet(env, p),
            message::SUB_CHANNEL => {
                let _: SubChannelRequest = parse(p.payload(), "sub-channel-short")?;
                let answer = SubChannelComplete {
                    message_type: message::SUB_CHANNEL.into(),
                    status: status::FAILURE.into(),
                    count: 0.into(),
                };
                let bytes = self.nvsp(&answer);
                self.complete(env, p, &bytes);
                Ok(())
            }
            message::SWITCH_DATA_PATH => {
                self.complete(env, p, &[]);
                Ok(())
            }
            _ => Err(NicError::Protocol("nvsp-type")),
        }
    }

    fn init(&mut self, env: &mut Env<'_>, p: &Packet) -> Result<(), NicError> {
        let m: Init = parse(p.payload(), "init-short")?;
        if self.version.is_some() {
            return Err(NicError::Protocol("init-twice"));
        }
        let wanted = m.min_version.get()..=m.max_version.get().min(self.config.max_version);
        self.version = VERSIONS.into_iter().rev().find(|v| wanted.contains(v));
        let answer = InitComplete {
            message_type: message::INIT_COMPLETE.into(),
            negotiated_version: if self.version == Some(version::V1) {
                version::V1
            } else {
                u32::MAX
            }
            .into(),
            max_mdl_chain: MAX_MDL_CHAIN.into(),
            status: if self.version.is_some() {
                status::SUCCESS
            } else {
                status::NONE
            }
            .into(),
        };
        let bytes = self.nvsp(&answer);
        self.complete(env, p, &bytes);
        Ok(())
    }

    fn ndis_config(&mut self, env: &mut Env<'_>, p: &Packet) -> Result<(), NicError> {
        let m: SendNdisConfig = parse(p.payload(), "ndis-config-short")?;
        if self.version == Some(version::V1) || self.configured || self.receive.is_some() {
            return Err(NicError::Protocol("ndis-config-order"));
        }
        self.configured = true;
        self.capabilities = m.capabilities.get();
        let mtu = m.mtu.get();
        self.mtu = if (1514..=9216).contains(&mtu) {
            mtu
        } else {
            1514
        };
        self.complete(env, p, &[]);
        Ok(())
    }

    fn receive_buffer(&mut self, env: &mut Env<'_>, p: &Packet) -> Result<(), NicError> {
        let m: SendBuffer = parse(p.payload(), "receive-buffer-short")?;
        if self.receive.is_some() {
            return Err(NicError::Protocol("receive-buffer-twice"));
        }
        if self.version != Some(version::V1) && !self.configured {
            return Err(NicError::Protocol("receive-buffer-before-config"));
        }
        let pages = (env.gpadl)(m.gpadl.get()).filter(|_| m.id.get() == nvsp::RECEIVE_BUFFER_ID);
        self.receive = pages.and_then(|pages| ReceiveBuffer::new(pages, self.mtu));
        let mut answer = SendReceiveBufferComplete {
            message_type: message::SEND_RECEIVE_BUFFER_COMPLETE.into(),
            status: status::FAILURE.into(),
            ..Default::default()
        };
        if let Some(r) = &self.receive {
            answer.status = status::SUCCESS.into();
            answer.section_count = 1.into();
            answer.section = ReceiveSection {
                offset: 0.into(),
                sub_allocation_size: r.slot_size().into(),
                sub_allocation_count: r.slots().into(),
                end_offset: (r.slot_size() * r.slots()).into(),
            };
        }
        let bytes = self.nvsp(&answer);
        self.complete(env, p, &bytes);
        Ok(())
    }

    fn send_buffer(&mut self, env: &mut Env<'_>, p: &Packet) -> Result<(), NicError> {
        let m: SendBuffer = parse(p.payload(), "send-buffer-short")?;
        if self.send.is_some() {
            return Err(NicError::Protocol("send-buffer-twice"));
        }
        self.send = (env.gpadl)(m.gpadl.get()).filter(|pages| pages.len() >= SEND_SECTION);
        let ok = self.send.is_some();
        let answer = SendSendBufferComplete {
            message_type: message::SEND_SEND_BUFFER_COMPLETE.into(),
            status: if ok { status::SUCCESS } else { status::FAILURE }.into(),
            section_size: if ok { SEND_SECTION as u32 } else { 0 }.into(),
        };
        let bytes = self.nvsp(&answer);
        self.complete(env, p, &bytes);
        Ok(())
    }

    /// RNDIS in a section of the send buffer or in pages that the packet names.
    fn rndis_packet(&mut self, env: &mut Env<'_>, p: &Packet) -> Result<(), NicError> {
        let m: SendRndisPacket = parse(p.payload(), "rndis-packet-short")?;
        if !p.wants_completion() {
            return Err(NicError::Protocol("rndis-without-completion"));
        }
        if self.receive.is_none() {
            return Err(NicError::Protocol("rndis-before-receive-buffer"));
        }
        let section = m.section_index.get();
        let bytes = if section == nvsp::NO_SECTION {
            env.counters.tx_direct += 1;
            transmit::gather(env.mem, p)?
        } else {
            env.counters.tx_sections += 1;
            let pages = self
                .send
                .as_ref()
                .ok_or(NicError::Protocol("no-send-buffer"))?;
            let mut bytes = transmit::section(env.mem, pages, section, m.section_size.get())?;
            // Linux fills a section with whole messages and the header of one more,
            // whose frame follows in pages (`netvsc_send`, `cp_partial`).
            if p.kind == PacketType::GPA_DIRECT {
                env.counters.tx_mixed += 1;
                bytes.extend(transmit::gather(env.mem, p)?);
            }
            bytes
        };
        match m.channel_type.get() {
            channel_type::DATA => transmit::frames(env, &self.rndis, self.mtu, &bytes)?,
            channel_type::CONTROL => self.control(env, &bytes)?,
            _ => return Err(NicError::Protocol("rndis-channel-type")),
        }
        let answer = SendRndisPacketComplete {
            message_type: message::SEND_RNDIS_PACKET_COMPLETE.into(),
            status: status::SUCCESS.into(),
        };
        let done = self.nvsp(&answer);
        self.complete(env, p, &done);
        Ok(())
    }

    /// Tells a guest that knows SR-IOV that there is no VF.
    pub fn send_vf_association(&mut self, env: &mut Env<'_>) {
        let knows = self.version >= Some(version::V4) && self.capabilities & capability::SRIOV != 0;
        if knows {
            let m = SendVfAssociation {
                message_type: message::SEND_VF_ASSOCIATION.into(),
                ..Default::default()
            };
            let bytes = self.nvsp(&m);
            let flags = PACKET_FLAG_COMPLETION_REQUESTED;
            self.queue(
                env,
                packet(PacketType::IN_BAND, flags, VF_TRANSACTION, &[], &bytes),
            );
        }
    }
}
