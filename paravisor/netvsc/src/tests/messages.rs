//! What an honest host answers and sends.

use super::peer::{MAC, SECTION, SLOT, SLOTS};
use abi::nvsp::{self, message, status};
use abi::rndis;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

/// A host with so many receive queues.
pub fn scale(queues: u32) -> rndis::RssCapabilities {
    rndis::RssCapabilities {
        header: rndis::ObjectHeader::new(rndis::object::RSS_CAPABILITIES, 2, 18),
        receive_queues: queues.into(),
        table_entries: 128.into(),
        ..Default::default()
    }
}

/// A host with all that we use.
pub fn offloads() -> rndis::Offload {
    let mut value = rndis::Offload {
        header: rndis::ObjectHeader::new(rndis::object::OFFLOAD, 3, 156),
        ..Default::default()
    };
    value.checksum.ipv4_tx = 0x155.into();
    value.checksum.ipv6_tx = 0x55.into();
    value.lso_v2.ipv4_encapsulation = 2.into();
    value.lso_v2.ipv4_max_size = 62780.into();
    value.lso_v2.ipv4_min_segments = 2.into();
    value.lso_v2.ipv6_encapsulation = 2.into();
    value.lso_v2.ipv6_max_size = 0xFFFF.into();
    value.lso_v2.ipv6_options = 5.into();
    value
}

pub fn header(message_type: u32, length: usize) -> rndis::Header {
    rndis::Header {
        message_type: message_type.into(),
        length: (length as u32).into(),
    }
}

pub fn init_complete(status: u32) -> nvsp::InitComplete {
    nvsp::InitComplete {
        message_type: message::INIT_COMPLETE.into(),
        negotiated_version: u32::MAX.into(),
        max_mdl_chain: 34.into(),
        status: status.into(),
    }
}

pub fn receive_buffer_complete() -> nvsp::SendReceiveBufferComplete {
    nvsp::SendReceiveBufferComplete {
        message_type: message::SEND_RECEIVE_BUFFER_COMPLETE.into(),
        status: status::SUCCESS.into(),
        section_count: 1.into(),
        section: nvsp::ReceiveSection {
            offset: 0.into(),
            sub_allocation_size: (SLOT as u32).into(),
            sub_allocation_count: (SLOTS as u32).into(),
            end_offset: ((SLOT * SLOTS) as u32).into(),
        },
    }
}

pub fn send_buffer_complete() -> nvsp::SendSendBufferComplete {
    nvsp::SendSendBufferComplete {
        message_type: message::SEND_SEND_BUFFER_COMPLETE.into(),
        status: status::SUCCESS.into(),
        section_size: (SECTION as u32).into(),
    }
}

pub fn transmitted(status: u32) -> nvsp::SendRndisPacketComplete {
    nvsp::SendRndisPacketComplete {
        message_type: message::SEND_RNDIS_PACKET_COMPLETE.into(),
        status: status.into(),
    }
}

pub fn initialize_complete(id: u32) -> rndis::InitializeComplete {
    rndis::InitializeComplete {
        header: header(rndis::message::INITIALIZE_COMPLETE, 52),
        request_id: id.into(),
        major: 1.into(),
        device_flags: rndis::DEVICE_CONNECTIONLESS.into(),
        max_packets_per_message: 8.into(),
        max_transfer: 0xEFFF.into(),
        alignment_factor: 3.into(),
        ..Default::default()
    }
}

pub fn query_complete(id: u32, status: u32, value: &[u8]) -> Vec<u8> {
    let answer = rndis::QueryComplete {
        header: header(rndis::message::QUERY_COMPLETE, 24 + value.len()),
        request_id: id.into(),
        status: status.into(),
        buffer_length: (value.len() as u32).into(),
        buffer_offset: 16.into(),
    };
    [answer.as_bytes(), value].concat()
}

pub fn set_complete(id: u32, status: u32) -> rndis::StatusComplete {
    rndis::StatusComplete {
        header: header(rndis::message::SET_COMPLETE, 16),
        request_id: id.into(),
        status: status.into(),
    }
}

/// A frame for us with contents of its own.
pub fn frame(len: usize, tag: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(7) ^ tag).collect();
    frame[..6].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame
}

/// The PACKET message around a frame, as OpenVMM lays it out: information at
/// 36, data at 248.
pub fn packet(frame: &[u8]) -> Vec<u8> {
    let mut bytes = alloc::vec![0; 8 + 248];
    let message = rndis::Packet {
        header: header(rndis::message::PACKET, 256 + frame.len()),
        data_offset: 248.into(),
        data_length: (frame.len() as u32).into(),
        ppi_offset: 36.into(),
        ppi_length: 16.into(),
        ..Default::default()
    };
    let checksum = rndis::PerPacketInfo {
        size: 16.into(),
        kind: rndis::ppi::CHECKSUM.into(),
        value_offset: 12.into(),
    };
    bytes[..44].copy_from_slice(message.as_bytes());
    bytes[44..56].copy_from_slice(checksum.as_bytes());
    bytes.extend_from_slice(frame);
    bytes
}
