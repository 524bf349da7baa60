//! The messages that are measured: what an honest host sends.

use abi::vmbus::{
    MessageType, OfferChannel, OpenChannelResult, PacketDescriptor, RescindChannelOffer,
    TransferPageHeader, TransferPageRange, class,
};
use abi::{nvsp, rndis};
use zerocopy::{FromZeros, IntoBytes};

pub const MAC: [u8; 6] = [0x00, 0x15, 0x5D, 0x0A, 0x0B, 0x0C];
/// Size of a slot of the receive buffer.
pub const SLOT: u32 = 1806;
/// Slots of the receive buffer.
pub const SLOTS: u32 = 1000;
/// Bytes of the receive buffer.
pub const BUFFER: u32 = netvsc::limits::RECEIVE_BUFFER as u32;

/// A full message slot with this payload.
pub fn slot(payload: &[u8]) -> [u8; 256] {
    let mut slot = [0; 256];
    slot[0] = 1;
    slot[4] = payload.len() as u8;
    slot[16..16 + payload.len()].copy_from_slice(payload);
    slot
}

/// The network card's offer.
pub fn offer() -> Vec<u8> {
    let mut offer = OfferChannel::new_zeroed();
    offer.header.message_type = MessageType::OFFER_CHANNEL.0.into();
    offer.interface = class::NIC;
    offer.instance = abi::vmbus::Guid([0xB; 16]);
    offer.relid = 9.into();
    offer.is_dedicated = 1.into();
    offer.connection_id = 0x2009.into();
    offer.as_bytes().to_vec()
}

pub fn opened() -> Vec<u8> {
    let mut message = OpenChannelResult::new_zeroed();
    message.header.message_type = MessageType::OPEN_CHANNEL_RESULT.0.into();
    message.relid = 7.into();
    message.open_id = 9.into();
    message.as_bytes().to_vec()
}

pub fn rescind() -> Vec<u8> {
    let mut message = RescindChannelOffer::new_zeroed();
    message.header.message_type = MessageType::RESCIND_CHANNEL_OFFER.0.into();
    message.relid = 7.into();
    message.as_bytes().to_vec()
}

/// A ring packet: descriptor, what stands before the payload, payload.
fn packet(kind: u16, extended: &[u8], payload: &[u8]) -> Vec<u8> {
    let offset = size_of::<PacketDescriptor>() + extended.len();
    let length = (offset + payload.len()).next_multiple_of(8);
    let descriptor = PacketDescriptor {
        packet_type: kind.into(),
        data_offset8: (offset as u16 / 8).into(),
        length8: (length as u16 / 8).into(),
        flags: u16::from(kind == 7).into(),
        transaction_id: 0x1234.into(),
    };
    let mut bytes = [descriptor.as_bytes(), extended, payload].concat();
    bytes.resize(length, 0);
    bytes
}

/// A transmit completion in its ring packet.
pub fn completion_packet() -> Vec<u8> {
    packet(11, &[], &transmitted())
}

/// A transfer-page packet that names these ranges (length, offset).
pub fn transfer_packet(ranges: &[(u32, u32)]) -> Vec<u8> {
    let header = TransferPageHeader {
        set_id: nvsp::RECEIVE_BUFFER_ID.into(),
        range_count: (ranges.len() as u32).into(),
        ..TransferPageHeader::new_zeroed()
    };
    let mut extended = header.as_bytes().to_vec();
    for (count, offset) in ranges {
        let range = TransferPageRange {
            byte_count: (*count).into(),
            byte_offset: (*offset).into(),
        };
        extended.extend_from_slice(range.as_bytes());
    }
    packet(7, &extended, &receive())
}

pub fn transmitted() -> Vec<u8> {
    let message = nvsp::SendRndisPacketComplete {
        message_type: nvsp::message::SEND_RNDIS_PACKET_COMPLETE.into(),
        status: nvsp::status::SUCCESS.into(),
    };
    message.as_bytes().to_vec()
}

pub fn receive() -> Vec<u8> {
    let message = nvsp::SendRndisPacket {
        message_type: nvsp::message::SEND_RNDIS_PACKET.into(),
        channel_type: nvsp::channel_type::DATA.into(),
        section_index: nvsp::NO_SECTION.into(),
        section_size: 0.into(),
    };
    message.as_bytes().to_vec()
}

pub fn receive_buffer() -> Vec<u8> {
    let message = nvsp::SendReceiveBufferComplete {
        message_type: nvsp::message::SEND_RECEIVE_BUFFER_COMPLETE.into(),
        status: nvsp::status::SUCCESS.into(),
        section_count: 1.into(),
        section: nvsp::ReceiveSection {
            offset: 0.into(),
            sub_allocation_size: SLOT.into(),
            sub_allocation_count: SLOTS.into(),
            end_offset: (SLOT * SLOTS).into(),
        },
    };
    message.as_bytes().to_vec()
}

/// An indirection table for a NIC with four channels.
pub fn table() -> Vec<u8> {
    let header = nvsp::SendIndirectionTable {
        message_type: nvsp::message::SEND_INDIRECTION_TABLE.into(),
        count: nvsp::INDIRECTION_ENTRIES.into(),
        offset: 12.into(),
    };
    let mut bytes = header.as_bytes().to_vec();
    for entry in 0..nvsp::INDIRECTION_ENTRIES {
        bytes.extend_from_slice(&(entry % 4).to_le_bytes());
    }
    bytes
}

fn element(kind: u32, value: u32) -> Vec<u8> {
    let header = rndis::PerPacketInfo {
        size: 16.into(),
        kind: kind.into(),
        value_offset: 12.into(),
    };
    [header.as_bytes(), &value.to_le_bytes()].concat()
}

/// A PACKET message around a frame for [`MAC`], with checksum and hash elements
/// or without any.
pub fn frame(len: usize, information: bool) -> Vec<u8> {
    let elements = match information {
        true => [
            element(rndis::ppi::CHECKSUM, rndis::checksum::RX_TCP_SUCCEEDED),
            element(rndis::ppi::HASH_VALUE, 0x1234_5678),
            element(rndis::ppi::HASH_INFO, 1),
        ]
        .concat(),
        false => Vec::new(),
    };
    let header_len = size_of::<rndis::Packet>();
    let offset = (header_len - rndis::OFFSET_BASE + elements.len()) as u32;
    let header = rndis::Packet {
        header: rndis::Header {
            message_type: rndis::message::PACKET.into(),
            length: ((header_len + elements.len() + len) as u32).into(),
        },
        data_offset: offset.into(),
        data_length: (len as u32).into(),
        ppi_offset: ((header_len - rndis::OFFSET_BASE) as u32).into(),
        ppi_length: (elements.len() as u32).into(),
        ..Default::default()
    };
    let mut bytes = [header.as_bytes(), &elements, &MAC].concat();
    bytes.resize(header_len + elements.len() + len, 0x5A);
    bytes
}

/// The link has come up.
pub fn event() -> Vec<u8> {
    let message = rndis::IndicateStatus {
        header: rndis::Header {
            message_type: rndis::message::INDICATE_STATUS.into(),
            length: (size_of::<rndis::IndicateStatus>() as u32).into(),
        },
        status: rndis::status::MEDIA_CONNECT.into(),
        ..Default::default()
    };
    message.as_bytes().to_vec()
}
