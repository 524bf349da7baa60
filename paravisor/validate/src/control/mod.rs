//! Channel messages of the control plane.
//!
//! [`judge`] gets one message and what the client knows: where the connection
//! stands ([`Gate`]) and which channels and requests there are ([`Ledger`]).
//! What comes out has been held against both; the client acts on it without a
//! further question. No check changes anything (CTL-60).

mod offer;
#[cfg(test)]
mod tests;

use crate::index::confine;
use crate::synic::Payload;
use crate::{Rule, Violation, read_prefix};
use abi::vmbus::{
    CONNECTION_MESSAGE, CONNECTION_MESSAGE_LEGACY, Direction, Features, GpadlCreated,
    GpadlTorndown, Guid, MAX_CHANNELS, MESSAGES, MessageHeader, MessageType, ModifyChannelResponse,
    OpenChannelResult, RescindChannelOffer, STATUS_SUCCESS, Version, VersionResponse,
    VersionResponse2,
};
use core::mem::size_of;

pub use offer::{Offer, REFUSED_CLASSES, Relid, class_of, droppable_relid, refused_class};

/// Oldest version that we speak (CTL-12): Linux's floor for isolated guests.
pub const OLDEST_VERSION: Version = Version::V5_2;
/// VERSION_RESPONSE: highest connection state with a meaning.
const LAST_CONNECTION_STATE: u8 = 2;

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was sent, or all is over.
    Idle,
    /// INITIATE_CONTACT is outstanding.
    Contacting,
    /// REQUEST_OFFERS was sent, ALLOFFERS_DELIVERED has not come.
    RequestingOffers,
    /// The boot-time offers are complete.
    Running,
    /// UNLOAD is outstanding.
    Unloading,
}

/// Which offers are taken (CTL-29).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All of the boot-time set, which is not complete yet.
    All,
    /// The set is complete: only a card of it that was taken back meanwhile.
    Returning,
    /// The set is complete and stays as it is.
    Nothing,
    /// Too many have come lately (CTL-28).
    Exhausted,
}

/// What a message is held against before its content matters.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Where the connection stands.
    pub phase: Phase,
    /// The version proposed (while contacting) or negotiated.
    pub version: Version,
    /// The features requested (while contacting) or negotiated.
    pub features: Features,
    /// Where we post; one of the connections that an answer may name.
    pub message_connection: u32,
    /// Which offers are taken.
    pub admission: Admission,
    /// Network cards that the measured configuration has.
    pub max_nics: usize,
    /// Channels that the client has room for.
    pub max_channels: usize,
}

/// State of a channel, as far as rules need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Offered, nothing asked.
    Offered,
    /// An open with this id is outstanding.
    Opening {
        /// Our id of the attempt.
        open_id: u32,
    },
    /// Open.
    Open,
    /// Being set up or taken down by GPADL requests, or unusable.
    Busy,
    /// Rescinded; the relid is not released yet.
    Rescinded,
}

/// What a rule may know about a channel.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its instance.
    pub instance: Guid,
    /// Its state.
    pub standing: Standing,
}

/// What the client knows. Only questions; judging changes nothing.
pub trait Ledger {
    /// The channel with this relid, until the relid is released.
    fn channel(&self, relid: Relid) -> Option<Known>;
    /// The state of the primary channel with this instance, unless rescinded.
    fn instance(&self, instance: &Guid) -> Option<Standing>;
    /// A card with this instance was taken before the boot-time set was complete.
    fn adopted(&self, instance: &Guid) -> bool;
    /// A channel was offered with this connection id.
    fn has_connection(&self, connection_id: u32) -> bool;
    /// Channels whose relid is not released.
    fn channels(&self) -> usize;
    /// Network cards among them that are not rescinded.
    fn nics(&self) -> usize;
    /// What we wait for with this GPADL.
    fn gpadl(&self, gpadl: u32) -> Option<Outstanding>;
    /// The request for sub-channels of this card, while they may come.
    fn window(&self, instance: &Guid) -> Option<Window>;
    /// The host has been asked to move the interrupts of this channel and has not
    /// answered.
    fn moving(&self, relid: Relid) -> bool;
}

/// A request for sub-channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Indices up to this one may come.
    pub count: u16,
    /// Those that came, one bit each.
    pub taken: u64,
}

impl Window {
    /// An index that has not come yet and may come (CTL-26).
    pub fn expects(&self, index: u16) -> bool {
        let bit = 1u64.checked_shl(index.into()).unwrap_or(0);
        (1..=self.count).contains(&index) && bit != 0 && self.taken & bit == 0
    }

    /// Notes an index that has come.
    pub fn take(&mut self, index: u16) {
        self.taken |= 1u64.checked_shl(index.into()).unwrap_or(0);
    }

    /// All have come.
    pub fn is_complete(&self) -> bool {
        u32::from(self.count) == self.taken.count_ones()
    }
}

/// What is outstanding for a GPADL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outstanding {
    /// GPADL_CREATED for this channel.
    Create(Relid),
    /// Nothing: it exists.
    Nothing,
    /// GPADL_TORNDOWN.
    Teardown,
}

/// A GPADL of ours that an answer has named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpadl(u32);

impl Gpadl {
    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// The host has accepted the proposed version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    features: Features,
    message_connection: u32,
}

impl Accepted {
    /// Features that both sides have (CTL-14).
    pub fn features(&self) -> Features {
        self.features
    }
    /// Connection for all later messages (CTL-11).
    pub fn message_connection(&self) -> u32 {
        self.message_connection
    }
}

/// What a message without content carries instead, so that only this module
/// can make one.
#[derive(Clone, Copy, Debug)]
pub struct Proof(());

/// A judged message. Every variant holds something that only this crate makes.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Message {
    /// The proposed version is supported.
    VersionAccepted(Accepted),
    /// It is not.
    VersionRefused(Proof),
    /// A network card, or a sub-channel of one.
    Offer(Offer),
    /// The boot-time offers are complete.
    AllOffersDelivered(Proof),
    /// An offer is taken back.
    Rescind(Relid),
    /// The outstanding open succeeded.
    Opened(Relid),
    /// The outstanding open failed; the violation (CTL-48) carries the status.
    OpenRefused { relid: Relid, violation: Violation },
    /// An outstanding GPADL exists now.
    GpadlCreated(Gpadl),
    /// An outstanding GPADL was refused; the violation (GPD-03) carries the status.
    GpadlRefused { gpadl: Gpadl, violation: Violation },
    /// An outstanding teardown is done.
    GpadlTorndown(Gpadl),
    /// The interrupts of the channel have moved.
    Moved(Relid),
    /// They stay where they were; the violation (CTL-52) carries the status.
    MoveRefused { relid: Relid, violation: Violation },
    /// The connection is over.
    UnloadResponse(Proof),
}

/// Judges one message.
pub fn judge(payload: &Payload, gate: &Gate, ledger: &impl Ledger) -> Result<Message, Violation> {
    let bytes = payload.bytes();
    let kind = admit(bytes, gate)?;
    match kind {
        MessageType::VERSION_RESPONSE => version_response(bytes, gate),
        MessageType::OFFER_CHANNEL => offer::judge(read(bytes)?, gate, ledger).map(Message::Offer),
        MessageType::ALL_OFFERS_DELIVERED => {
            if gate.phase != Phase::RequestingOffers {
                return Err(Violation::new(Rule::CTL_30, 0, kind.0));
            }
            Ok(Message::AllOffersDelivered(Proof(())))
        }
        MessageType::RESCIND_CHANNEL_OFFER => rescind(bytes, ledger),
        MessageType::OPEN_CHANNEL_RESULT => open_result(bytes, ledger),
        MessageType::GPADL_CREATED => gpadl_created(bytes, ledger),
        MessageType::GPADL_TORNDOWN => {
            let message: GpadlTorndown = read(bytes)?;
            let gpadl = message.gpadl.get();
            match ledger.gpadl(gpadl) {
                Some(Outstanding::Teardown) => Ok(Message::GpadlTorndown(Gpadl(gpadl))),
                _ => Err(Violation::new(Rule::GPD_05, 8, gpadl)),
            }
        }
        MessageType::UNLOAD_RESPONSE => Ok(Message::UnloadResponse(Proof(()))),
        MessageType::MODIFY_CHANNEL_RESPONSE => modify_response(bytes, ledger),
        // No reserved channel and no hv_sock connection is ever asked for.
        MessageType::CLOSE_RESERVED_RESPONSE => Err(Violation::new(Rule::CTL_55, 0, kind.0)),
        MessageType::TL_CONNECT_RESULT => Err(Violation::new(Rule::CTL_56, 0, kind.0)),
        // Nor are their features, so CTL-06 comes first; a host that could get
        // past it would still find nothing outstanding.
        MessageType::MODIFY_CONNECTION_RESPONSE => Err(Violation::new(Rule::CTL_57, 0, kind.0)),
        MessageType::PAUSE_RESPONSE => Err(Violation::new(Rule::CTL_58, 0, kind.0)),
        _ => Err(Violation::new(Rule::CTL_01, 0, kind.0)),
    }
}

/// The rules that hold for every message: a known type from the host, long
/// enough, part of what was negotiated, and at its time.
fn admit(bytes: &[u8], gate: &Gate) -> Result<MessageType, Violation> {
    let header: MessageHeader = read(bytes)?;
    let kind = MessageType(header.message_type.get());
    let broken = |rule| Err(Violation::new(rule, 0, kind.0));
    let row = (kind.0 as usize)
        .checked_sub(1)
        .and_then(|row| confine(row, MESSAGES.len()));
    let Some(info) = row.and_then(|row| MESSAGES.get(row)) else {
        return broken(Rule::CTL_01);
    };
    if info.direction == Direction::ToHost {
        return broken(Rule::CTL_02);
    }
    if bytes.len() < info.min_size {
        return Err(Violation::new(Rule::CTL_03, 0, bytes.len() as u64));
    }
    let answers_contact = kind == MessageType::VERSION_RESPONSE;
    match gate.phase {
        Phase::Contacting if answers_contact => return Ok(kind),
        _ if answers_contact => return broken(Rule::CTL_08),
        Phase::Idle | Phase::Contacting => return broken(Rule::CTL_07),
        Phase::RequestingOffers | Phase::Running | Phase::Unloading => {}
    }
    if gate.version < info.min_version || !gate.features.contains(info.features) {
        return broken(Rule::CTL_06);
    }
    let answers_unload = kind == MessageType::UNLOAD_RESPONSE;
    match gate.phase {
        Phase::Unloading if !answers_unload => broken(Rule::CTL_07),
        Phase::RequestingOffers | Phase::Running if answers_unload => broken(Rule::CTL_53),
        _ => Ok(kind),
    }
}

/// The fixed part of a message; what follows is never looked at (CTL-04).
fn read<T: zerocopy::FromBytes>(bytes: &[u8]) -> Result<T, Violation> {
    read_prefix(bytes).ok_or(Violation::new(Rule::CTL_03, 0, bytes.len() as u64))
}

fn version_response(bytes: &[u8], gate: &Gate) -> Result<Message, Violation> {
    let message: VersionResponse = read(bytes)?;
    let (supported, state) = (message.supported, message.connection_state);
    if supported > 1 {
        return Err(Violation::new(Rule::CTL_09, 8, supported));
    }
    if state > LAST_CONNECTION_STATE || (supported == 1 && state != 0) {
        return Err(Violation::new(Rule::CTL_10, 9, state));
    }
    if supported == 0 {
        return Ok(Message::VersionRefused(Proof(())));
    }
    let connection = message.message_connection_id.get();
    let known = [
        CONNECTION_MESSAGE_LEGACY,
        CONNECTION_MESSAGE,
        gate.message_connection,
    ];
    if !known.contains(&connection) {
        return Err(Violation::new(Rule::CTL_11, 12, connection));
    }
    let mut features = Features::empty();
    if gate.version >= Version::V6_0 {
        let message: VersionResponse2 = read(bytes)?;
        features = Features::from_bits_retain(message.features.get());
        if !gate.features.contains(features) {
            return Err(Violation::new(Rule::CTL_14, 16, features.bits()));
        }
    }
    Ok(Message::VersionAccepted(Accepted {
        features,
        message_connection: connection,
    }))
}

fn rescind(bytes: &[u8], ledger: &impl Ledger) -> Result<Message, Violation> {
    let message: RescindChannelOffer = read(bytes)?;
    let number = message.relid.get();
    let known = Relid::in_range(number).and_then(|relid| Some((relid, ledger.channel(relid)?)));
    match known {
        None => Err(Violation::new(Rule::CTL_38, 8, number)),
        Some((
            _,
            Known {
                standing: Standing::Rescinded,
                ..
            },
        )) => Err(Violation::new(Rule::CTL_39, 8, number)),
        Some((relid, _)) => Ok(Message::Rescind(relid)),
    }
}

fn open_result(bytes: &[u8], ledger: &impl Ledger) -> Result<Message, Violation> {
    let message: OpenChannelResult = read(bytes)?;
    let (number, id, status) = (
        message.relid.get(),
        message.open_id.get(),
        message.status.get(),
    );
    let Some(relid) = Relid::in_range(number) else {
        return Err(Violation::new(Rule::CTL_46, 8, number));
    };
    match ledger.channel(relid).map(|known| known.standing) {
        Some(Standing::Rescinded) => Err(Violation::new(Rule::CTL_44, 8, number)),
        Some(Standing::Open) => Err(Violation::new(Rule::CTL_49, 8, number)),
        Some(Standing::Opening { open_id }) if open_id == id => {
            if status == STATUS_SUCCESS {
                return Ok(Message::Opened(relid));
            }
            let violation = Violation::new(Rule::CTL_48, 16, status);
            Ok(Message::OpenRefused { relid, violation })
        }
        Some(Standing::Opening { .. }) => Err(Violation::new(Rule::CTL_46, 12, id)),
        _ => Err(Violation::new(Rule::CTL_46, 8, number)),
    }
}

/// Answers the one request for this channel that is outstanding, even if the
/// channel was rescinded since (CTL-44).
fn modify_response(bytes: &[u8], ledger: &impl Ledger) -> Result<Message, Violation> {
    let message: ModifyChannelResponse = read(bytes)?;
    let number = message.relid.get();
    let relid = Relid::in_range(number).filter(|relid| ledger.moving(*relid));
    let Some(relid) = relid else {
        return Err(Violation::new(Rule::CTL_51, 8, number));
    };
    match message.status.get() {
        STATUS_SUCCESS => Ok(Message::Moved(relid)),
        status => {
            let violation = Violation::new(Rule::CTL_52, 12, status);
            Ok(Message::MoveRefused { relid, violation })
        }
    }
}

fn gpadl_created(bytes: &[u8], ledger: &impl Ledger) -> Result<Message, Violation> {
    let message: GpadlCreated = read(bytes)?;
    let (relid, number) = (message.relid.get(), message.gpadl.get());
    match ledger.gpadl(number) {
        Some(Outstanding::Create(of)) if of.number() == relid => {}
        Some(Outstanding::Create(_)) => return Err(Violation::new(Rule::GPD_02, 8, relid)),
        Some(_) => return Err(Violation::new(Rule::GPD_04, 12, number)),
        None => return Err(Violation::new(Rule::GPD_02, 12, number)),
    }
    match message.status.get() {
        STATUS_SUCCESS => Ok(Message::GpadlCreated(Gpadl(number))),
        status => {
            let violation = Violation::new(Rule::GPD_03, 16, status);
            Ok(Message::GpadlRefused {
                gpadl: Gpadl(number),
                violation,
            })
        }
    }
}

/// The number of page numbers of one range fits its message (GPD-12).
pub fn gpadl_pages(pages: usize) -> Result<(), Violation> {
    if pages != 0 && pages <= abi::vmbus::GPADL_MAX_PFNS {
        Ok(())
    } else {
        Err(Violation::new(Rule::GPD_12, 16, pages as u64))
    }
}

const _: () = assert!(size_of::<VersionResponse>() == 16 && MAX_CHANNELS == 2048);
