//! What a scenario can name: kinds of messages, their fields, registers, device
//! classes. Numbers and offsets come from `abi`.
use abi::hyperv::msr;
use abi::nvsp::{self, message as nvsp_message};
use abi::rndis::{self, message as rndis_message};
use abi::vmbus::{self, Guid, MESSAGES, MessageType, PacketDescriptor, PacketType, class};
use alloc::string::String;
use core::mem::offset_of;

/// Something that happens on the host's side and that a line can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A channel message, by type; of the guest too, as a step only.
    Vmbus(Option<u32>),
    /// A ring packet, by packet type.
    Packet(Option<u16>),
    /// A ring packet, by the type of the NVSP message in it.
    Nvsp(Option<u32>),
    /// An RNDIS message in the receive buffer, by type.
    Rndis(Option<u32>),
    /// The interrupt of the NIC's channel.
    Signal,
    /// A hypercall of the guest, by code.
    Hypercall(u16),
    /// A read of a synthetic register.
    Register(u32),
}

impl Kind {
    /// Whether a guest's message is meant.
    pub fn is_guests(self) -> bool {
        match self {
            Kind::Vmbus(Some(kind)) => MessageType(kind)
                .info()
                .is_some_and(|info| info.direction == vmbus::Direction::ToHost),
            _ => false,
        }
    }

    /// Whether `other` is one of these.
    pub fn covers(self, other: Kind) -> bool {
        match (self, other) {
            (Kind::Vmbus(None), Kind::Vmbus(_))
            | (Kind::Packet(None), Kind::Packet(_))
            | (Kind::Nvsp(None), Kind::Nvsp(_))
            | (Kind::Rndis(None), Kind::Rndis(_)) => true,
            _ => self == other,
        }
    }
}

/// Where a field's offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// First byte of the message or packet.
    Start,
    /// First byte of a packet's payload.
    Payload,
    /// Not in the message: in the head of its SynIC slot.
    Slot(SlotField),
}

/// Fields of a SynIC slot's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotField {
    /// Message type of the hypervisor.
    Type,
    /// Payload size.
    Size,
    /// Flags beside "more waits".
    Flags,
    /// Which slot.
    Sint,
}

/// A named field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in a scenario.
    pub name: &'static str,
    /// What `at` counts from.
    pub base: Base,
    /// Offset.
    pub at: usize,
    /// Bytes: 1, 2, 4, 8 or 16.
    pub width: usize,
}

macro_rules! fields {
    ($base:expr, $t:ty; $($name:literal = $($f:ident).+ : $width:literal),* $(,)?) => {
        &[$(Field { name: $name, base: $base, at: offset_of!($t, $($f).+), width: $width }),*]
    };
}

macro_rules! at {
    ($base:expr; $($name:literal = $at:expr, $width:literal);* $(;)?) => {
        &[$(Field { name: $name, base: $base, at: $at, width: $width }),*]
    };
}

const VMBUS: &[Field] = fields!(Base::Start, vmbus::MessageHeader;
    "type" = message_type: 4, "padding" = padding: 4);
const SLOT: &[Field] = &[
    slot("slot.type", SlotField::Type),
    slot("slot.size", SlotField::Size),
    slot("slot.flags", SlotField::Flags),
    slot("slot.sint", SlotField::Sint),
];
const OFFER: &[Field] = fields!(Base::Start, vmbus::OfferChannel;
    "interface" = interface: 16, "instance" = instance: 16, "flags" = flags: 2,
    "mmio-megabytes" = mmio_megabytes: 2, "sub-channel" = sub_channel_index: 2, "relid" = relid: 4,
    "monitor-id" = monitor_id: 1, "monitor-allocated" = monitor_allocated: 1,
    "dedicated" = is_dedicated: 2, "connection" = connection_id: 4);
const RESCIND: &[Field] = fields!(Base::Start, vmbus::RescindChannelOffer; "relid" = relid: 4);
const OPEN_RESULT: &[Field] = fields!(Base::Start, vmbus::OpenChannelResult;
    "relid" = relid: 4, "open-id" = open_id: 4, "status" = status: 4);
const GPADL_CREATED: &[Field] = fields!(Base::Start, vmbus::GpadlCreated;
    "relid" = relid: 4, "gpadl" = gpadl: 4, "status" = status: 4);
const GPADL_TORNDOWN: &[Field] = fields!(Base::Start, vmbus::GpadlTorndown; "gpadl" = gpadl: 4);
const VERSION_RESPONSE: &[Field] = fields!(Base::Start, vmbus::VersionResponse2;
    "supported" = response.supported: 1, "state" = response.connection_state: 1,
    "connection" = response.message_connection_id: 4, "features" = features: 4);
const MODIFY_RESPONSE: &[Field] = fields!(Base::Start, vmbus::ModifyChannelResponse;
    "relid" = relid: 4, "status" = status: 4);

const PACKET: &[Field] = fields!(Base::Start, PacketDescriptor;
    "packet.type" = packet_type: 2, "packet.data-offset8" = data_offset8: 2,
    "packet.length8" = length8: 2, "packet.flags" = flags: 2,
    "packet.transaction" = transaction_id: 8);
/// Of a transfer-page packet, behind its descriptor.
const TRANSFER: &[Field] = at!(Base::Start;
    "set-id" = 16, 2; "range-count" = 20, 4; "range-length" = 24, 4; "range-offset" = 28, 4);
const NVSP: &[Field] = fields!(Base::Payload, nvsp::Header; "type" = message_type: 4);
const INIT_COMPLETE: &[Field] = fields!(Base::Payload, nvsp::InitComplete;
    "version" = negotiated_version: 4, "chain" = max_mdl_chain: 4, "status" = status: 4);
const RECEIVE_BUFFER: &[Field] = fields!(Base::Payload, nvsp::SendReceiveBufferComplete;
    "status" = status: 4, "sections" = section_count: 4, "section-offset" = section.offset: 4,
    "slot-size" = section.sub_allocation_size: 4, "slot-count" = section.sub_allocation_count: 4,
    "section-end" = section.end_offset: 4);
const SEND_BUFFER: &[Field] = fields!(Base::Payload, nvsp::SendSendBufferComplete;
    "status" = status: 4, "section-size" = section_size: 4);
const SEND_RNDIS: &[Field] = fields!(Base::Payload, nvsp::SendRndisPacket;
    "channel-type" = channel_type: 4, "section-index" = section_index: 4,
    "section-size" = section_size: 4);
const SEND_RNDIS_COMPLETE: &[Field] = fields!(Base::Payload, nvsp::SendRndisPacketComplete;
    "status" = status: 4);
const VF: &[Field] = fields!(Base::Payload, nvsp::SendVfAssociation;
    "allocated" = allocated: 4, "serial" = serial: 4);
const SUB_CHANNEL: &[Field] = fields!(Base::Payload, nvsp::SubChannelComplete;
    "status" = status: 4, "count" = count: 4);
const TABLE: &[Field] = fields!(Base::Payload, nvsp::SendIndirectionTable;
    "count" = count: 4, "offset" = offset: 4);

const RNDIS: &[Field] = fields!(Base::Start, rndis::Header;
    "type" = message_type: 4, "length" = length: 4);
const RNDIS_PACKET: &[Field] = fields!(Base::Start, rndis::Packet;
    "data-offset" = data_offset: 4, "data-length" = data_length: 4, "oob-offset" = oob_offset: 4,
    "oob-length" = oob_length: 4, "oob-count" = oob_count: 4, "ppi-offset" = ppi_offset: 4,
    "ppi-length" = ppi_length: 4, "vc-handle" = vc_handle: 4, "reserved" = reserved: 4);
/// The first element of per-packet information, where this host puts it.
const PPI: &[Field] = at!(Base::Start;
    "ppi.size" = 44, 4; "ppi.kind" = 48, 4; "ppi.value-offset" = 52, 4; "ppi.value" = 56, 4);
const INITIALIZE: &[Field] = fields!(Base::Start, rndis::InitializeComplete;
    "request" = request_id: 4, "status" = status: 4, "major" = major: 4, "minor" = minor: 4,
    "device-flags" = device_flags: 4, "medium" = medium: 4,
    "max-packets" = max_packets_per_message: 4, "max-transfer" = max_transfer: 4,
    "alignment" = alignment_factor: 4);
const QUERY: &[Field] = fields!(Base::Start, rndis::QueryComplete;
    "request" = request_id: 4, "status" = status: 4, "buffer-length" = buffer_length: 4,
    "buffer-offset" = buffer_offset: 4);
const STATUS: &[Field] = fields!(Base::Start, rndis::StatusComplete;
    "request" = request_id: 4, "status" = status: 4);
const INDICATE: &[Field] = fields!(Base::Start, rndis::IndicateStatus;
    "status" = status: 4, "buffer-length" = buffer_length: 4, "buffer-offset" = buffer_offset: 4);
const KEEPALIVE: &[Field] = fields!(Base::Start, rndis::Keepalive; "request" = request_id: 4);

const fn slot(name: &'static str, field: SlotField) -> Field {
    Field {
        name,
        base: Base::Slot(field),
        at: 0,
        width: 4,
    }
}

/// Tables of the fields that messages of `kind` have.
fn tables(kind: Kind) -> [&'static [Field]; 4] {
    const NONE: &[Field] = &[];
    match kind {
        Kind::Vmbus(which) => {
            let own = match which.map(MessageType) {
                Some(MessageType::OFFER_CHANNEL) => OFFER,
                Some(MessageType::RESCIND_CHANNEL_OFFER) => RESCIND,
                Some(MessageType::OPEN_CHANNEL_RESULT) => OPEN_RESULT,
                Some(MessageType::GPADL_CREATED) => GPADL_CREATED,
                Some(MessageType::GPADL_TORNDOWN) => GPADL_TORNDOWN,
                Some(MessageType::VERSION_RESPONSE) => VERSION_RESPONSE,
                Some(MessageType::MODIFY_CHANNEL_RESPONSE) => MODIFY_RESPONSE,
                _ => NONE,
            };
            [own, VMBUS, SLOT, NONE]
        }
        Kind::Packet(which) => match which.map(PacketType) {
            Some(PacketType::TRANSFER_PAGES) => [TRANSFER, PACKET, NONE, NONE],
            _ => [PACKET, NONE, NONE, NONE],
        },
        Kind::Nvsp(which) => match which {
            Some(nvsp_message::SEND_RNDIS_PACKET) => [SEND_RNDIS, TRANSFER, PACKET, NVSP],
            other => {
                let own = match other {
                    Some(nvsp_message::INIT_COMPLETE) => INIT_COMPLETE,
                    Some(nvsp_message::SEND_RECEIVE_BUFFER_COMPLETE) => RECEIVE_BUFFER,
                    Some(nvsp_message::SEND_SEND_BUFFER_COMPLETE) => SEND_BUFFER,
                    Some(nvsp_message::SEND_RNDIS_PACKET_COMPLETE) => SEND_RNDIS_COMPLETE,
                    Some(nvsp_message::SEND_VF_ASSOCIATION) => VF,
                    Some(nvsp_message::SUB_CHANNEL) => SUB_CHANNEL,
                    Some(nvsp_message::SEND_INDIRECTION_TABLE) => TABLE,
                    _ => NONE,
                };
                [own, PACKET, NVSP, NONE]
            }
        },
        Kind::Rndis(which) => {
            let own = match which {
                Some(rndis_message::PACKET) => return [RNDIS_PACKET, PPI, RNDIS, NONE],
                Some(rndis_message::INITIALIZE_COMPLETE) => INITIALIZE,
                Some(rndis_message::QUERY_COMPLETE) => QUERY,
                Some(rndis_message::SET_COMPLETE | rndis_message::KEEPALIVE_COMPLETE) => STATUS,
                Some(rndis_message::INDICATE_STATUS) => INDICATE,
                Some(rndis_message::KEEPALIVE) => KEEPALIVE,
                _ => NONE,
            };
            [own, RNDIS, NONE, NONE]
        }
        Kind::Signal | Kind::Hypercall(_) | Kind::Register(_) => [NONE; 4],
    }
}

/// Names of the fields of `kind`.
pub fn field_names(kind: Kind) -> impl Iterator<Item = &'static str> {
    tables(kind).into_iter().flatten().map(|f| f.name)
}

/// A field of `kind` by name.
pub fn field(kind: Kind, name: &str) -> Option<Field> {
    tables(kind)
        .into_iter()
        .flatten()
        .find(|f| f.name == name)
        .copied()
}

/// Bytes that an invented message of `kind` has unless it is told otherwise.
pub fn size(kind: Kind) -> usize {
    let size = |fields: &[Field]| fields.iter().map(|f| f.at + f.width).max().unwrap_or(8);
    match kind {
        Kind::Vmbus(Some(number)) => MessageType(number).info().map_or(8, |info| info.min_size),
        // The size of every message since NVSP 6.1.
        Kind::Nvsp(_) => nvsp::MESSAGE_SIZE_V61,
        _ => tables(kind).into_iter().map(size).max().unwrap_or(8).max(8),
    }
}

const PACKETS: [(&str, PacketType); 3] = [
    ("in-band", PacketType::IN_BAND),
    ("transfer-pages", PacketType::TRANSFER_PAGES),
    ("completion", PacketType::COMPLETION),
];

const NVSPS: [(&str, u32); 8] = [
    ("init-complete", nvsp_message::INIT_COMPLETE),
    (
        "receive-buffer-complete",
        nvsp_message::SEND_RECEIVE_BUFFER_COMPLETE,
    ),
    (
        "send-buffer-complete",
        nvsp_message::SEND_SEND_BUFFER_COMPLETE,
    ),
    ("rndis-packet", nvsp_message::SEND_RNDIS_PACKET),
    (
        "rndis-packet-complete",
        nvsp_message::SEND_RNDIS_PACKET_COMPLETE,
    ),
    ("vf-association", nvsp_message::SEND_VF_ASSOCIATION),
    ("sub-channel", nvsp_message::SUB_CHANNEL),
    ("indirection-table", nvsp_message::SEND_INDIRECTION_TABLE),
];

const RNDISES: [(&str, u32); 8] = [
    ("packet", rndis_message::PACKET),
    ("initialize-complete", rndis_message::INITIALIZE_COMPLETE),
    ("query-complete", rndis_message::QUERY_COMPLETE),
    ("set-complete", rndis_message::SET_COMPLETE),
    ("keepalive", rndis_message::KEEPALIVE),
    ("keepalive-complete", rndis_message::KEEPALIVE_COMPLETE),
    ("indicate-status", rndis_message::INDICATE_STATUS),
    ("halt", rndis_message::HALT),
];

const HYPERCALLS: [(&str, u16); 2] = [
    ("post-message", abi::hyperv::call::POST_MESSAGE),
    ("signal-event", abi::hyperv::call::SIGNAL_EVENT),
];

const REGISTERS: [(&str, u32); 8] = [
    ("vp-index", msr::VP_INDEX),
    ("reference-time", msr::TIME_REF_COUNT),
    ("tsc-frequency", msr::TSC_FREQUENCY),
    ("scontrol", msr::SCONTROL),
    ("sversion", msr::SVERSION),
    ("siefp", msr::SIEFP),
    ("simp", msr::SIMP),
    ("sint7", msr::SINT0 + 7),
];

const CLASSES: [(&str, Guid); 12] = [
    ("nic", class::NIC),
    ("scsi", class::SCSI),
    ("pci", class::PCI),
    ("time-sync", class::TIME_SYNC),
    ("heartbeat", class::HEARTBEAT),
    ("shutdown", class::SHUTDOWN),
    ("keyboard", class::KEYBOARD),
    ("mouse", class::MOUSE),
    ("video", class::VIDEO),
    ("kvp", class::KVP),
    ("vss", class::VSS),
    ("dynamic-memory", class::DYNAMIC_MEMORY),
];

/// Groups of kinds and the names in each, for messages to people.
pub const GROUPS: &str = "vmbus.NAME, packet.NAME, nvsp.NAME, rndis.NAME (NAME may be * or a \
     number), signal, hypercall.NAME, register.NAME";

/// A device class by name.
pub fn device_class(name: &str) -> Option<Guid> {
    find(&CLASSES, name)
}

/// Names of all device classes.
pub fn device_classes() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().map(|(name, _)| *name)
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
}

/// `OFFER_CHANNEL` is `offer-channel`.
fn same_name(table: &str, name: &str) -> bool {
    table.len() == name.len()
        && table
            .bytes()
            .zip(name.bytes())
            .all(|(a, b)| a.to_ascii_lowercase() == b || a == b'_' && b == b'-')
}

/// Names in a group, for messages to people.
pub fn names_of(group: &str) -> String {
    let mut out = String::new();
    let mut add = |name: &str| {
        if !out.is_empty() {
            out.push_str(", ");
        }
        out.extend(name.chars().map(|c| match c {
            '_' => '-',
            c => c.to_ascii_lowercase(),
        }));
    };
    match group {
        "vmbus" => MESSAGES.iter().for_each(|m| add(m.name)),
        "packet" => PACKETS.iter().for_each(|(n, _)| add(n)),
        "nvsp" => NVSPS.iter().for_each(|(n, _)| add(n)),
        "rndis" => RNDISES.iter().for_each(|(n, _)| add(n)),
        "hypercall" => HYPERCALLS.iter().for_each(|(n, _)| add(n)),
        "register" => REGISTERS.iter().for_each(|(n, _)| add(n)),
        _ => {}
    }
    out
}

/// A kind by name. The error is the group whose name is not known, or nothing if
/// there is no such group.
pub fn kind(word: &str) -> Result<Kind, Option<&str>> {
    if word == "signal" {
        return Ok(Kind::Signal);
    }
    let (group, name) = word.split_once('.').ok_or(None)?;
    let any = name == "*";
    let number = super::parse::number(name);
    let found = match group {
        "vmbus" => {
            let by_name = || MESSAGES.iter().find(|m| same_name(m.name, name));
            let which = number.and_then(|n| u32::try_from(n).ok());
            let which = which.or_else(|| by_name().map(|m| m.message_type.0));
            (any || which.is_some()).then_some(Kind::Vmbus(which))
        }
        "packet" => {
            let which = number.and_then(|n| u16::try_from(n).ok());
            let which = which.or_else(|| find(&PACKETS, name).map(|t| t.0));
            (any || which.is_some()).then_some(Kind::Packet(which))
        }
        "nvsp" => {
            let which = number.and_then(|n| u32::try_from(n).ok());
            let which = which.or_else(|| find(&NVSPS, name));
            (any || which.is_some()).then_some(Kind::Nvsp(which))
        }
        "rndis" => {
            let which = number.and_then(|n| u32::try_from(n).ok());
            let which = which.or_else(|| find(&RNDISES, name));
            (any || which.is_some()).then_some(Kind::Rndis(which))
        }
        "hypercall" => find(&HYPERCALLS, name).map(Kind::Hypercall),
        "register" => find(&REGISTERS, name).map(Kind::Register),
        _ => return Err(None),
    };
    found.ok_or(Some(group))
}
