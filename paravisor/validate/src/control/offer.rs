//! Offers: which channels of the host we take.

use super::{Admission, Gate, Ledger, Standing};
use crate::synic::Payload;
use crate::{Rule, Violation, read_prefix};
use abi::vmbus::{
    CONNECTION_EVENT_SHARED, CONNECTION_ID_MASK, CONNECTION_MESSAGE, CONNECTION_MESSAGE_LEGACY,
    CONNECTION_MONITOR, Guid, MAX_CHANNELS, MessageType, OfferChannel, OfferFlags, class,
};

/// A channel number of the host: 1 to 2047.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relid(u16);

impl Relid {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// Its number as an event flag.
    pub const fn flag(self) -> u16 {
        self.0
    }

    pub(super) fn in_range(number: u32) -> Option<Relid> {
        match u16::try_from(number) {
            Ok(relid) if relid != 0 && number < MAX_CHANNELS => Some(Relid(relid)),
            _ => None,
        }
    }
}

/// An accepted offer: a channel of a network card. Its fields never
/// change (CTL-62). What the offer says beyond them is not kept: monitor
/// (CTL-32) and user-defined bytes (CTL-37) have no way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    relid: Relid,
    instance: Guid,
    index: u16,
    connection_id: u32,
}

impl Offer {
    /// The host's number of the channel.
    pub fn relid(&self) -> Relid {
        self.relid
    }
    /// Which card.
    pub fn instance(&self) -> Guid {
        self.instance
    }
    /// 0 for the card's primary channel.
    pub fn index(&self) -> u16 {
        self.index
    }
    /// Connection for signals to the host.
    pub fn connection_id(&self) -> u32 {
        self.connection_id
    }
}

/// The relid that a refused message has named, if it was an offer and the relid
/// is free: it is released, so that the host may use it again (CTL-18).
pub fn droppable_relid(payload: &Payload, ledger: &impl Ledger) -> Option<Relid> {
    let offer: OfferChannel = read_prefix(payload.bytes())?;
    if offer.header.message_type.get() != MessageType::OFFER_CHANNEL.0 {
        return None;
    }
    let relid = Relid::in_range(offer.relid.get())?;
    ledger.channel(relid).is_none().then_some(relid)
}

pub(super) fn judge(
    offer: OfferChannel,
    gate: &Gate,
    ledger: &impl Ledger,
) -> Result<Offer, Violation> {
    let relid = relid(&offer, ledger)?;
    class_and_flags(&offer)?;
    if offer.instance.is_zero() {
        return Err(Violation::new(Rule::CTL_20, 24, 0_u32));
    }
    let index = place(&offer, ledger)?;
    let connection_id = wiring(&offer, gate, ledger)?;
    if ledger.channels() >= gate.max_channels {
        return Err(Violation::new(Rule::CTL_28, 0, ledger.channels() as u64));
    }
    if index == 0 {
        room(&offer.instance, gate, ledger)?;
    }
    Ok(Offer {
        relid,
        instance: offer.instance,
        index,
        connection_id,
    })
}

/// The number: in range and free.
fn relid(offer: &OfferChannel, ledger: &impl Ledger) -> Result<Relid, Violation> {
    let number = offer.relid.get();
    let broken = |rule| Err(Violation::new(rule, 184, number));
    if number == 0 {
        return broken(Rule::CTL_22);
    }
    let Some(relid) = Relid::in_range(number) else {
        return broken(Rule::CTL_21);
    };
    match ledger.channel(relid) {
        Some(known) if known.instance == offer.instance => broken(Rule::CTL_62),
        Some(_) => broken(Rule::CTL_23),
        None => Ok(relid),
    }
}

/// Classes of channel that are known and refused: what an audit calls each, and
/// the rule that refuses it. Any other class but the network card's is refused
/// by CTL-18 too, without a name. hv_sock has no class of its own: its flag is
/// refused by CTL-19.
pub const REFUSED_CLASSES: [(Guid, &str, Rule); 18] = [
    (class::TIME_SYNC, "time synchronisation", Rule::ICS_01),
    (class::HEARTBEAT, "heartbeat", Rule::ICS_01),
    (class::SHUTDOWN, "guest shutdown", Rule::ICS_01),
    (class::KVP, "key-value pairs", Rule::ICS_01),
    (class::VSS, "volume snapshots", Rule::ICS_01),
    (class::FILE_COPY, "file copy", Rule::ICS_01),
    (class::SCSI, "SCSI controller", Rule::SYS_18),
    (class::IDE, "IDE controller", Rule::SYS_18),
    (class::FIBRE_CHANNEL, "fibre channel", Rule::SYS_18),
    (class::PCI, "PCI pass-through", Rule::CTL_18),
    (class::DYNAMIC_MEMORY, "dynamic memory", Rule::CTL_18),
    (class::VIDEO, "video", Rule::CTL_18),
    (class::KEYBOARD, "keyboard", Rule::CTL_18),
    (class::MOUSE, "mouse", Rule::CTL_18),
    (class::NETWORK_DIRECT, "Network Direct", Rule::CTL_18),
    (class::ACTIVATION[0], "activation", Rule::CTL_18),
    (class::ACTIVATION[1], "activation", Rule::CTL_18),
    (class::REMOTE_DESKTOP, "remote desktop", Rule::CTL_18),
];

/// Name and rule of a class that is known and refused.
pub fn refused_class(interface: &Guid) -> Option<(&'static str, Rule)> {
    let found = REFUSED_CLASSES.iter().find(|(guid, ..)| guid == interface);
    found.map(|&(_, name, rule)| (name, rule))
}

/// What an audit calls the class that a violation speaks of, from its rule and
/// value (the first four bytes of the class, which differ among all of them).
pub fn class_of(violation: &Violation) -> Option<&'static str> {
    let same = |&&(Guid([a, b, c, d, ..]), _, rule): &&(Guid, &str, Rule)| {
        rule == violation.rule && u64::from(u32::from_le_bytes([a, b, c, d])) == violation.value
    };
    REFUSED_CLASSES.iter().find(same).map(|&(_, name, _)| name)
}

/// Only network cards, and nothing that would change how they speak.
fn class_and_flags(offer: &OfferChannel) -> Result<(), Violation> {
    let flags = OfferFlags::from_bits_retain(offer.flags.get());
    let broken = |rule| Err(Violation::new(rule, 56, flags.bits()));
    if flags.contains(OfferFlags::TLNPI_PROVIDER) {
        return broken(Rule::CTL_19);
    }
    let ring = flags.contains(OfferFlags::CONFIDENTIAL_RING);
    let external = flags.contains(OfferFlags::CONFIDENTIAL_EXTERNAL_MEMORY);
    if external && !ring {
        return broken(Rule::CTL_17);
    }
    if ring {
        return broken(Rule::CTL_16);
    }
    if offer.interface != class::NIC {
        let [a, b, c, d, ..] = offer.interface.0;
        let (_, rule) = refused_class(&offer.interface).unwrap_or(("", Rule::CTL_18));
        let first_word = u32::from_le_bytes([a, b, c, d]);
        return Err(Violation::new(rule, 8, first_word));
    }
    if !flags.difference(OfferFlags::ENUMERATE_INTERFACE).is_empty() {
        return broken(Rule::CTL_36);
    }
    let mmio = offer.mmio_megabytes.get();
    if mmio != 0 {
        return Err(Violation::new(Rule::CTL_35, 58, mmio));
    }
    Ok(())
}

/// The primary channel of a card that is not there yet, or a sub-channel that was
/// asked for of one that is open.
fn place(offer: &OfferChannel, ledger: &impl Ledger) -> Result<u16, Violation> {
    let index = offer.sub_channel_index.get();
    let live = ledger.instance(&offer.instance);
    if index == 0 {
        return match live {
            None => Ok(0),
            Some(_) => Err(Violation::new(Rule::CTL_24, 184, offer.relid.get())),
        };
    }
    if live != Some(Standing::Open) {
        return Err(Violation::new(Rule::CTL_25, 180, index));
    }
    match ledger.window(&offer.instance) {
        None => Err(Violation::new(Rule::CTL_27, 180, index)),
        Some(window) if window.expects(index) => Ok(index),
        Some(_) => Err(Violation::new(Rule::CTL_26, 180, index)),
    }
}

/// How signals travel.
fn wiring(offer: &OfferChannel, gate: &Gate, ledger: &impl Ledger) -> Result<u32, Violation> {
    let dedicated = offer.is_dedicated.get();
    if dedicated != 1 {
        return Err(Violation::new(Rule::CTL_33, 190, dedicated));
    }
    let id = offer.connection_id.get();
    let taken = [
        0,
        CONNECTION_MESSAGE_LEGACY,
        CONNECTION_MESSAGE,
        CONNECTION_EVENT_SHARED,
        CONNECTION_MONITOR,
        gate.message_connection,
    ];
    if id > CONNECTION_ID_MASK || taken.contains(&id) || ledger.has_connection(id) {
        return Err(Violation::new(Rule::CTL_34, 192, id));
    }
    Ok(id)
}

/// Whether the configuration allows one more card.
fn room(instance: &Guid, gate: &Gate, ledger: &impl Ledger) -> Result<(), Violation> {
    let channels = ledger.channels();
    match gate.admission {
        Admission::All => {}
        Admission::Returning if ledger.adopted(instance) => {}
        Admission::Returning | Admission::Nothing => {
            return Err(Violation::new(Rule::CTL_29, 0, channels as u64));
        }
        Admission::Exhausted => return Err(Violation::new(Rule::CTL_28, 0, channels as u64)),
    }
    let nics = ledger.nics();
    if nics >= gate.max_nics {
        return Err(Violation::new(Rule::SYS_14, 0, nics as u64));
    }
    Ok(())
}
