//! The server's state machine: one connection, its channels, their GPADLs.
use super::channel::{Channel, State, Wiring};
use super::gpadl::{Gpadls, Step};
use super::{Context, OfferParams, RingRequest, ServerConfig, ServerCounters, ServerEvent};
use crate::fault::{Layer, OutgoingMessage};
use crate::hv::{Port, Signalled};
use crate::pages::PageList;
use abi::vmbus::{
    self, CONNECTION_ID_MASK, CloseChannel, Features, GpadlBody, GpadlCreated, GpadlHeader,
    GpadlTeardown, GpadlTorndown, InitiateContact, MessageHeader, MessageType, ModifyChannel,
    ModifyChannelResponse, OPEN_REDIRECT_INTERRUPT, OpenChannel, OpenChannel2, OpenChannelResult,
    PAGE_SIZE, RelidReleased, RescindChannelOffer, STATUS_FAILURE, STATUS_SUCCESS, TARGET_VP_NONE,
    Version, VersionResponse, VersionResponse2, VersionResponse3,
};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// `connection_state` of a refusal: unknown failure.
const CONNECTION_FAILED: u8 = 2;

#[derive(Clone, Copy, Debug)]
struct Connection {
    version: Version,
    features: Features,
    /// VP that takes the host's messages.
    vp: u32,
    offers_requested: bool,
}

/// The VMBus server of one partition.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    connection: Option<Connection>,
    channels: BTreeMap<u32, Channel>,
    next_relid: u32,
    gpadls: Gpadls,
    /// Event connection of an open channel -> relid.
    signals: BTreeMap<u32, u32>,
    events: VecDeque<ServerEvent>,
    counters: ServerCounters,
}

fn parse<T: FromBytes + KnownLayout + Immutable>(
    message: &[u8],
) -> Result<(T, &[u8]), &'static str> {
    T::read_from_prefix(message).map_err(|_| "short-message")
}

/// The VP that a message names, if it names one.
fn some_vp(vp: u32) -> Option<u32> {
    (vp != TARGET_VP_NONE).then_some(vp)
}

impl Server {
    /// A server nobody talks to yet.
    pub fn new(config: ServerConfig, partition: &mut crate::hv::Partition) -> Self {
        for id in config.target.connections {
            partition.connect_port(*id, Port::Message);
        }
        Server {
            next_relid: config.first_relid.max(1),
            config,
            connection: None,
            channels: BTreeMap::new(),
            gpadls: Gpadls::default(),
            signals: BTreeMap::new(),
            events: VecDeque::new(),
            counters: ServerCounters::default(),
        }
    }

    /// Version in use.
    pub fn version(&self) -> Option<Version> {
        self.connection.map(|c| c.version)
    }

    /// Features in use.
    pub fn features(&self) -> Features {
        self.connection.map_or(Features::empty(), |c| c.features)
    }

    /// Whether the guest has this channel open.
    pub fn is_open(&self, relid: u32) -> bool {
        self.channels
            .get(&relid)
            .is_some_and(|c| matches!(c.state, State::Open(_)))
    }

    /// VP that takes the interrupts of an open channel.
    pub fn target_vp(&self, relid: u32) -> Option<u32> {
        self.channels.get(&relid)?.wiring()?.vp
    }

    /// What was counted so far.
    pub fn counters(&self) -> ServerCounters {
        let (gpadls, gpadl_pages) = self.gpadls.totals();
        ServerCounters {
            gpadls,
            gpadl_pages,
            ..self.counters.clone()
        }
    }

    /// Next thing for a device to do.
    pub fn next_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// Pages of a GPADL of this channel: one page-aligned range, complete.
    pub fn gpadl(&self, relid: u32, id: u32) -> Option<Arc<PageList>> {
        self.gpadls.single(relid, id)
    }

    fn error(&mut self, name: &'static str) {
        log::debug!("vmbus: guest error {name}");
        *self.counters.errors.entry(name).or_default() += 1;
    }

    /// Sends a message of this type, which it is given here.
    fn send(&mut self, cx: &mut Context<'_>, vp: u32, relid: u32, kind: MessageType, bytes: &[u8]) {
        if kind == MessageType::VERSION_RESPONSE && cx.faults.never_answer_version {
            return;
        }
        let mut bytes = bytes.to_vec();
        if let Some(head) = bytes.first_chunk_mut() {
            *head = kind.0.to_le_bytes();
        }
        let message = cx.faults.pass(Layer::Control, relid, bytes);
        for _ in 0..message.copies {
            if !self.deliver(cx, vp, &message) {
                return self.error("no-such-vp");
            }
            *self.counters.messages_out.entry(kind.0).or_default() += 1;
        }
    }

    /// Puts a message into its slot, or lets it wait for it.
    fn deliver(&mut self, cx: &mut Context<'_>, vp: u32, message: &OutgoingMessage) -> bool {
        let target = self.config.target;
        let bytes = message.bytes.get(..vmbus::MAX_MESSAGE_SIZE);
        let sint = message.slot.sint.unwrap_or(target.sint);
        let kind = message.slot.message_type;
        cx.partition.send_message_as(
            cx.mem,
            vp,
            sint,
            kind.unwrap_or(vmbus::SYNIC_MESSAGE_TYPE),
            u64::from(target.response_connection),
            bytes.unwrap_or(&message.bytes),
            message.slot,
        )
    }

    /// Sends a message that no state of the server asks for.
    pub(crate) fn send_raw(&mut self, cx: &mut Context<'_>, message: &OutgoingMessage) {
        let vp = self.connection.map_or(0, |c| c.vp);
        if !self.deliver(cx, vp, message) {
            self.error("no-such-slot");
        }
    }

    /// Raises an event flag, whoever it belongs to.
    pub(crate) fn raise_flag(&mut self, cx: &mut Context<'_>, flag: u16) {
        let vp = self.connection.map_or(0, |c| c.vp);
        cx.partition
            .signal_event_flag(cx.mem, vp, self.config.target.sint, flag);
    }

    fn reply<T: IntoBytes + Immutable>(
        &mut self,
        cx: &mut Context<'_>,
        relid: u32,
        kind: MessageType,
        message: T,
    ) {
        if let Some(c) = self.connection {
            self.send(cx, c.vp, relid, kind, message.as_bytes());
        }
    }

    /// Offers a channel; the guest hears of it now if it asked for offers, else
    /// when it asks. Returns its relid.
    pub fn offer(&mut self, cx: &mut Context<'_>, offer: OfferParams) -> u32 {
        let relid = self.next_relid;
        self.next_relid += 1;
        let channel = Channel {
            relid,
            offer,
            state: State::Closed,
            offered: false,
            rescinded: false,
        };
        self.channels.insert(relid, channel);
        if self.connection.is_some_and(|c| c.offers_requested) {
            self.send_offer(cx, relid);
        }
        relid
    }

    fn send_offer(&mut self, cx: &mut Context<'_>, relid: u32) {
        let Some(channel) = self.channels.get_mut(&relid) else {
            return;
        };
        channel.offered = true;
        let message = channel.message();
        self.reply(cx, relid, MessageType::OFFER_CHANNEL, message);
    }

    /// Takes an offer back. The device is told to close; the guest still closes,
    /// tears down and releases.
    pub fn rescind(&mut self, cx: &mut Context<'_>, relid: u32) {
        let Some(channel) = self.channels.get_mut(&relid) else {
            return;
        };
        if !channel.offered {
            self.channels.remove(&relid);
            return;
        }
        channel.rescinded = true;
        self.shut(cx, relid);
        let mut m = RescindChannelOffer::new_zeroed();
        m.relid = relid.into();
        self.reply(cx, relid, MessageType::RESCIND_CHANNEL_OFFER, m);
    }

    /// Cuts a channel's wires and tells the device.
    fn shut(&mut self, cx: &mut Context<'_>, relid: u32) {
        let Some(channel) = self.channels.get_mut(&relid) else {
            return;
        };
        if let Some(w) = channel.wiring() {
            channel.state = State::Closing;
            self.signals.remove(&w.connection);
            cx.partition.disconnect_port(w.connection);
            self.events.push_back(ServerEvent::Close { relid });
        }
    }

    /// The device let go of a closed channel.
    pub fn channel_closed(&mut self, relid: u32) {
        if let Some(c) = self.channels.get_mut(&relid)
            && c.state == State::Closing
        {
            c.state = State::Closed;
        }
    }

    /// The device's answer to [`ServerEvent::Open`].
    pub fn open_result(&mut self, cx: &mut Context<'_>, relid: u32, accepted: bool) {
        let Some(channel) = self.channels.get_mut(&relid) else {
            return;
        };
        let State::Opening(w) = channel.state else {
            return;
        };
        let status = if accepted {
            channel.state = State::Open(w);
            STATUS_SUCCESS
        } else {
            channel.state = State::Closed;
            self.signals.remove(&w.connection);
            cx.partition.disconnect_port(w.connection);
            STATUS_FAILURE
        };
        self.send_open_result(cx, relid, w.open_id, status);
    }

    fn send_open_result(&mut self, cx: &mut Context<'_>, relid: u32, open_id: u32, status: u32) {
        let mut m = OpenChannelResult::new_zeroed();
        (m.relid, m.open_id, m.status) = (relid.into(), open_id.into(), status.into());
        self.reply(cx, relid, MessageType::OPEN_CHANNEL_RESULT, m);
    }

    /// Raises the event flag of an open channel.
    pub fn signal_guest(&mut self, cx: &mut Context<'_>, relid: u32) -> Signalled {
        match self.channels.get(&relid).and_then(Channel::wiring) {
            Some(Wiring {
                vp: Some(vp),
                sint,
                flag,
                ..
            }) => cx.partition.signal_event_flag(cx.mem, vp, sint, flag),
            _ => Signalled::Off,
        }
    }

    /// Channel behind an event connection that the guest signalled.
    pub fn signalled_channel(&self, connection: u32) -> Option<u32> {
        self.signals.get(&connection).copied()
    }

    /// Answers teardowns whose pages nobody uses any more.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        while let Some(id) = self.gpadls.torn_down() {
            let mut m = GpadlTorndown::new_zeroed();
            m.gpadl = id.into();
            self.reply(cx, 0, MessageType::GPADL_TORNDOWN, m);
        }
    }

    /// Whether too many answers wait for the guest, so that no more of its
    /// messages should be taken.
    pub fn is_congested(&self, partition: &crate::hv::Partition) -> bool {
        let sint = self.config.target.sint;
        self.connection
            .is_some_and(|c| partition.queued_messages(c.vp, sint) >= crate::hv::SINT_BACKLOG)
    }

    /// One channel message of the guest.
    pub fn handle_message(
        &mut self,
        cx: &mut Context<'_>,
        connection: u32,
        message_type: u32,
        message: &[u8],
    ) {
        if message_type != vmbus::SYNIC_MESSAGE_TYPE
            || !self.config.target.connections.contains(&connection)
        {
            return self.error("foreign-message");
        }
        if let Err(name) = self.dispatch(cx, message) {
            self.error(name);
        }
    }

    fn dispatch(&mut self, cx: &mut Context<'_>, message: &[u8]) -> Result<(), &'static str> {
        let (head, _) = parse::<MessageHeader>(message)?;
        let kind = MessageType(head.message_type.get());
        *self.counters.messages_in.entry(kind.0).or_default() += 1;
        if kind == MessageType::INITIATE_CONTACT {
            return self.initiate_contact(cx, message);
        }
        let Some(connection) = self.connection else {
            return Err("not-connected");
        };
        let info = kind.info().ok_or("unknown-type")?;
        if info.min_version > connection.version || !connection.features.contains(info.features) {
            return Err("type-above-version");
        }
        match kind {
            MessageType::REQUEST_OFFERS => self.request_offers(cx),
            MessageType::OPEN_CHANNEL => self.open_channel(cx, message),
            MessageType::CLOSE_CHANNEL => self.close_channel(cx, message),
            MessageType::GPADL_HEADER => self.gpadl_header(cx, message),
            MessageType::GPADL_BODY => self.gpadl_body(cx, message),
            MessageType::GPADL_TEARDOWN => {
                let (m, _) = parse::<GpadlTeardown>(message)?;
                self.gpadls.teardown(m.relid.get(), m.gpadl.get())
            }
            MessageType::RELID_RELEASED => self.relid_released(message),
            MessageType::MODIFY_CHANNEL => self.modify_channel(cx, message),
            MessageType::MODIFY_CONNECTION => {
                // Monitor pages are not used; any pair is fine.
                self.reply(cx, 0, MessageType::MODIFY_CONNECTION_RESPONSE, [0u8; 9]);
                Ok(())
            }
            MessageType::UNLOAD => {
                self.reset(cx);
                let m = MessageHeader::new_zeroed();
                let kind = MessageType::UNLOAD_RESPONSE;
                self.send(cx, connection.vp, 0, kind, m.as_bytes());
                Ok(())
            }
            _ => Err("type-not-for-host"),
        }
    }

    /// Ends the connection: every channel closes, GPADLs are forgotten.
    fn reset(&mut self, cx: &mut Context<'_>) {
        let relids: Vec<u32> = self.channels.keys().copied().collect();
        for relid in relids {
            self.shut(cx, relid);
        }
        // Sub-channels live by the request of a connection.
        self.channels
            .retain(|_, c| !c.rescinded && c.offer.sub_channel_index == 0);
        for c in self.channels.values_mut() {
            c.offered = false;
            if c.state == State::Released {
                c.state = State::Closed;
            }
        }
        self.gpadls.clear();
        self.connection = None;
    }

    fn initiate_contact(
        &mut self,
        cx: &mut Context<'_>,
        message: &[u8],
    ) -> Result<(), &'static str> {
        let (m, _) = parse::<InitiateContact>(message)?;
        self.reset(cx);
        let version = Version(m.version.get());
        let wanted = Features::from_bits_retain(m.features.get());
        let target = self.config.target;
        let vp = m.target_vp.get();
        let monitors = [
            m.parent_to_child_monitor.get(),
            m.child_to_parent_monitor.get(),
        ];
        let one_monitor = (monitors[0] == 0) != (monitors[1] == 0);
        let known = Version::ALL.contains(&version)
            && (self.config.min_version..=self.config.max_version).contains(&version);
        let placed =
            version < Version::V5_0 || m.sint == target.contact_sint && m.vtl == target.contact_vtl;
        let complete = version < Version::V6_0
            || !wanted.contains(Features::CLIENT_ID)
            || message.len() >= size_of::<vmbus::InitiateContact2>();

        let mut answer = VersionResponse3::new_zeroed();
        let head = &mut answer.response.response;
        let mut size = size_of::<VersionResponse>();
        if known && placed && complete && vp < cx.partition.vp_count() {
            head.supported = 1;
            head.message_connection_id = target.response_connection.into();
            if one_monitor {
                head.connection_state = CONNECTION_FAILED;
            } else {
                let mut features = Features::empty();
                if version >= Version::V6_0 {
                    features = wanted.intersection(self.config.features);
                    answer.response.features = features.bits().into();
                    size = if features.contains(Features::SERVER_MONITOR_PAGES) {
                        size_of::<VersionResponse3>()
                    } else {
                        size_of::<VersionResponse2>()
                    };
                }
                self.connection = Some(Connection {
                    version,
                    features,
                    vp,
                    offers_requested: false,
                });
            }
        }
        let bytes = answer.as_bytes().get(..size).unwrap_or_default();
        self.send(cx, vp, 0, MessageType::VERSION_RESPONSE, bytes);
        Ok(())
    }

    fn request_offers(&mut self, cx: &mut Context<'_>) -> Result<(), &'static str> {
        let Some(c) = &mut self.connection else {
            return Err("not-connected");
        };
        if core::mem::replace(&mut c.offers_requested, true) {
            return Err("offers-requested-twice");
        }
        let relids: Vec<u32> = self.channels.keys().copied().collect();
        for relid in relids {
            self.send_offer(cx, relid);
        }
        let m = MessageHeader::new_zeroed();
        self.reply(cx, 0, MessageType::ALL_OFFERS_DELIVERED, m);
        Ok(())
    }

    fn channel(&mut self, relid: u32) -> Result<&mut Channel, &'static str> {
        self.channels
            .get_mut(&relid)
            .filter(|c| c.offered)
            .ok_or("unknown-relid")
    }

    fn open_channel(&mut self, cx: &mut Context<'_>, message: &[u8]) -> Result<(), &'static str> {
        let (m, _) = parse::<OpenChannel>(message)?;
        let relid = m.relid.get();
        let target_sint = self.config.target.sint;
        let features = self.features();
        let own_wires = Features::GUEST_SIGNAL_PARAMETERS | Features::INTERRUPT_REDIRECTION;
        let channel = self.channel(relid)?;
        if channel.rescinded {
            return Ok(());
        }
        if channel.state != State::Closed {
            return Err("open-not-closed");
        }
        let mut wiring = Wiring {
            open_id: m.open_id.get(),
            vp: some_vp(m.target_vp.get()),
            sint: target_sint,
            flag: relid as u16,
            connection: channel.offer_connection(),
        };
        if features.intersects(own_wires) {
            let (long, _) = parse::<OpenChannel2>(message)?;
            if features.contains(Features::GUEST_SIGNAL_PARAMETERS) {
                wiring.flag = long.event_flag.get();
                wiring.connection = long.connection_id.get();
            }
            if features.contains(Features::INTERRUPT_REDIRECTION)
                && long.flags.get() & OPEN_REDIRECT_INTERRUPT == 0
            {
                wiring.sint = self.config.target.contact_sint;
            }
        }
        let offset = m.downstream_page_offset.get() as usize;
        let ring = self.gpadls.single(relid, m.ring_gpadl.get());
        // Both halves need a header page and a page of data.
        let ring = ring.filter(|r| offset >= 2 && offset.saturating_add(2) <= r.len() / PAGE_SIZE);
        let wires_ok = wiring.connection & !CONNECTION_ID_MASK == 0
            && !self.signals.contains_key(&wiring.connection)
            && !self.config.target.connections.contains(&wiring.connection)
            && usize::from(wiring.flag) < abi::hyperv::EVENT_FLAGS
            && wiring.vp.is_none_or(|vp| vp < cx.partition.vp_count());
        let Some(ring) = ring.filter(|_| wires_ok) else {
            self.send_open_result(cx, relid, wiring.open_id, STATUS_FAILURE);
            return Err("open-refused");
        };
        self.channel(relid)?.state = State::Opening(wiring);
        self.signals.insert(wiring.connection, relid);
        cx.partition.connect_port(wiring.connection, Port::Event);
        let request = RingRequest {
            relid,
            ring,
            downstream_offset: offset,
            user_data: m.user_data,
        };
        self.events.push_back(ServerEvent::Open(request));
        Ok(())
    }

    fn close_channel(&mut self, cx: &mut Context<'_>, message: &[u8]) -> Result<(), &'static str> {
        let (m, _) = parse::<CloseChannel>(message)?;
        let relid = m.relid.get();
        let channel = self.channel(relid)?;
        match channel.state {
            State::Open(_) => {
                self.shut(cx, relid);
                Ok(())
            }
            _ if channel.rescinded => Ok(()),
            _ => Err("close-not-open"),
        }
    }

    fn relid_released(&mut self, message: &[u8]) -> Result<(), &'static str> {
        let (m, _) = parse::<RelidReleased>(message)?;
        let relid = m.relid.get();
        let channel = self.channel(relid)?;
        if matches!(channel.state, State::Opening(_) | State::Open(_)) {
            return Err("release-while-open");
        }
        if channel.rescinded {
            self.channels.remove(&relid);
        } else {
            channel.state = State::Released;
            channel.offered = false;
        }
        Ok(())
    }

    fn modify_channel(&mut self, cx: &mut Context<'_>, message: &[u8]) -> Result<(), &'static str> {
        let (m, _) = parse::<ModifyChannel>(message)?;
        let (relid, vp) = (m.relid.get(), m.target_vp.get());
        let valid = some_vp(vp).is_none_or(|vp| vp < cx.partition.vp_count());
        let answers = self.version() >= Some(Version::V5_3);
        let channel = self.channel(relid)?;
        let done = match &mut channel.state {
            State::Open(w) if valid => {
                w.vp = some_vp(vp);
                true
            }
            _ => false,
        };
        if answers {
            let mut r = ModifyChannelResponse::new_zeroed();
            r.relid = relid.into();
            r.status = if done { STATUS_SUCCESS } else { STATUS_FAILURE }.into();
            self.reply(cx, relid, MessageType::MODIFY_CHANNEL_RESPONSE, r);
        }
        if done { Ok(()) } else { Err("modify-refused") }
    }

    fn gpadl_header(&mut self, cx: &mut Context<'_>, message: &[u8]) -> Result<(), &'static str> {
        let (m, data) = parse::<GpadlHeader>(message)?;
        let (relid, id) = (m.relid.get(), m.gpadl.get());
        self.channel(relid)?;
        let step = self.gpadls.header(
            relid,
            id,
            m.range_buffer_length.get(),
            m.range_count.get(),
            data,
        );
        self.gpadl_step(cx, relid, id, step)
    }

    fn gpadl_body(&mut self, cx: &mut Context<'_>, message: &[u8]) -> Result<(), &'static str> {
        let (m, data) = parse::<GpadlBody>(message)?;
        let id = m.gpadl.get();
        let (relid, step) = self.gpadls.body(id, data);
        self.gpadl_step(cx, relid, id, step)
    }

    fn gpadl_step(
        &mut self,
        cx: &mut Context<'_>,
        relid: u32,
        id: u32,
        step: Step,
    ) -> Result<(), &'static str> {
        let status = match step {
            Step::More => return Ok(()),
            Step::Ignored(name) => return Err(name),
            Step::Created => STATUS_SUCCESS,
            Step::Refused => STATUS_FAILURE,
        };
        let mut m = GpadlCreated::new_zeroed();
        (m.relid, m.gpadl, m.status) = (relid.into(), id.into(), status.into());
        self.reply(cx, relid, MessageType::GPADL_CREATED, m);
        match status {
            STATUS_SUCCESS => Ok(()),
            _ => Err("gpadl-refused"),
        }
    }
}
