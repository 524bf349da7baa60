//! A machine with several processors: what they send each other arrives, once, and
//! the devices' interrupts find the processor that they are for.

use super::*;
use crate::test_support::{HostCpu, config};
use proptest::prelude::*;
use std::thread;
use std::vec::Vec;

const ICR_LOW: u64 = layout::LAPIC_BASE + 0x300;
const ICR_HIGH: u64 = layout::LAPIC_BASE + 0x310;
const EOI: u64 = layout::LAPIC_BASE + 0xb0;
const STATE: CpuidState = CpuidState { cr4: 0, xcr0: 1 };

/// All processors of a machine, by index.
fn machines(count: u8) -> Vec<Machine> {
    let config = MachineConfig {
        processors: count,
        ..config()
    };
    let first = Machine::new(&config, &HostCpu);
    let others: Vec<_> = (1..count).map(|i| first.processor(i).unwrap()).collect();
    assert!(first.processor(count).is_none() && first.processor(0).is_none());
    let mut all = Vec::from([first]);
    all.extend(others);
    all
}

/// Switches the local APIC on, as an operating system does.
fn switch_on(machine: &mut Machine) {
    machine.mmio_write(layout::LAPIC_BASE + 0xf0, 4, 0x1ff, 0);
    let logical = 1u64 << (24 + machine.index() % 8);
    machine.mmio_write(layout::LAPIC_BASE + 0xd0, 4, logical, 0);
}

fn send(machine: &mut Machine, destination: u8, low: u32) {
    machine.mmio_write(ICR_HIGH, 4, u64::from(destination) << 24, 0);
    machine.mmio_write(ICR_LOW, 4, low.into(), 0);
    // Linux waits for this bit before it sends the next.
    assert_eq!(machine.mmio_read(ICR_LOW, 4, 0) & 1 << 12, 0);
}

/// Takes one interrupt of any vector, as a guest does.
fn take(machine: &mut Machine) -> Option<u8> {
    let vector = machine.pending_interrupt()?.vector;
    machine.accept_interrupt(vector);
    machine.mmio_write(EOI, 4, 0, 0);
    Some(vector)
}

#[test]
fn start_of_a_processor_as_linux_does_it() {
    let mut all = machines(3);
    // De-asserts and a SIPI to oneself mean nothing.
    for (low, init, start) in [
        (0xc500, true, None),
        (0x8500, false, None),
        (0x069a, false, Some(0x9a)),
        (0x069b, false, Some(0x9b)),
    ] {
        assert!(all[1].leave());
        send(&mut all[0], 1, low);
        assert_eq!(all[0].take_kicks(), if low == 0x8500 { 0 } else { 2 });
        all[1].back();
        assert_eq!(all[1].take_signals(), Signals { init, start });
        assert_eq!(all[2].take_signals(), Signals::default());
    }
    // INIT resets the local APIC and keeps its ID.
    switch_on(&mut all[1]);
    send(&mut all[0], 1, 0x4500);
    assert!(all[1].take_signals().init);
    assert_eq!(all[1].mmio_read(layout::LAPIC_BASE + 0xf0, 4, 0), 0xff);
    assert_eq!(all[1].mmio_read(layout::LAPIC_BASE + 0x20, 4, 0), 1 << 24);
    assert_eq!(all[1].rdmsr(0x1b, 0), Ok(layout::LAPIC_BASE | 1 << 11));
    assert_eq!(all[0].rdmsr(0x1b, 0), Ok(layout::LAPIC_BASE | 0x900));
}

#[test]
fn destinations_and_shorthands() {
    let mut all = machines(4);
    for machine in &mut all {
        switch_on(machine);
    }
    // Destination, low half, who gets it.
    for (destination, low, expected) in [
        (2, 0x0040, 0b0100u32),
        (0xff, 0x0041, 0b1111),
        (0, 0xc_0042, 0b1110),
        (0, 0x8_0043, 0b1111),
        (0, 0x4_0044, 0b0001),
        // Logical, flat: processors 1 and 3.
        (0b1010, 0x0845, 0b1010),
        // Lowest priority: one of them.
        (0b1110, 0x0946, 0b0010),
        (9, 0x0047, 0),
    ] {
        send(&mut all[0], destination, low);
        let mut got = 0;
        for (index, machine) in all.iter_mut().enumerate() {
            machine.take_signals();
            if let Some(vector) = take(machine) {
                assert_eq!(u32::from(vector), low & 0xff);
                got |= 1 << index;
            }
        }
        assert_eq!(got, expected, "{destination:#x} {low:#x}");
    }
    send(&mut all[3], 0, 0xc_0400);
    let nmis = all.iter_mut().map(|machine| {
        machine.take_signals();
        machine.take_nmi()
    });
    assert_eq!(nmis.collect::<Vec<_>>(), [true, true, true, false]);
}

/// The serial port's line, level triggered, at processor 2; its end is heard.
#[test]
fn devices_reach_the_processor_they_are_for() {
    let mut all = machines(3);
    for machine in &mut all {
        switch_on(machine);
    }
    let pin = u64::from(layout::UART_PIN);
    for (register, value) in [(0x11 + 2 * pin, 2 << 24), (0x10 + 2 * pin, 0x8051)] {
        all[1].mmio_write(layout::IOAPIC_BASE, 4, register, 0);
        all[1].mmio_write(layout::IOAPIC_BASE + 0x10, 4, value, 0);
    }
    // Received data raise an interrupt.
    all[1].io_write(layout::UART_BASE + 1, 1, 1, 0);
    all[1].io_write(layout::UART_BASE + 4, 1, 8, 0);
    assert!(all[2].leave());
    assert_eq!(all[0].put_console(b"ab"), 2);
    assert_eq!(all[0].take_kicks(), 1 << 2);
    all[2].back();
    for byte in *b"ab" {
        all[2].take_signals();
        assert!(all[0].pending_interrupt().is_none());
        let vector = all[2].pending_interrupt().unwrap().vector;
        assert_eq!(vector, 0x51);
        all[2].accept_interrupt(vector);
        assert_eq!(all[2].io_read(layout::UART_BASE, 1, 0), byte.into());
        // Again, as long as there are data.
        all[2].mmio_write(EOI, 4, 0, 0);
    }
    all[2].take_signals();
    assert!(all[2].pending_interrupt().is_none());
}

#[test]
fn another_processor_at_a_device_calls_the_first() {
    let mut all = machines(2);
    assert!(all[0].take_attention());
    assert!(!all[0].take_attention());
    assert!(all[0].leave());
    all[1].io_write(layout::UART_BASE, 1, 0x55, 0);
    // Console output is taken by whoever made it.
    assert_eq!(all[1].take_kicks(), 0);
    all[1].io_write(layout::AUDIT_UART_BASE, 1, 0x55, 0);
    assert_eq!(all[1].take_kicks(), 1);
    all[0].back();
    assert!(all[0].take_attention());
    let mut byte = [0];
    assert_eq!((all[0].take_audit(&mut byte), byte[0]), (1, 0x55));
    // To the end of a run everybody is called.
    assert!(!all[0].leave(), "there was a note");
    all[0].take_signals();
    assert!(all[0].leave());
    all[1].call_all();
    assert_eq!(all[1].take_kicks(), 1);
}

/// What one processor takes of the console is written before another takes more.
#[test]
fn console_output_keeps_its_order() {
    let mut all = machines(2);
    let mut second = all.remove(1);
    let mut first = all.remove(0);
    let written = std::sync::Mutex::new(Vec::new());
    let write = |bytes: &[u8]| written.lock().unwrap().extend_from_slice(bytes);
    let writing = AtomicBool::new(false);
    thread::scope(|scope| {
        first.io_write(layout::UART_BASE, 1, b'2'.into(), 0);
        scope.spawn(|| {
            while !writing.load(SeqCst) {
                thread::yield_now();
            }
            second.io_write(layout::UART_BASE, 1, b'4'.into(), 0);
            second.drain_console(write);
        });
        first.drain_console(|bytes| {
            writing.store(true, SeqCst);
            // Long enough for the other to pass, if it could.
            thread::sleep(std::time::Duration::from_millis(100));
            write(bytes);
        });
    });
    assert_eq!(written.into_inner().unwrap(), b"24");
}

#[test]
fn cpuid_and_acpi_tell_the_same_processors() {
    for count in [2u8, 3, 4, 8, 64] {
        let all = machines(count);
        let shift = [0, 1, 2, 2, 3, 3, 3, 3].get(usize::from(count) - 1);
        let shift = shift.copied().unwrap_or(6);
        for machine in &all {
            let id = u32::from(machine.index());
            let n = u32::from(count);
            let leaf = |leaf, subleaf| machine.cpuid(leaf, subleaf, STATE);
            let [_, b, _, d] = leaf(1, 0);
            assert_eq!((b >> 24, b >> 16 & 0xff, d >> 28 & 1), (id, n, 1));
            assert_eq!(leaf(0xb, 0), [0, 1, 0x100, id]);
            assert_eq!(leaf(0xb, 1), [shift, n, 0x201, id]);
            assert_eq!(leaf(0xb, 2), [0, 0, 2, id]);
            assert_eq!(leaf(0x8000_0001, 0)[2] >> 1 & 1, 1);
            assert_eq!(leaf(0x8000_0008, 0)[2], shift << 12 | (n - 1));
            assert_eq!(leaf(0x8000_001e, 0), [id, id, 0, 0]);
        }
        let config = MachineConfig {
            processors: count,
            ..config()
        };
        let tables = crate::acpi::build(0xe_0000, &config);
        assert!(tables.end <= 0xe_1000, "{count}: {:#x}", tables.end);
        let (_, madt) = tables
            .pieces
            .iter()
            .find(|(_, bytes)| bytes.starts_with(b"APIC"))
            .unwrap();
        // Entries of type 0, 8 bytes each, come first.
        let ids: Vec<_> = madt[44..]
            .chunks(8)
            .take_while(|entry| entry[..2] == [0, 8])
            .map(|entry| (entry[2], entry[3], entry[4]))
            .collect();
        let expected: Vec<_> = (0..count).map(|i| (i, i, 1)).collect();
        assert_eq!(ids, expected);
    }
}

proptest! {
    /// Random IPIs between up to four processors: whatever is sent is taken, exactly
    /// as often as it was free to be sent again, and nobody is woken in vain twice.
    #[test]
    fn no_ipi_is_lost(count in 1u8..=4, ipis in prop::collection::vec((0u8..4, 0u8..4, 16u8..=255, any::<bool>()), 1..200)) {
        let mut all = machines(count);
        for machine in &mut all {
            switch_on(machine);
        }
        let mut waiting = std::vec![std::collections::BTreeSet::new(); usize::from(count)];
        let mut away = std::vec![false; usize::from(count)];
        for (from, to, vector, look) in ipis {
            let (from, to) = (from % count, to % count);
            let target = usize::from(to);
            if !away[target] && from != to {
                away[target] = all[target].leave();
            }
            send(&mut all[usize::from(from)], to, vector.into());
            waiting[target].insert(vector);
            let kicks = all[usize::from(from)].take_kicks();
            prop_assert_eq!(kicks & !(1 << to), 0);
            if kicks != 0 || look {
                prop_assert!(kicks == 0 || away[target]);
                all[target].back();
                away[target] = false;
                all[target].take_signals();
                let mut taken = std::collections::BTreeSet::new();
                while let Some(vector) = take(&mut all[target]) {
                    taken.insert(vector);
                }
                prop_assert_eq!(&taken, &waiting[target]);
                waiting[target].clear();
            }
        }
        for (machine, waiting) in all.iter_mut().zip(waiting) {
            machine.take_signals();
            let mut taken = std::collections::BTreeSet::new();
            while let Some(vector) = take(machine) {
                taken.insert(vector);
            }
            prop_assert_eq!(taken, waiting);
        }
    }
}

/// Four processors on threads of their own: each sends to the next, waits for what
/// comes from the one before, uses devices, and looks only when it was woken or is on
/// its way.
#[test]
fn processors_at_once_lose_nothing() {
    const ROUNDS: u32 = 2000;
    let all = machines(4);
    let woken: std::sync::Arc<[std::sync::atomic::AtomicBool; 4]> = Default::default();
    let threads = all.into_iter().map(|mut machine| {
        let woken = woken.clone();
        thread::spawn(move || {
            let own = usize::from(machine.index());
            switch_on(&mut machine);
            let next = (own + 1) % 4;
            let mut got = 0;
            let kick = |kicks: u64| {
                for (index, flag) in woken.iter().enumerate() {
                    if kicks >> index & 1 != 0 {
                        flag.store(true, SeqCst);
                    }
                }
            };
            // All must be on before the first sends.
            let begin = std::time::Instant::now();
            while (0..4).any(|i| !machine.board.posts[i].route(i as u8).software) {
                assert!(begin.elapsed().as_secs() < 20);
                thread::yield_now();
            }
            if own == 0 {
                send(&mut machine, 1, 0x60);
                kick(machine.take_kicks());
            }
            let rounds = ROUNDS;
            while got < rounds {
                machine.take_signals();
                if take(&mut machine).is_some() {
                    got += 1;
                    machine.io_write(layout::UART_BASE, 1, 0x41, 0);
                    machine.drain_console(|_| ());
                    if own != 0 || got < rounds {
                        send(&mut machine, next as u8, 0x60);
                    }
                    kick(machine.take_kicks());
                } else if machine.leave() {
                    let begin = std::time::Instant::now();
                    while !woken[own].swap(false, SeqCst) {
                        assert!(begin.elapsed().as_secs() < 20, "asleep over an IPI");
                        thread::yield_now();
                    }
                    machine.back();
                }
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
}
