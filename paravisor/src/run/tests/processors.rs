//! Two VPs: the second one's guest half waits, starts, stops, sleeps and is woken.

use super::*;

const ICR_LOW: u64 = 0xfee0_0300;
const ICR_HIGH: u64 = 0xfee0_0310;
const KICK: (u32, u64) = (msr::ICR, 1 << 56 | KICK_VECTOR as u64);

/// Both, the second with its guest waiting.
fn two(first: &[Exit], second: &[Exit]) -> (TestVp, TestVp) {
    let machine = machine(2);
    let other = machine.processor(1).unwrap();
    let (first, _) = vp_of(machine, first);
    let (second, _) = vp_of(other, second);
    (first, second.waiting())
}

fn send(vp: &mut TestVp, destination: u64, low: u64) {
    vp.machine.mmio_write(ICR_HIGH, 4, destination << 24, 0);
    vp.machine.mmio_write(ICR_LOW, 4, low, 0);
    vp.send_kicks().unwrap();
}

#[test]
fn second_processor_waits_for_its_start() {
    let (mut first, mut second) = two(&[], &[Exit::Interrupted; 4]);
    second.turn().unwrap();
    assert_eq!(second.platform.waits, 1);
    // It was away: the first INIT wakes it.
    assert!(second.machine.leave());
    send(&mut first, 1, 0xc500);
    send(&mut first, 1, 0x8500);
    assert_eq!(first.platform.written, [KICK]);
    second.machine.back();
    second.surroundings.pending.kick = true;
    second.turn().unwrap();
    assert!(second.platform.written.contains(&(msr::EOI, 0)));
    assert_eq!((second.platform.waits, second.stats.kicks), (2, 1));
    send(&mut first, 1, 0x0699);
    second.turn().unwrap();
    assert_eq!(second.platform.started_at, [0x99]);
    // The second SIPI of Linux, and one later, do nothing.
    send(&mut first, 1, 0x0699);
    second.turn().unwrap();
    assert_eq!(second.platform.started_at, [0x99]);
    assert_eq!(second.stats.exits[Exit::Interrupted.index()], 2);
    // INIT stops it, whatever it does.
    send(&mut first, 1, 0x4500);
    second.turn().unwrap();
    assert_eq!(second.stats.exits[Exit::Interrupted.index()], 2);
    send(&mut first, 1, 0x06a0);
    second.turn().unwrap();
    assert_eq!(second.platform.started_at, [0x99, 0xa0]);
}

#[test]
fn note_that_comes_before_the_entry_is_seen_before_the_guest_runs() {
    let (mut first, mut second) = two(&[Exit::Interrupted], &[]);
    first.machine.mmio_write(SPURIOUS, 4, 0x1ff, 0);
    send(&mut second, 0, 0x0030);
    // Nobody is away, so nobody is woken; and yet nothing is lost.
    assert_eq!(second.platform.written, []);
    assert!(!first.machine.leave());
    first.enter().unwrap();
    assert_eq!(first.stats.exits[Exit::Interrupted.index()], 0);
    first.turn().unwrap();
    assert_eq!(first.platform.taken, [0x30]);
}

#[test]
fn halted_with_interrupts_off_ends_the_run_only_if_all_rest() {
    // The second never ran: the first one's end is the VM's.
    let (mut first, _second) = two(&[Exit::Halt], &[]);
    first.platform.vp.set(Reg::Rflags, 2);
    assert_eq!(first.run().outcome, Outcome::PowerOff);

    // The second is switched off by its guest (Linux `play_dead`), the first goes on;
    // then the first stops as well.
    let (mut first, mut second) = two(&[Exit::Interrupted, Exit::Halt], &[Exit::Halt; 2]);
    send(&mut first, 1, 0x4500);
    send(&mut first, 1, 0x0699);
    second.platform.vp.set(Reg::Rflags, 2);
    for _ in 0..3 {
        second.turn().unwrap();
    }
    assert_eq!(second.stats.exits[Exit::Halt.index()], 1);
    first.turn().unwrap();
    // An NMI wakes it.
    send(&mut first, 1, 0x0400);
    second.turn().unwrap();
    assert_eq!(second.platform.vp.raised, Some((2, None)));
    assert_eq!(second.stats.exits[Exit::Halt.index()], 2);
    second.platform.vp.raised = None;
    second.turn().unwrap();
    first.platform.vp.set(Reg::Rflags, 2);
    assert_eq!(first.run().outcome, Outcome::PowerOff);
}

#[test]
fn any_processor_ends_the_run() {
    let reset = IoAccess {
        port: 0xcf9,
        size: 1,
        input: false,
        string: None,
    };
    let (mut first, mut second) = two(&[], &[Exit::Io(reset)]);
    send(&mut first, 1, 0x4500);
    send(&mut first, 1, 0x0699);
    second.platform.vp.set(Reg::Rax, 6);
    assert_eq!(second.run().outcome, Outcome::Reset);
    // And INIT of the first one, which is how a PC is reset by its processors.
    let (mut first, mut second) = two(&[], &[]);
    send(&mut second, 0, 0x4500);
    assert_eq!(first.run().outcome, Outcome::Reset);
}

#[test]
fn other_vp_serves_neither_network_nor_records() {
    let (mut first, mut second) = two(&[Exit::Interrupted], &[Exit::Interrupted; 3]);
    send(&mut first, 1, 0x4500);
    send(&mut first, 1, 0x0699);
    second.network.no_queues = true;
    second.surroundings.pending.sint = true;
    for _ in 0..3 {
        second.turn().unwrap();
    }
    assert_eq!(second.network.turns.len(), 0);
    first.turn().unwrap();
    assert_eq!(first.network.turns.len(), 1);
    let mut sum = Stats::default();
    sum.add(&first.stats);
    sum.add(&second.stats);
    assert_eq!(sum.exits[Exit::Interrupted.index()], 4);
    assert_eq!(sum.sints, 1);
}

#[test]
fn other_vp_with_queues_serves_them_and_no_records() {
    let (mut first, mut second) = two(&[], &[Exit::Interrupted; 4]);
    send(&mut first, 1, 0x4500);
    send(&mut first, 1, 0x0699);
    second.turn().unwrap();
    let before = second.network.turns.len();
    // Nothing to do; an interrupt of its own SynIC; a note of the first VP.
    second.turn().unwrap();
    assert_eq!(second.network.turns.len(), before);
    second.surroundings.pending.sint = true;
    second.turn().unwrap();
    assert!(second.network.turns[before].sint);
    second.network.called = true;
    second.turn().unwrap();
    assert_eq!(second.network.turns.len(), before + 2);
}
