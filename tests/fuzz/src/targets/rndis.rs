//! RNDIS messages in the private copy of a range.

use crate::{Digest, Input};
use abi::rndis::oid;
use validate::frame::{Network, Transport};
use validate::nvsp::Carrier;
use validate::rndis::packet::{FRAME_OVERHEAD, MIN_FRAME};
use validate::rndis::response::{MAX_PACKETS_PER_MESSAGE, MIN_MTU};
use validate::rndis::{
    AwaitedResponse, Context, MAX_LINK_SPEED, Message, PacketContext, Request, Response, Value,
    message,
};

const MAC: [u8; 6] = [2, 0x15, 0x5d, 0, 0, 1];
const OIDS: [u32; 8] = [
    oid::PERMANENT_ADDRESS,
    oid::CURRENT_ADDRESS,
    oid::MAXIMUM_FRAME_SIZE,
    oid::LINK_SPEED,
    oid::MEDIA_CONNECT_STATUS,
    oid::CURRENT_PACKET_FILTER,
    oid::MEDIA_CONNECT_STATUS,
    0x0001_0101,
];

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let flags = input.u8();
    let mtu = match input.u8() {
        0..=191 => 1500,
        high => 1280 + u32::from(high) * 40,
    };
    let kind = input.u8();
    let request = match kind % 3 {
        0 => Request::Initialize,
        1 => Request::Query(OIDS[usize::from(kind / 3) % OIDS.len()]),
        _ => Request::Set(OIDS[usize::from(kind / 3) % OIDS.len()]),
    };
    let awaited = AwaitedResponse {
        request_id: 7,
        request,
        transfer: mtu + 62,
        mtu,
        mac: (flags & 2 != 0).then_some(MAC),
        enforce_medium: flags & 4 != 0,
    };
    let context = Context {
        primary: flags & 8 == 0,
        ready: flags & 16 == 0,
        packet: PacketContext {
            mtu,
            mac: MAC,
            promiscuous: flags & 32 != 0,
            vlan: flags & 64 != 0,
            coalescing: flags & 128 != 0,
            refuse_oob: flags & 128 != 0,
        },
        awaited: (kind != 0xff).then_some(awaited),
    };
    let carrier = if flags & 1 == 0 {
        Carrier::Data
    } else {
        Carrier::Control
    };
    let bytes = input.rest();
    let judged = message(bytes, carrier, &context);
    let mut digest = Digest::new();
    digest.debug(&judged);
    let Ok(judged) = judged else {
        return digest.value();
    };
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    assert!(length <= bytes.len());
    match judged.value {
        Message::Packet(packet) => {
            assert!(context.ready && carrier == Carrier::Data);
            let frame = packet.frame();
            let at = frame.as_ptr() as usize - bytes.as_ptr() as usize;
            assert!(
                at >= 44 && at + frame.len() <= length,
                "frame outside of its message"
            );
            assert!((MIN_FRAME..=mtu + FRAME_OVERHEAD).contains(&(frame.len() as u32)));
            assert!(context.packet.promiscuous || frame[0] & 1 != 0 || frame[..6] == MAC);
            assert!(packet.vlan().is_none() || context.packet.vlan);
        }
        Message::Response(response) => {
            assert!(context.primary && carrier == Carrier::Control);
            let awaited = context.awaited.expect("nothing was asked");
            assert_eq!(
                u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
                awaited.request_id
            );
            match response {
                Response::Initialized(limits) => {
                    assert_eq!(request, Request::Initialize);
                    assert!((1..=MAX_PACKETS_PER_MESSAGE).contains(&limits.max_packets()));
                    assert!(limits.max_transfer() >= awaited.transfer);
                    assert!(limits.alignment().is_power_of_two() && limits.alignment() <= 128);
                }
                Response::Value(value) => {
                    assert!(matches!(request, Request::Query(_)));
                    match value {
                        Value::Mac(mac) => {
                            assert!(mac[0] & 1 == 0 && mac != [0; 6]);
                            assert!(awaited.mac.is_none_or(|ours| ours == mac));
                        }
                        Value::Mtu(value) => assert!((MIN_MTU..=mtu).contains(&value)),
                        Value::LinkSpeed(speed) => assert!((1..=MAX_LINK_SPEED).contains(&speed)),
                        Value::Offloads(value) => {
                            for network in [Network::V4, Network::V6] {
                                let large = value.large_send(network).unwrap_or(65553);
                                let least = (2 * (mtu as usize + 18)).min(65553);
                                assert!((least..=65553).contains(&large));
                                let tcp = value.checksum(network, Transport::Tcp);
                                assert!(tcp || value.large_send(network).is_none());
                            }
                        }
                        Value::Scale { queues, table, .. } => {
                            assert!((1..=64).contains(&queues));
                            assert!((1..=128).contains(&table) && table.is_power_of_two());
                        }
                        Value::LinkUp(_) | Value::Number(_) => {}
                    }
                }
                Response::Set => assert!(matches!(request, Request::Set(_))),
            }
        }
        Message::Indication(_) | Message::Keepalive { .. } => {
            assert!(context.primary && carrier == Carrier::Control);
        }
    }
    digest.value()
}
