//! SYS-11: every field is where the protocol's text puts it, little-endian, whatever
//! stands around it. `abi` asserts sizes and offsets when it is built; here the bytes
//! themselves are read, each one different from its neighbours.

use abi::hyperv::Message;
use abi::vmbus::{OfferChannel, PacketDescriptor};
use abi::{nvsp, rndis};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Byte `n` is `n + 1`.
fn bytes<const N: usize>() -> [u8; N] {
    std::array::from_fn(|n| (n + 1) as u8)
}

/// What `len` bytes at `offset` are as a little-endian number.
fn at(offset: u64, len: u32) -> u64 {
    (0..u64::from(len))
        .map(|n| ((offset + n + 1) & 0xff) << (8 * n))
        .sum()
}

fn read<T: FromBytes, const N: usize>() -> T {
    T::read_from_bytes(&bytes::<N>()).unwrap_or_else(|_| panic!("SYS-11: not {N} bytes"))
}

#[test]
fn sys_11_messages_of_the_host_by_their_bytes() {
    let slot: Message = read::<_, 256>();
    assert_eq!(u64::from(slot.header.message_type), at(0, 4), "SYS-11");
    assert_eq!(u64::from(slot.header.payload_size), at(4, 1), "SYS-11");
    assert_eq!(u64::from(slot.header.flags), at(5, 1), "SYS-11");
    assert_eq!(u64::from(slot.payload[0]), at(16, 1), "SYS-11");

    let offer: OfferChannel = read::<_, 196>();
    assert_eq!(
        offer.interface.0,
        std::array::from_fn(|n| n as u8 + 9),
        "SYS-11"
    );
    assert_eq!(
        offer.instance.0,
        std::array::from_fn(|n| n as u8 + 25),
        "SYS-11"
    );
    assert_eq!(u64::from(offer.flags.get()), at(56, 2), "SYS-11");
    assert_eq!(
        u64::from(offer.sub_channel_index.get()),
        at(180, 2),
        "SYS-11"
    );
    assert_eq!(u64::from(offer.relid.get()), at(184, 4), "SYS-11");
    assert_eq!(u64::from(offer.is_dedicated.get()), at(190, 2), "SYS-11");
    assert_eq!(u64::from(offer.connection_id.get()), at(192, 4), "SYS-11");

    let packet: PacketDescriptor = read::<_, 16>();
    assert_eq!(u64::from(packet.packet_type.get()), at(0, 2), "SYS-11");
    assert_eq!(u64::from(packet.data_offset8.get()), at(2, 2), "SYS-11");
    assert_eq!(u64::from(packet.length8.get()), at(4, 2), "SYS-11");
    assert_eq!(u64::from(packet.flags.get()), at(6, 2), "SYS-11");
    assert_eq!(packet.transaction_id.get(), at(8, 8), "SYS-11");

    let init: nvsp::InitComplete = read::<_, 16>();
    assert_eq!(u64::from(init.max_mdl_chain.get()), at(8, 4), "SYS-11");
    assert_eq!(u64::from(init.status.get()), at(12, 4), "SYS-11");
    let buffer: nvsp::SendReceiveBufferComplete = read::<_, 28>();
    assert_eq!(u64::from(buffer.status.get()), at(4, 4), "SYS-11");
    assert_eq!(u64::from(buffer.section_count.get()), at(8, 4), "SYS-11");

    let frame: rndis::Packet = read::<_, 44>();
    assert_eq!(u64::from(frame.header.length.get()), at(4, 4), "SYS-11");
    assert_eq!(u64::from(frame.data_offset.get()), at(8, 4), "SYS-11");
    assert_eq!(u64::from(frame.data_length.get()), at(12, 4), "SYS-11");
    let element: rndis::PerPacketInfo = read::<_, 12>();
    assert_eq!(u64::from(element.size.get()), at(0, 4), "SYS-11");
    assert_eq!(u64::from(element.value_offset.get()), at(8, 4), "SYS-11");
    let answer: rndis::QueryComplete = read::<_, 24>();
    assert_eq!(u64::from(answer.buffer_length.get()), at(16, 4), "SYS-11");
    assert_eq!(u64::from(answer.buffer_offset.get()), at(20, 4), "SYS-11");
}

/// And the other way: an offer written by its fields is these bytes and no others.
#[test]
fn sys_11_an_offer_written_down() {
    let mut offer = OfferChannel::new_zeroed();
    offer.header.message_type = 1.into();
    offer.relid = 0x0403_0201.into();
    offer.connection_id = 0x0807_0605.into();
    offer.is_dedicated = 0x0a09.into();
    let mut golden = [0; 196];
    golden[0] = 1;
    golden[184..188].copy_from_slice(&[1, 2, 3, 4]);
    golden[190..196].copy_from_slice(&[9, 10, 5, 6, 7, 8]);
    assert_eq!(offer.as_bytes(), golden, "SYS-11");
}
