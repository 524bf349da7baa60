//! The open channel: the loop over ring packets, and NVSP.
use super::control::Rndis;
use super::offload::Limits;
use super::port::Port;
use super::receive::ReceiveBuffer;
use super::steering::Steering;
use super::transmit::{self, SEND_SECTION};
use super::{Bytes, Env, NicConfig, NicError, NicState, PACKETS_PER_POLL, Polled, parse};
use crate::fault::Layer;
use crate::mem::VmMemory;
use crate::pages::PageList;
use crate::ring::{Packet, packet};
use crate::vmbus::RingRequest;
use abi::nvsp::{
    self, Init, InitComplete, ReceiveSection, SendBuffer, SendIndirectionTable, SendNdisConfig,
    SendNdisVersion, SendReceiveBufferComplete, SendRndisPacket, SendRndisPacketComplete,
    SendSendBufferComplete, SendVfAssociation, SubChannelComplete, SubChannelRequest, capability,
    channel_type, message, status, version,
};
use abi::vmbus::{PACKET_FLAG_COMPLETION_REQUESTED, PacketType};
use alloc::collections::{BTreeMap, VecDeque};
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
/// Operation of a sub-channel request.
const SUB_CHANNEL_ALLOCATE: u32 = 1;
/// Completions that may wait for ring space before reading stops.
const MAX_WAITING: usize = 64;

/// The NIC behind an open primary channel. Its sub-channels share buffers and
/// RNDIS; whatever is done at a time is done for the channel in `port`.
#[derive(Debug)]
pub(super) struct Channel {
    /// The channel at hand; the primary between two polls.
    pub port: Port,
    /// The sub-channels that are open, by index from 1 on.
    pub subs: BTreeMap<u16, Port>,
    /// Sub-channels that were granted, once.
    pub granted: Option<u16>,
    /// Sub-channels that are to be offered.
    pub to_offer: u16,
    pub steering: Steering,
    /// The indirection table for the guest's frames is due.
    table_due: bool,
    pub config: NicConfig,
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
    /// Number of the last coalesced packet.
    pub packets_joined: u16,
}

impl Channel {
    pub fn open(mem: &dyn VmMemory, request: &RingRequest, config: &NicConfig) -> Option<Self> {
        Some(Channel {
            port: Port::open(mem, request, 0)?,
            subs: BTreeMap::new(),
            granted: None,
            to_offer: 0,
            steering: Steering::default(),
            table_due: false,
            config: *config,
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
            packets_joined: 0,
        })
    }

    pub fn state(&self) -> NicState {
        NicState {
            open: true,
            version: self.version,
            rndis: self.rndis.initialized,
            filter: self.rndis.filter,
            slots_in_flight: self.receive.as_ref().map_or(0, ReceiveBuffer::in_flight),
            sub_channels: self.subs.len(),
        }
    }

    /// One turn of every channel that is open. `polled` gets those whose guest
    /// side wants a signal.
    pub fn poll(&mut self, env: &mut Env<'_>, polled: &mut Polled) -> Result<(), NicError> {
        let turns = self.subs.len();
        let mut result = self.turn(env, polled);
        for turn in 0..turns {
            if result.is_err() {
                break;
            }
            let Some(index) = self.subs.keys().nth(turn).copied() else {
                break;
            };
            let turn = self.with_port(index, |channel| channel.turn(env, polled));
            result = turn.unwrap_or(Ok(()));
        }
        result
    }

    fn turn(&mut self, env: &mut Env<'_>, polled: &mut Polled) -> Result<(), NicError> {
        self.port.signal = false;
        let result = self.step(env, polled);
        if self.port.signal {
            polled.signals.push(self.port.relid);
        }
        result
    }

    /// Does something for a sub-channel instead of the primary.
    fn with_port<T>(&mut self, index: u16, f: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let port = self.subs.remove(&index)?;
        let primary = core::mem::replace(&mut self.port, port);
        let result = f(self);
        let port = core::mem::replace(&mut self.port, primary);
        self.subs.insert(index, port);
        Some(result)
    }

    /// Opens a sub-channel that was granted. `false` refuses.
    pub fn open_sub(&mut self, mem: &dyn VmMemory, request: &RingRequest, index: u16) -> bool {
        let granted = self.granted.unwrap_or(0);
        if !(1..=granted).contains(&index) || self.subs.contains_key(&index) {
            return false;
        }
        let Some(port) = Port::open(mem, request, index) else {
            return false;
        };
        self.subs.insert(index, port);
        if self.subs.len() == usize::from(granted) {
            self.table_due = true;
        }
        true
    }

    /// Whether receive coalescing is there for the guest.
    pub fn coalesces(&self) -> bool {
        self.config.coalesce && self.capabilities & capability::RSC != 0
    }

    /// Frames that wait for room on a sub-channel.
    pub fn frames_waiting(&self) -> usize {
        self.subs.values().map(|port| port.frames.len()).sum()
    }

    /// A sub-channel is gone. Frames for it go to the primary from now on; those
    /// that waited for it are lost, and their number is returned.
    pub fn close_sub(&mut self, index: u16) -> usize {
        let Some(port) = self.subs.remove(&index) else {
            return 0;
        };
        if let Some(buffer) = &mut self.receive {
            buffer.abandon(index);
        }
        port.frames.len()
    }

    fn step(&mut self, env: &mut Env<'_>, polled: &mut Polled) -> Result<(), NicError> {
        let waited = self.port.out_ring.is_blocked();
        if waited && !self.port.signalled {
            // The guest owes a signal once there is room; a real host waits for it.
            return Ok(());
        }
        self.port.flush(env)?;
        let signalled = core::mem::take(&mut self.port.signalled);
        if signalled || self.port.backlog {
            self.drain(env, signalled, waited)?;
        }
        if self.port.index == 0 {
            self.rndis_poll(env)?;
            self.send_table(env);
        }
        self.receive_poll(env)?;
        self.port.flush(env)?;
        polled.more |= self.port.backlog && self.port.out_queue.is_empty();
        Ok(())
    }

    /// Reads packets until the ring is empty, the budget is used up or answers
    /// wait for space in the other ring. While reading, signals are masked.
    fn drain(&mut self, env: &mut Env<'_>, signalled: bool, waited: bool) -> Result<(), NicError> {
        let mut budget = PACKETS_PER_POLL;
        let mut first = true;
        self.port.in_ring.set_mask(env.mem, true)?;
        loop {
            if budget == 0 || self.port.out_queue.len() >= MAX_WAITING {
                self.port.backlog = true;
                break;
            }
            match self.port.in_ring.next(env.mem)? {
                Some(packet) => {
                    if core::mem::take(&mut first) && signalled {
                        env.counters.signals_needed += 1;
                    }
                    budget -= 1;
                    self.packet(env, packet)?;
                }
                None => {
                    self.port.signal |= self.port.in_ring.publish(env.mem)?;
                    self.port.in_ring.set_mask(env.mem, false)?;
                    self.port.backlog = false;
                    if !self.port.in_ring.has_data(env.mem)? {
                        break;
                    }
                    self.port.in_ring.set_mask(env.mem, true)?;
                }
            }
        }
        self.port.signal |= self.port.in_ring.publish(env.mem)?;
        if first && signalled {
            // Room in a full ring is a reason to signal, too.
            if waited && !self.port.out_ring.is_blocked() {
                env.counters.signals_needed += 1;
            } else {
                env.counters.signals_not_needed += 1;
            }
        }
        Ok(())
    }

    /// Queues a packet to the guest, as often as the faults want it.
    pub fn queue(&mut self, env: &mut Env<'_>, bytes: Bytes) {
        let passed = env.faults.pass(Layer::Packet, self.port.relid, bytes);
        let (bytes, copies) = (passed.bytes, passed.copies);
        for _ in 1..copies {
            self.port.out_queue.push_back(bytes.clone());
        }
        if copies > 0 {
            self.port.out_queue.push_back(bytes);
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
            let id = request.transaction_id;
            self.queue(env, packet(PacketType::COMPLETION, 0, id, &[], payload));
        }
    }

    /// Completes a packet by an NVSP message.
    fn complete_with<T: IntoBytes + Immutable>(
        &mut self,
        env: &mut Env<'_>,
        request: &Packet,
        message: &T,
    ) -> Result<(), NicError> {
        let bytes = self.nvsp(message);
        self.complete(env, request, &bytes);
        Ok(())
    }

    /// Completes a packet that is done without an answer.
    fn done(&mut self, env: &mut Env<'_>, request: &Packet) -> Result<(), NicError> {
        self.complete(env, request, &[]);
        Ok(())
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
            .is_some_and(|r| r.complete(p.transaction_id, self.port.index));
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
        if self.port.index != 0 && kind != message::SEND_RNDIS_PACKET {
            return Err(NicError::Protocol("nvsp-on-sub-channel"));
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
                self.done(env, p)
            }
            message::SEND_RECEIVE_BUFFER => self.receive_buffer(env, p),
            message::SEND_SEND_BUFFER => self.send_buffer(env, p),
            message::REVOKE_RECEIVE_BUFFER => {
                self.receive = None;
                self.done(env, p)
            }
            message::REVOKE_SEND_BUFFER => {
                self.send = None;
                self.done(env, p)
            }
            message::SEND_RNDIS_PACKET => self.rndis_packet(env, p),
            message::SUB_CHANNEL => self.sub_channels(env, p),
            message::SWITCH_DATA_PATH => self.done(env, p),
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
        self.complete_with(env, p, &answer)
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
        self.done(env, p)
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
        self.complete_with(env, p, &answer)
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
        self.complete_with(env, p, &answer)
    }

    /// Grants as many sub-channels as there may be, once. They are offered after
    /// the answer (OpenVMM, Linux `netvsc_sc_open`).
    fn sub_channels(&mut self, env: &mut Env<'_>, p: &Packet) -> Result<(), NicError> {
        let m: SubChannelRequest = parse(p.payload(), "sub-channel-short")?;
        if self.version < Some(version::V5) || m.operation.get() != SUB_CHANNEL_ALLOCATE {
            return Err(NicError::Protocol("sub-channel-order"));
        }
        let most = u32::from(self.config.max_sub_channels);
        let count = m.count.get().min(most) as u16;
        let fresh = count != 0 && self.granted.is_none();
        if fresh {
            self.granted = Some(count);
            self.to_offer = count;
        }
        let answer = SubChannelComplete {
            message_type: message::SUB_CHANNEL.into(),
            status: if fresh {
                status::SUCCESS
            } else {
                status::FAILURE
            }
            .into(),
            count: if fresh { u32::from(count) } else { 0 }.into(),
        };
        self.complete_with(env, p, &answer)
    }

    /// Tells the guest by which hash it is to send on which channel, once all that
    /// were granted are open.
    fn send_table(&mut self, env: &mut Env<'_>) {
        if !core::mem::take(&mut self.table_due) {
            return;
        }
        let head = SendIndirectionTable {
            message_type: message::SEND_INDIRECTION_TABLE.into(),
            count: nvsp::INDIRECTION_ENTRIES.into(),
            offset: (size_of::<SendIndirectionTable>() as u32).into(),
        };
        let channels = self.subs.len() as u32 + 1;
        let mut bytes = head.as_bytes().to_vec();
        let entries = (0..nvsp::INDIRECTION_ENTRIES).map(|i| i % channels);
        bytes.extend(entries.flat_map(u32::to_le_bytes));
        self.queue(env, packet(PacketType::IN_BAND, 0, 0, &[], &bytes));
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
            channel_type::CONTROL if self.port.index != 0 => {
                return Err(NicError::Protocol("control-on-sub-channel"));
            }
            channel_type::DATA => {
                let before = env.counters.frames_tx;
                let limits = Limits {
                    mtu: self.mtu as usize,
                    large_send: self.config.large_send as usize,
                };
                transmit::frames(env, &self.rndis, limits, &bytes)?;
                let count = env.counters.frames_tx - before;
                *env.counters.channel_tx.entry(self.port.index).or_default() += count;
            }
            channel_type::CONTROL => self.control(env, &bytes)?,
            _ => return Err(NicError::Protocol("rndis-channel-type")),
        }
        let answer = SendRndisPacketComplete {
            message_type: message::SEND_RNDIS_PACKET_COMPLETE.into(),
            status: status::SUCCESS.into(),
        };
        self.complete_with(env, p, &answer)
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
