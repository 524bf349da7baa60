//! Index and signal protocol of the rings between the paravisor and a host that
//! run at the same time: nothing is lost, nobody sleeps while there is work, no
//! byte is read before it is there; and a host that writes any index at any time
//! gets no more than a dead channel.

use abi::vmbus::PacketType;
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use loom::thread;
use std::sync::Arc;
use undercroft_model::{Ring, Shared};
use validate::Reaction;
use validate::packet::Policy;
use vmbus::{Channel, Outbound, ReceiveError, Reply, SendError, Signal};

const POLICY: Policy = Policy {
    transfer_set: 0xcafe,
    max_ranges: 375,
};
const DATA: u32 = 4096;
/// Bytes of a packet with 8 bytes of payload, and its trailer.
const PACKET: u32 = 32;

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // More changes of turn than that find nothing new and take hours.
    builder.preemption_bound = Some(3);
    builder.check(run);
}

fn channel(memory: &Shared) -> Channel<Shared> {
    Channel::new(memory.clone(), 2, POLICY).expect("geometry")
}

/// The packet with this number, 8 bytes of payload, as it lies in the ring.
fn packet(number: u64) -> [u8; PACKET as usize] {
    let mut bytes = [0; PACKET as usize];
    bytes[0] = PacketType::IN_BAND.0 as u8;
    bytes[2] = 2;
    bytes[4] = 3;
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[16] = number as u8 ^ 0xff;
    bytes
}

/// A host's writer as every driver does it: data, index, barrier, then the mask;
/// it signals if the reader had seen everything before.
fn host_puts(ring: &Ring, event: &AtomicBool, at: u32, number: u64) {
    ring.put(at as usize, &packet(number));
    ring.write.store(at + PACKET, Ordering::Release);
    fence(Ordering::SeqCst);
    if ring.mask.load(Ordering::Acquire) == 0 && ring.read.load(Ordering::Acquire) == at {
        event.store(true, Ordering::Release);
    }
}

/// A poll: takes what is there until the channel says that it may sleep.
fn drain(channel: &mut Channel<Shared>, received: &mut u64) {
    let mut buffer = [0; 64];
    loop {
        channel.begin_receive().expect("honest");
        while let Some(packet) = channel.receive(&mut buffer).expect("honest") {
            *received += 1;
            assert_eq!(packet.transaction_id(), *received, "RNG-07");
            assert_eq!(packet.payload()[0], *received as u8 ^ 0xff, "RNG-07");
        }
        if !channel.end_receive().expect("honest").more {
            return;
        }
    }
}

/// Two packets from the host, one poll that may come at any time: afterwards either
/// all are here, or an event will wake us. Whether fences are there decides.
fn from_the_host(fences: bool) {
    model(move || {
        let memory = Shared::new(fences);
        let event = Arc::new(AtomicBool::new(false));
        let host = {
            let (memory, event) = (memory.clone(), event.clone());
            thread::spawn(move || {
                host_puts(&memory.rings[1], &event, 0, 1);
                host_puts(&memory.rings[1], &event, PACKET, 2);
            })
        };
        let mut channel = channel(&memory);
        let mut received = 0;
        drain(&mut channel, &mut received);
        host.join().expect("host");
        if received < 2 {
            assert!(event.load(Ordering::Acquire), "RNG-12: a lost wake-up");
            drain(&mut channel, &mut received);
        }
        assert_eq!(received, 2);
    });
}

#[test]
fn rng_07_rng_18_packets_of_the_host_are_whole_and_wake_us() {
    from_the_host(true);
}

/// The model sees what it is for: without the barrier of RNG-07 it fails.
#[test]
#[should_panic(expected = "a lost wake-up")]
fn without_barriers_a_wake_up_is_lost() {
    from_the_host(false);
}

/// A host's reader: masks, takes all, publishes, unmasks, looks again.
fn host_takes(ring: &Ring, read: &mut u32, expected: &mut u64) {
    loop {
        ring.mask.store(1, Ordering::Release);
        let mut write = ring.write.load(Ordering::Acquire);
        while *read != write {
            let mut bytes = [0; PACKET as usize];
            ring.get(*read as usize, &mut bytes);
            *expected += 1;
            assert_eq!(bytes[..24], packet(*expected)[..24], "RNG-25");
            *read += PACKET;
        }
        ring.read.store(*read, Ordering::Release);
        ring.mask.store(0, Ordering::Release);
        fence(Ordering::SeqCst);
        write = ring.write.load(Ordering::Acquire);
        if *read == write {
            return;
        }
    }
}

/// Two packets to the host, which looks once at any time: either it has all, or we
/// signal.
#[test]
fn rng_13_rng_25_packets_to_the_host_are_whole_and_wake_it() {
    model(|| {
        let memory = Shared::new(true);
        let host = {
            let memory = memory.clone();
            thread::spawn(move || {
                let (mut read, mut seen) = (0, 0);
                host_takes(&memory.rings[0], &mut read, &mut seen);
                (read, seen)
            })
        };
        let mut channel = channel(&memory);
        let mut signal = Signal::NotNeeded;
        for number in 1..=2_u64 {
            let payload = [number as u8 ^ 0xff, 0, 0, 0, 0, 0, 0, 0];
            let kind = Outbound::InBand(Reply::None);
            signal = signal.or(channel.send(kind, number, &[&payload]).expect("room"));
        }
        let (mut read, mut seen) = host.join().expect("host");
        if seen < 2 {
            assert!(signal.is_needed(), "RNG-13: the host sleeps");
            host_takes(&memory.rings[0], &mut read, &mut seen);
        }
        assert_eq!(seen, 2);
    });
}

/// Our ring is full while the host makes room: either there is room at the second
/// look, or the host has seen that we wait.
#[test]
fn rng_17_a_full_ring_is_waited_for() {
    model(|| {
        let memory = Shared::unwatched();
        let mut channel = channel(&memory);
        let kind = Outbound::InBand(Reply::None);
        let payload = vec![0; 2000];
        let _ = channel.send(kind, 1, &[&payload]).expect("room");
        let used = memory.rings[0].write.load(Ordering::Acquire);
        let host = {
            let memory = memory.clone();
            thread::spawn(move || {
                let ring = &memory.rings[0];
                ring.read.store(used, Ordering::Release);
                fence(Ordering::SeqCst);
                let wanted = ring.pending.load(Ordering::Acquire);
                wanted != 0 && DATA - used <= wanted
            })
        };
        let large = vec![0; 3000];
        let sent = channel.queue(kind, 2, &[&large]);
        let woken = host.join().expect("host");
        match sent {
            Ok(()) => {}
            Err(SendError::Full) => assert!(woken, "RNG-17: nobody wakes us"),
            Err(other) => panic!("{other:?}"),
        }
        // In the end there is room.
        if sent.is_err() {
            channel.queue(kind, 2, &[&large]).expect("room");
        }
    });
}

/// The host waits for room in its ring while we make it: either it sees the room at
/// its second look, or we signal.
#[test]
fn rng_15_rng_16_room_that_the_host_waits_for_is_told() {
    model(|| {
        let memory = Shared::new(true);
        let mut channel = channel(&memory);
        // All full but for the last packet's place, which must stay free.
        let full = DATA - PACKET;
        memory.rings[1].put(0, &packet(1));
        memory.rings[1].write.store(full, Ordering::Release);
        let host = {
            let memory = memory.clone();
            thread::spawn(move || {
                let ring = &memory.rings[1];
                ring.pending.store(PACKET, Ordering::Release);
                fence(Ordering::SeqCst);
                let read = ring.read.load(Ordering::Acquire);
                DATA - full + read > PACKET
            })
        };
        let mut buffer = [0; 64];
        channel.begin_receive().expect("honest");
        assert!(channel.receive(&mut buffer).expect("honest").is_some());
        let drained = channel.end_receive().expect("honest");
        let sees = host.join().expect("host");
        assert!(
            sees || drained.signal.is_needed(),
            "RNG-15: the host sleeps"
        );
    });
}

/// A host that writes what it likes into every word that is its own, and into
/// those that are not, while we receive and send. The double ends the test if we
/// touch a byte that is no data, or read back what is ours.
#[test]
fn rng_01_rng_06_rng_23_hostile_indices_cost_no_more_than_the_channel() {
    // Write indices of our ring, read indices of the host's.
    let lies: [[u32; 2]; 6] = [
        [2 * PACKET, PACKET],
        [3 * PACKET, 0],
        [PACKET, 2 * PACKET],
        [0, DATA],
        [DATA - 8, 13],
        [u32::MAX, u32::MAX - 7],
    ];
    for first in 0..lies.len() {
        for second in 0..lies.len() {
            hostile([lies[first], lies[second]]);
        }
    }
}

fn hostile(lies: [[u32; 2]; 2]) {
    model(move || {
        let memory = Shared::new(true);
        for number in 1..=3 {
            memory.rings[1].put((number as usize - 1) * PACKET as usize, &packet(number));
        }
        memory.rings[1].write.store(2 * PACKET, Ordering::Release);
        let host = {
            let memory = memory.clone();
            thread::spawn(move || {
                let [out, incoming] = &*memory.rings;
                for [write, read] in lies {
                    incoming.write.store(write, Ordering::Release);
                    out.read.store(read, Ordering::Release);
                }
                // Words that are ours.
                incoming.read.store(0xdead_0000, Ordering::Release);
                out.write.store(0xdead_0000, Ordering::Release);
            })
        };
        let mut channel = channel(&memory);
        let mut buffer = [0; 64];
        let mut last = 0;
        let mut judged = || -> Result<(), validate::Violation> {
            channel.begin_receive()?;
            for _ in 0..2 {
                match channel.receive(&mut buffer) {
                    Ok(Some(packet)) => {
                        last += 1;
                        assert_eq!(packet.transaction_id(), last, "RNG-06");
                    }
                    Ok(None) => break,
                    Err(ReceiveError::Corrupt(why)) => return Err(why),
                    Err(other) => panic!("{other:?}"),
                }
            }
            let _ = channel.end_receive()?;
            match channel.send(Outbound::InBand(Reply::None), 1, &[&[1; 8]]) {
                Ok(_) | Err(SendError::Full) => Ok(()),
                Err(SendError::Corrupt(why)) => Err(why),
                Err(other) => panic!("{other:?}"),
            }
        };
        let verdict = judged();
        host.join().expect("host");
        if let Err(why) = verdict {
            assert_eq!(why.rule.reaction(), Reaction::Reset, "{why}");
            // RNG-23: it stays dead, with the same reason.
            assert_eq!(channel.dead(), Some(why));
            assert_eq!(channel.begin_receive(), Err(why));
            let again = channel.receive(&mut buffer).map(drop);
            assert_eq!(again, Err(ReceiveError::Corrupt(why)));
        }
    });
}
