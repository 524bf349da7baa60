//! Rules of the ring that have no moment of refusal: what is read, how often and
//! when. A memory that writes every access down is the witness.

use super::*;
use core::cell::RefCell;
use memory::OutOfRange;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Load(usize),
    Store(usize, u32),
    CopyIn(usize, usize),
    CopyOut(usize, usize),
    Zero(usize, usize),
    Fence,
}
use Access::*;

/// Shared memory that remembers what was done to it, in order.
#[derive(Debug)]
struct Watched {
    inner: PlainShared,
    seen: RefCell<Vec<Access>>,
}

impl Watched {
    fn note(&self, access: Access) {
        self.seen.borrow_mut().push(access);
    }
    /// What was done since the last call.
    fn take(&self) -> Vec<Access> {
        self.seen.take()
    }
}

impl SharedMemory for Watched {
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn pfn(&self, index: usize) -> Option<u64> {
        self.inner.pfn(index)
    }
    fn copy_in(&self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfRange> {
        self.note(CopyIn(offset, dst.len()));
        self.inner.copy_in(offset, dst)
    }
    fn copy_out(&self, offset: usize, src: &[u8]) -> Result<(), OutOfRange> {
        self.note(CopyOut(offset, src.len()));
        self.inner.copy_out(offset, src)
    }
    fn zero(&self, offset: usize, len: usize) -> Result<(), OutOfRange> {
        self.note(Zero(offset, len));
        self.inner.zero(offset, len)
    }
    fn load_u32(&self, offset: usize) -> Result<u32, OutOfRange> {
        self.note(Load(offset));
        self.inner.load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        self.note(Store(offset, value));
        self.inner.store_u32(offset, value)
    }
    fn compare_exchange_u32(&self, _: usize, _: u32, _: u32) -> Result<bool, OutOfRange> {
        panic!("rings have no compare-exchange")
    }
    fn take_u64(&self, _: usize) -> Result<u64, OutOfRange> {
        panic!("rings have no event flags")
    }
    fn fence(&self) {
        self.note(Fence);
        self.inner.fence();
    }
}

fn watched(pages: usize) -> (Channel<Watched>, Host) {
    let (_, host) = pair(pages);
    let memory = Watched {
        inner: host.memory.clone(),
        seen: RefCell::default(),
    };
    let channel = Channel::new(memory, pages as u32 + 1, POLICY).unwrap();
    channel.memory.take();
    (channel, host)
}

/// A conversation of `packets` packets each way that wraps both rings; gives
/// every access to shared memory.
fn conversation(packets: u64, mut disturb: impl FnMut(&Host, u64)) -> (Vec<Access>, Host) {
    let (mut channel, mut host) = watched(1);
    let mut buffer = [0; 1024];
    for id in 1..=packets {
        let payload = vec![id as u8; 8 * (1 + id as usize * 31 % 90)];
        disturb(&host, id);
        let _ = channel
            .send(Outbound::InBand(Reply::Requested), id, &[&payload])
            .unwrap();
        disturb(&host, id);
        assert_eq!(host.take().unwrap().1, payload);
        host.put(PacketType::COMPLETION, 0, id, &payload).unwrap();
        disturb(&host, id);
        channel.begin_receive().unwrap();
        let packet = channel.receive(&mut buffer).unwrap().unwrap();
        assert_eq!(
            (packet.transaction_id(), packet.payload()),
            (id, &payload[..])
        );
        disturb(&host, id);
        assert!(channel.receive(&mut buffer).unwrap().is_none());
        let _ = channel.end_receive().unwrap();
    }
    let seen = channel.memory.take();
    assert!(seen.len() > packets as usize * 10);
    (seen, host)
}

/// RNG_07, RNG_16: one load of the host's index for one decision. What it held a
/// moment later is not seen, and the signal is decided on the judged value.
#[test]
fn rng_07_rng_16_an_index_is_loaded_once_for_a_decision() {
    let (mut channel, mut host) = watched(1);
    let down = host.downstream();
    let loads = |seen: &[Access], at: usize| seen.iter().filter(|a| **a == Load(at)).count();

    host.put(PacketType::COMPLETION, 0, 1, &[0; 8]).unwrap();
    host.put(PacketType::COMPLETION, 0, 2, &[0; 8]).unwrap();
    channel.receive(&mut [0; 64]).unwrap().unwrap();
    let seen = channel.memory.take();
    assert_eq!(loads(&seen, down + RING_WRITE_INDEX), 1);
    assert_eq!(seen[0], Load(down + RING_WRITE_INDEX), "before any data");
    // The second packet is covered by the same look.
    channel.receive(&mut [0; 64]).unwrap().unwrap();
    assert_eq!(loads(&channel.memory.take(), down + RING_WRITE_INDEX), 0);
    let _ = channel.end_receive().unwrap();
    assert_eq!(loads(&channel.memory.take(), down + RING_WRITE_INDEX), 1);

    let _ = channel.send(IN_BAND, 1, &[b"x"]).unwrap();
    assert_eq!(loads(&channel.memory.take(), RING_READ_INDEX), 1);

    // A read index beyond the ring just before the signal is decided: refused, no
    // arithmetic with it.
    channel.queue(IN_BAND, 2, &[b"y"]).unwrap();
    let signals = channel.signals_needed();
    host.set_up(RING_READ_INDEX, 4096 + 8);
    assert_eq!(channel.flush().unwrap_err().rule, Rule::RNG_04);
    assert_eq!(channel.signals_needed(), signals);
}

/// RNG_10, RNG_11, RNG_14: of the header pages four words are read and no others, so
/// nothing in the rest can matter.
#[test]
fn rng_10_rng_11_rng_14_the_rest_of_the_header_is_not_read() {
    let quiet = conversation(turns(200, 25), |_, _| {}).0;
    let (disturbed, host) = conversation(turns(200, 25), |host, turn| {
        // Everything reserved; the feature bits change at each turn.
        let mut rest = [0xff; RING_HEADER_SIZE];
        rest[RING_FEATURE_BITS..][..4].copy_from_slice(&(turn as u32).to_le_bytes());
        for start in [0, host.downstream()] {
            host.memory.copy_out(start + 16, &rest[16..]).unwrap();
        }
    });
    assert_eq!(
        quiet, disturbed,
        "RNG-10, RNG-14: neither sizes nor signals change"
    );
    let down = host.downstream();
    let read = [
        RING_READ_INDEX,
        RING_INTERRUPT_MASK,
        down + RING_WRITE_INDEX,
        down + RING_PENDING_SEND_SIZE,
    ];
    for access in quiet {
        match access {
            Load(at) => assert!(read.contains(&at), "RNG-11: {at:#x}"),
            CopyIn(at, _) => assert!(at >= down + RING_HEADER_SIZE, "RNG-11: {at:#x}"),
            _ => {}
        }
    }
}

/// RNG_17: the host takes our wish for a signal back. A later try looks at the index
/// again and needs neither the wish nor the signal.
#[test]
fn rng_17_a_wish_for_room_that_the_host_erases() {
    let (mut channel, mut host) = watched(1);
    let _ = channel.send(IN_BAND, 1, &[&[1; 3000]]).unwrap();
    assert_eq!(
        channel.send(IN_BAND, 2, &[&[2; 2000]]),
        Err(SendError::Full)
    );
    assert_ne!(host.up(RING_PENDING_SEND_SIZE), 0);
    host.set_up(RING_PENDING_SEND_SIZE, 0);
    assert_eq!(
        channel.send(IN_BAND, 2, &[&[2; 2000]]),
        Err(SendError::Full)
    );
    assert_ne!(host.up(RING_PENDING_SEND_SIZE), 0, "RNG-17: said again");
    host.set_up(RING_PENDING_SEND_SIZE, 0);
    host.take().unwrap();
    // No signal came. The next try by the clock finds the room.
    let _ = channel.send(IN_BAND, 2, &[&[2; 2000]]).unwrap();
    assert_eq!(host.take().unwrap().0.transaction_id.get(), 2);
    assert!(
        !channel
            .memory
            .take()
            .contains(&Load(RING_PENDING_SEND_SIZE))
    );
}

/// RNG_20, RNG_29, RNG_25: each byte of a packet is copied once, ours are never read
/// back, and the host is given room only when all copies are done.
#[test]
fn rng_20_rng_25_rng_29_one_copy_then_the_index() {
    let (seen, host) = conversation(turns(200, 25), |_, _| {});
    let down = host.downstream();
    let data = down + RING_HEADER_SIZE;
    let size = host.size as usize;
    let mut unpublished = 0;
    let mut wrapped = 0;
    // Where the next byte of the incoming ring is; each is read in turn, none twice.
    let mut next = 0;
    for access in &seen {
        match *access {
            CopyIn(at, len) => {
                assert!(at >= data, "RNG-29: {at:#x} is ours");
                assert_eq!(at - data, next % size, "RNG-20");
                wrapped += u64::from(next + len >= size);
                next = (next + len) % size;
                unpublished += len;
            }
            Store(at, read) if at == down + RING_READ_INDEX => {
                // Behind the trailer, which is not read, of a packet that was.
                assert!(unpublished > 0, "RNG-25: at a packet's end only");
                next = (next + 8) % size;
                assert_eq!(read as usize, next, "RNG-25");
                unpublished = 0;
            }
            _ => {}
        }
    }
    assert_eq!(unpublished, 0);
    assert!(wrapped > turns(10, 1), "{wrapped}");
}

/// RNG_25: a packet that is refused half-way publishes nothing.
#[test]
fn rng_25_no_room_before_the_packets_end() {
    let (mut channel, mut host) = watched(1);
    host.put_raw(&packet(PacketType::COMPLETION, 0, 1, &[0; 16]));
    assert_eq!(corrupt(channel.receive(&mut [0; 64])), Rule::RNG_09);
    let _ = channel.end_receive().unwrap_err();
    let published =
        |a: &Access| matches!(a, Store(at, _) if *at == host.downstream() + RING_READ_INDEX);
    assert!(!channel.memory.take().iter().any(published), "RNG-25");
}

/// GPD_13: what the host writes before it has answered the open request is judged as
/// later: no first value is believed.
#[test]
fn gpd_13_rings_are_untrusted_before_they_are_open() {
    let (mut channel, host) = watched(1);
    host.set_down(RING_WRITE_INDEX, 64);
    // 64 bytes of zeros are no packet.
    assert_eq!(
        corrupt(channel.receive(&mut [0; 128])),
        Rule::PKT_03,
        "GPD-13"
    );
    let (mut channel, host) = watched(1);
    host.set_up(RING_READ_INDEX, 64);
    match channel.send(IN_BAND, 1, &[b"x"]) {
        Err(SendError::Corrupt(violation)) => assert_eq!(violation.rule, Rule::RNG_05, "GPD-13"),
        other => panic!("{other:?}"),
    }
}
