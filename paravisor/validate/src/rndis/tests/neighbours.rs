//! Each rule beside the message that is just legal, and what the violation points at.

use super::*;
use crate::Layer;
use crate::frame::MAX_SEGMENTED;
use crate::neighbours::{Neighbours, verdict};
use crate::rndis::response;

fn data(bytes: &[u8]) -> Option<Violation> {
    verdict(judge(bytes))
}

/// As [`data`], with 802.1Q agreed on.
fn tagged(bytes: &[u8]) -> Option<Violation> {
    let mut context = context();
    context.packet.vlan = true;
    verdict(message(bytes, Carrier::Data, &context))
}

fn events(bytes: &[u8]) -> Option<Violation> {
    verdict(control(bytes, None))
}

fn answers(request: Request) -> impl Fn(&[u8]) -> Option<Violation> {
    move |bytes| verdict(control(bytes, awaited(request)))
}

fn le(word: u32) -> [u8; 4] {
    word.to_le_bytes()
}

/// First byte of per-packet information that lies right behind the header.
const PPI: usize = 44;
/// Value of its first element.
const VALUE: usize = PPI + 12;

fn headers(n: &mut Neighbours) {
    let whole = packet(|_| ());
    let up = indicate(status::MEDIA_CONNECT, 0, 0, &[]);
    n.cut(Rule::RND_01, data, &whole, 7);
    n.field(Rule::RND_02, data, &whole, 4, le(105));
    n.field(Rule::RND_02, data, &whole, 4, le(7));
    n.field(Rule::RND_02, data, &whole, 4, le(u32::MAX));
    n.field(Rule::RND_04, events, &up, 0, le(0x8000_0006));
    n.field(Rule::RND_63, events, &up, 0, le(kind::QUERY));
    let on = |carrier| verdict(message(&whole, carrier, &context()));
    n.state(
        Rule::NVS_33,
        &whole,
        on(Carrier::Data),
        on(Carrier::Control),
    );
    let early = Context {
        ready: false,
        ..context()
    };
    let early = verdict(message(&whole, Carrier::Data, &early));
    n.state(Rule::RND_35, &whole, data(&whole), early);
    let sub = Context {
        primary: false,
        ..context()
    };
    let sub = verdict(message(&up, Carrier::Control, &sub));
    n.state(Rule::RND_66, &up, events(&up), sub);
}

fn frames(n: &mut Neighbours) {
    let whole = packet(|_| ());
    n.field(Rule::RND_05, data, &whole, 4, le(43));
    n.field(Rule::RND_06, data, &whole, 8, le(35));
    n.field(Rule::RND_07, data, &whole, 8, le(0xFFFF_FFFC));
    n.field(Rule::RND_07, data, &whole, 12, le(61));
    let shortest = packet_with(&[], &frame(14), |_| ());
    n.field(Rule::RND_08, data, &shortest, 12, le(13));
    let longest = packet_with(&[], &frame(1519), |header| header.data_length = 1518.into());
    n.field(Rule::RND_09, data, &longest, 12, le(1519));
    for at in [16, 20, 24] {
        n.field(Rule::RND_10, data, &whole, at, le(1));
    }
    n.field(Rule::RND_67, data, &whole, 44, [2]);
    n.field(Rule::RND_67, data, &whole, 44 + 5, [0x99]);
    let tag = with_ppi(&element(ppi::IEEE_8021Q, 16));
    n.field(Rule::RND_68, tagged, &tag, PPI + 16 + 12, [0x81, 0x00]);
    n.field(Rule::RND_68, tagged, &tag, PPI + 16 + 12, [0x88, 0xA8]);
}

fn information(n: &mut Neighbours) {
    let one = with_ppi(&element(ppi::HASH_VALUE, 1));
    n.field(Rule::RND_12, data, &one, 28, le(0));
    for offset in [32, 37, 0xFFFF_FFFC] {
        n.field(Rule::RND_13, data, &one, 28, le(offset));
    }
    n.field(Rule::RND_14, data, &one, 32, le(11));
    n.field(Rule::RND_14, data, &one, 32, le(1000));
    n.field(Rule::RND_15, data, &one, 28, le(40));
    for size in [0, 11] {
        n.field(Rule::RND_16, data, &one, PPI, le(size));
    }
    let two = with_ppi(&[element(ppi::HASH_VALUE, 1), element(ppi::HASH_INFO, 2)].concat());
    n.field(Rule::RND_16, data, &two, PPI + 16, le(8));
    n.field(Rule::RND_17, data, &two, PPI + 16, le(20));
    n.field(Rule::RND_18, data, &two, PPI, le(13));
    for offset in [8, 13] {
        n.field(Rule::RND_19, data, &one, PPI + 8, le(offset));
    }
    n.field(Rule::RND_21, data, &two, PPI + 20, le(ppi::HASH_VALUE));
    let bare = |kind: u32| {
        let header = rndis::PerPacketInfo {
            size: 12.into(),
            kind: (100 + kind).into(),
            value_offset: 12.into(),
        };
        header.as_bytes().to_vec()
    };
    let many = |count| data(&with_ppi(&(0..count).flat_map(bare).collect::<Vec<u8>>()));
    n.count(Rule::RND_20, many(16), many(17), PPI + 16 * 12, 17);
    // What is left is too short for an element.
    let rest = with_ppi(&[element(ppi::HASH_VALUE, 1), std::vec![0; 8]].concat());
    n.count(Rule::RND_16, data(&one), data(&rest), PPI + 16, 8);

    // Values, the second of two elements among them.
    let good = checksum::RX_TCP_SUCCEEDED;
    let both = good | checksum::RX_TCP_FAILED;
    let sums = [element(ppi::HASH_VALUE, 1), element(ppi::CHECKSUM, good)].concat();
    n.field(Rule::RND_24, data, &with_ppi(&sums), VALUE + 16, le(both));
    let tag = with_ppi(&element(ppi::IEEE_8021Q, 4094 << 4));
    n.field(Rule::RND_26, tagged, &tag, VALUE, le(4095 << 4));
    n.field(Rule::RND_26, tagged, &tag, VALUE, le(1 << 16));
    n.state(Rule::RND_26, &tag, tagged(&tag), data(&tag));
    let id = with_ppi(&element(ppi::PACKET_ID, 1));
    n.field(Rule::RND_28, data, &id, VALUE + 1, [1]);
    // A value that does not lie right behind its header.
    let mut far = element(ppi::PACKET_ID, 0);
    far.extend_from_slice(&le(1));
    far[..4].copy_from_slice(&le(20));
    far[8..12].copy_from_slice(&le(16));
    n.field(Rule::RND_28, data, &with_ppi(&far), VALUE + 5, [1]);
}

/// A fragment of a coalesced packet, with its flags and the packet's number.
fn fragment(flags: u8, id: u16, len: usize) -> Vec<u8> {
    let [low, high] = id.to_le_bytes();
    let place = u32::from_le_bytes([1, packet_id::SUB_ALLOCATION | flags, low, high]);
    packet_with(&element(ppi::PACKET_ID, place), &frame(len), |_| ())
}

/// What is wrong with fragments in a row, all that one packet has.
fn joined(fragments: &[Vec<u8>]) -> Option<Violation> {
    let mut context = context();
    context.packet.coalescing = true;
    let mut gathered = Gathered::new();
    fragments.iter().enumerate().find_map(|(at, bytes)| {
        let Message::Packet(packet) = message(bytes, Carrier::Data, &context).unwrap().value else {
            panic!("no frame");
        };
        let more = at + 1 < fragments.len();
        gathered.add(&packet.part().unwrap(), more).err()
    })
}

fn fragments(n: &mut Neighbours) {
    const FIRST: u8 = packet_id::FIRST;
    const LAST: u8 = packet_id::LAST;
    /// Flags and id of a fragment.
    const PLACE: usize = VALUE + 1;
    let two = [fragment(FIRST, 7, 100), fragment(LAST, 7, 100)];
    let good = joined(&two);
    n.count(Rule::RND_29, good, joined(&two[1..]), PLACE, 0);
    let twice = [two[0].clone(), two[0].clone()];
    n.count(Rule::RND_29, good, joined(&twice), PLACE, 1);
    n.count(Rule::RND_29, good, joined(&two[..1]), PLACE, 0);
    let other = [two[0].clone(), fragment(LAST, 8, 100)];
    n.count(Rule::RND_32, good, joined(&other), PLACE, 8);

    let many = |count: usize| {
        let mut all = std::vec![fragment(0, 7, 60); count];
        all[0] = fragment(FIRST, 7, 60);
        all[count - 1] = fragment(LAST, 7, 60);
        joined(&all)
    };
    n.count(Rule::RND_30, many(562), many(563), PLACE, 562);
    let long = |len: usize| {
        let mut all = std::vec![fragment(0, 7, 1400); 46];
        all[0] = fragment(FIRST, 7, 1400);
        all.push(fragment(LAST, 7, len - 46 * 1400));
        joined(&all)
    };
    let most = MAX_SEGMENTED;
    n.count(
        Rule::RND_31,
        long(most),
        long(most + 1),
        PLACE,
        most as u64 + 1,
    );

    // The whole: of TCP, as long as its header says, its sums vouched for.
    let mut tcp = frame(60);
    tcp[14] = 0x45;
    tcp[16..18].copy_from_slice(&46_u16.to_be_bytes());
    tcp[20..22].fill(0);
    (tcp[23], tcp[46]) = (6, 0x50);
    let whole = |len, vouched| coalesce::headers(&tcp, len, vouched).err();
    n.count(Rule::RND_31, whole(60, true), whole(61, true), 0, 46);
    n.count(Rule::RND_25, whole(60, true), whole(60, false), 0, 60);
}

fn indications(n: &mut Neighbours) {
    let up = indicate(status::MEDIA_CONNECT, 0, 0, &[]);
    n.field(Rule::RND_53, events, &up, 4, le(19));
    n.field(Rule::RND_54, events, &up, 8, le(0xC001_0018));
    let speed = indicate(status::LINK_SPEED_CHANGE, 4, 12, &le(1));
    n.field(Rule::RND_53, events, &speed, 16, le(11));
    n.field(Rule::RND_53, events, &speed, 16, le(0xFFFF_FFF0));
    n.field(Rule::RND_53, events, &speed, 12, le(5));
    n.field(Rule::RND_53, events, &speed, 12, le(3));
    n.field(Rule::RND_52, events, &speed, 20, le(0));
    let far = indicate(
        status::LINK_SPEED_CHANGE,
        4,
        16,
        &[le(0), le(MAX_LINK_SPEED)].concat(),
    );
    n.field(Rule::RND_52, events, &far, 24, le(MAX_LINK_SPEED + 1));
    let mut keepalive = set_complete(0, 7);
    keepalive[..8].copy_from_slice(&[le(kind::KEEPALIVE), le(12)].concat());
    n.field(Rule::RND_64, events, &keepalive, 4, le(11));
}

fn responses(n: &mut Neighbours) {
    let set = answers(Request::Set(oid::CURRENT_PACKET_FILTER));
    let done = set_complete(0, 7);
    n.field(Rule::RND_36, &set, &done, 8, le(0));
    n.field(Rule::RND_37, &set, &done, 0, le(kind::KEEPALIVE_COMPLETE));
    n.field(Rule::RND_40, &set, &done, 4, le(15));
    n.field(Rule::RND_62, &set, &done, 12, le(0xC000_0001));

    let speed = answers(Request::Query(oid::LINK_SPEED));
    let value = query_complete(&le(1), |_| ());
    n.field(Rule::RND_40, &speed, &value, 4, le(23));
    n.field(Rule::RND_41, &speed, &value, 12, le(0xC000_00BB));
    n.field(Rule::RND_52, &speed, &value, 24, le(0));
    let mut padded = [0; 300];
    padded[0] = 1;
    let longest = query_complete(&padded, |message| {
        message.header.length = (response::MAX_RESPONSE as u32).into();
        message.buffer_length = 4.into();
    });
    let one_more = le(response::MAX_RESPONSE as u32 + 1);
    n.field(Rule::RND_39, &speed, &longest, 4, one_more);

    let address = answers(Request::Query(oid::CURRENT_ADDRESS));
    let mac = query_complete(&MAC, |_| ());
    n.field(Rule::RND_42, &address, &mac, 20, le(15));
    n.field(Rule::RND_42, &address, &mac, 20, le(0xFFFF_FFF0));
    n.field(Rule::RND_42, &address, &mac, 16, le(7));
    n.field(Rule::RND_43, &address, &mac, 16, le(3));
    n.field(Rule::RND_49, &address, &mac, 24, [1]);
    let fixed = |bytes: &[u8]| {
        let mut awaited = awaited(Request::Query(oid::CURRENT_ADDRESS)).unwrap();
        awaited.mac = Some(MAC);
        verdict(control(bytes, Some(awaited)))
    };
    n.field(Rule::RND_49, fixed, &mac, 24 + 5, [4]);

    let mtu = answers(Request::Query(oid::MAXIMUM_FRAME_SIZE));
    for (legal, bent) in [(response::MIN_MTU, response::MIN_MTU - 1), (1500, 1501)] {
        let legal = query_complete(&le(legal), |_| ());
        n.field(Rule::RND_50, &mtu, &legal, 24, le(bent));
    }
    let link = answers(Request::Query(oid::MEDIA_CONNECT_STATUS));
    n.field(Rule::RND_51, &link, &value, 24, le(2));
    let scale = answers(Request::Query(oid::RECEIVE_SCALE_CAPABILITIES));
    let eight = query_complete(&super::response::scale(8, 128), |_| ());
    n.field(Rule::RND_60, &scale, &eight, 24, le(0x0012_0289));
    n.field(Rule::RND_60, &scale, &eight, 24 + 12, le(0));
    n.field(Rule::RND_60, &scale, &eight, 24 + 16, 129u16.to_le_bytes());
    // A value that does not lie right behind the header.
    let far = query_complete(&[le(0), le(1)].concat(), |message| {
        message.buffer_length = 4.into();
        message.buffer_offset = 20.into();
    });
    n.field(Rule::RND_51, &link, &far, 28, le(2));
}

fn offloads(n: &mut Neighbours) {
    let asked = answers(Request::Query(oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES));
    let legal = query_complete(super::offload::everything().as_bytes(), |_| ());
    n.field(Rule::RND_57, &asked, &legal, 24, [0xA8]);
    n.field(Rule::RND_57, &asked, &legal, 25, [0]);
    n.field(Rule::RND_57, &asked, &legal, 26, [157, 0]);
    n.field(Rule::RND_57, &asked, &legal, 26, [111, 0]);
    // Of IPv4 and of IPv6: the largest send, and the fewest segments.
    for at in [24 + 84, 24 + 96] {
        n.field(Rule::RND_58, &asked, &legal, at, le(2 * 1518 - 1));
        n.field(Rule::RND_58, &asked, &legal, at + 4, le(3));
    }
}

fn initialization(n: &mut Neighbours) {
    let first = answers(Request::Initialize);
    let legal = initialize_complete(|message| {
        message.alignment_factor = response::MAX_ALIGNMENT.into();
        message.max_transfer = 1558.into();
    });
    n.field(Rule::RND_40, &first, &legal, 4, le(47));
    n.field(Rule::RND_41, &first, &legal, 12, le(1));
    n.field(Rule::RND_44, &first, &legal, 16, le(9));
    n.field(Rule::RND_44, &first, &legal, 20, le(1));
    n.field(Rule::RND_45, &first, &legal, 28, le(5));
    n.field(Rule::RND_45, &first, &legal, 24, le(2));
    n.field(
        Rule::RND_46,
        &first,
        &legal,
        40,
        le(response::MAX_ALIGNMENT + 1),
    );
    let too_many = le(response::MAX_PACKETS_PER_MESSAGE + 1);
    n.field(Rule::RND_47, &first, &legal, 32, too_many);
    n.field(Rule::RND_47, &first, &legal, 32, le(0));
    n.field(Rule::RND_48, &first, &legal, 36, le(1557));
}

/// Every rule of the layer that a message by itself can break: its ids are those
/// that `Neighbours::complete` counts, from RND_01 to RND_68.
#[test]
fn violations_point_at_what_differs_from_the_legal_neighbour() {
    let mut n = Neighbours::default();
    headers(&mut n);
    frames(&mut n);
    information(&mut n);
    fragments(&mut n);
    indications(&mut n);
    responses(&mut n);
    offloads(&mut n);
    initialization(&mut n);
    // Of fragments beside ranges that were refused, and of memory: the client's, as
    // rates and deadlines are.
    let client = ["RND-33", "RND-34", "RND-55", "RND-56", "RND-65"];
    n.complete(Layer::Rndis, &client);
}
