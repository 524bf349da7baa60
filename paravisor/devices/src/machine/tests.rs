//! The machine as a whole: how a kernel probes it, and how anything at all is survived.

use super::*;
use crate::test_support::{DRIVER_RAM, HostCpu, NetDriver, Ram, config};
use memory::GuestMemory;
use proptest::prelude::*;

fn machine() -> Machine {
    Machine::new(&config(), &HostCpu)
}

#[test]
fn linux_probes_pci_type_1() {
    // pci_check_type1 and pci_sanity_check.
    let mut machine = machine();
    machine.io_write(0xcfb, 1, 1, 0);
    let before = machine.io_read(0xcf8, 4, 0);
    machine.io_write(0xcf8, 4, 0x8000_0000, 0);
    assert_eq!(machine.io_read(0xcf8, 4, 0), 0x8000_0000);
    machine.io_write(0xcf8, 4, before, 0);
    machine.io_write(0xcf8, 4, 0x8000_0008, 0);
    assert_eq!(machine.io_read(0xcfe, 2, 0), 0x0600);
    for device in 2..32 {
        machine.io_write(0xcf8, 4, 0x8000_0000 | device << 11, 0);
        assert_eq!(machine.io_read(0xcfc, 4, 0), u32::MAX);
    }
    machine.io_write(0xcf8, 4, 0x8000_000c, 0);
    assert_eq!(
        machine.io_read(0xcfe, 1, 0),
        0,
        "not a multifunction device"
    );
    assert_eq!(
        machine.io_read(0xcfe, 4, 0),
        u32::MAX,
        "leaves the data port"
    );
}

#[test]
fn what_is_absent_reads_all_ones() {
    let mut machine = machine();
    // 8259: what Linux writes to the mask does not come back, so there is none.
    machine.io_write(0x21, 1, 0xfb, 0);
    assert_eq!(machine.io_read(0x21, 1, 0), 0xff);
    for port in [0x60, 0x61, 0x64, 0x2e8, 0xffff] {
        assert_eq!(machine.io_read(port, 1, 0), 0xff);
        assert_eq!(machine.io_read(port, 4, 0), u32::MAX);
    }
    for port in 0x40..0x44 {
        assert_eq!(machine.io_read(port, 1, 0), 0, "a timer that does not run");
    }
    assert_eq!(machine.mmio_read(0xfed0_0000, 4, 0), 0xffff_ffff);
    assert!(machine.counters().unknown_port > 7);
    assert_eq!(machine.counters().unknown_mmio, 1);
}

#[test]
fn accesses_to_registers_are_counted_by_what_they_are_for() {
    let mut machine = machine();
    machine.mmio_write(0xfee0_00b0, 4, 0, 0);
    for ticks in [5, 6] {
        machine.mmio_write(0xfee0_0380, 4, ticks, 0);
    }
    for address in [0xe000_0014, 0xe000_3000, 0xe000_4000] {
        machine.mmio_read(address, 4, 0);
    }
    for address in [0xfee0_0390, 0xfec0_0010, 0xfed0_0000, 0xf000_0000] {
        machine.mmio_read(address, 4, 0);
    }
    let expected = Registers {
        interrupt_end: 1,
        timer: 2,
        card: 3,
        other: 4,
    };
    assert_eq!(machine.counters().registers, expected);
}

#[test]
fn power_off_and_reset_reach_the_owner() {
    let mut machine = machine();
    machine.io_write(0x604, 2, 5 << 10 | 1 << 13, 0);
    assert_eq!(machine.take_power_event(), Some(PowerEvent::PowerOff));
    machine.io_write(0xcf9, 1, 6, 0);
    assert_eq!(machine.take_power_event(), Some(PowerEvent::Reset));
    assert_eq!(machine.take_power_event(), None);
}

#[test]
fn pm_timer_advances_with_the_clock() {
    let mut machine = machine();
    assert_eq!(machine.io_read(0x608, 4, 1_000_000_000), 3_579_545);
}

#[test]
fn serial_interrupt_goes_through_the_io_apic() {
    let mut machine = machine();
    machine.mmio_write(0xfee0_00f0, 4, 0x1ff, 0);
    machine.mmio_write(0xfec0_0000, 4, 0x18, 0);
    machine.mmio_write(0xfec0_0010, 4, 0x34, 0);
    machine.io_write(0x3fc, 1, 8, 0);
    machine.io_write(0x3f9, 1, 2, 0);
    assert_eq!(machine.pending_interrupt().map(|p| p.vector), Some(0x34));
    machine.accept_interrupt(0x34);
    machine.io_write(0x3f8, 1, b'A'.into(), 0);
    assert_eq!(machine.io_read(0x3fa, 1, 0) & 0xf, 2);
    let mut out = Vec::new();
    machine.drain_console(|bytes| out.extend_from_slice(bytes));
    assert_eq!(out, b"A");
    // Typed bytes raise it again.
    machine.io_write(0x3f9, 1, 1, 0);
    machine.mmio_write(0xfee0_00b0, 4, 0, 0);
    assert_eq!(machine.put_console(b"x"), 1);
    assert_eq!(machine.pending_interrupt().map(|p| p.vector), Some(0x34));
}

#[test]
fn apic_base_keeps_its_place() {
    let mut machine = machine();
    assert_eq!(machine.rdmsr(0x1b, 0), Ok(0xfee0_0900));
    assert_eq!(machine.wrmsr(0x1b, 0xfee0_0d00, 0), Err(Fault), "x2APIC");
    assert_eq!(machine.wrmsr(0x1b, 0xfed0_0900, 0), Err(Fault));
    assert_eq!(machine.wrmsr(0x1b, 0xfee0_0100, 0), Ok(()));
    assert_eq!(machine.mmio_read(0xfee0_0030, 4, 0), 0xffff_ffff);
    assert_eq!(machine.wrmsr(0x1b, 0xfee0_0900, 0), Ok(()));
    assert_eq!(machine.mmio_read(0xfee0_0030, 4, 0), 0x0005_0014);
    assert_eq!(machine.counters().unknown_msr, 2);
}

#[test]
fn apic_timer_interrupts_through_the_machine() {
    let mut machine = machine();
    machine.mmio_write(0xfee0_00f0, 4, 0x1ff, 0);
    machine.mmio_write(0xfee0_0320, 4, 0xec, 0);
    machine.mmio_write(0xfee0_03e0, 4, 0xb, 0);
    machine.mmio_write(0xfee0_0380, 4, 5000, 1000);
    assert_eq!(machine.next_deadline(), Some(6000));
    machine.advance(6000);
    assert_eq!(
        machine.pending_interrupt(),
        Some(PendingInterrupt {
            vector: 0xec,
            priority: 0xe
        })
    );
}

/// One thing that a guest or the owner can do.
#[derive(Clone, Debug)]
enum Step {
    In(u16, u8),
    Out(u16, u8, u32),
    Read(u64, u8),
    Write(u64, u8, u64),
    Cpuid(u32, u32, u64),
    Rdmsr(u32),
    Wrmsr(u32, u64),
    Store(u64, u16),
    TakeTx(usize),
    DeliverRx(usize),
    Interrupt,
    Wait(u64),
    Link(bool),
}

fn size() -> impl Strategy<Value = u8> {
    prop_oneof![8 => prop_oneof![Just(1u8), Just(2), Just(4), Just(8)], 1 => any::<u8>()]
}

fn step() -> impl Strategy<Value = Step> {
    let port = prop_oneof![
        4 => 0x3f8u16..0x400,
        2 => 0x2f8u16..0x300,
        1 => 0x600u16..0x610,
        1 => 0x70u16..0x72,
        6 => 0xcf8u16..0xd00,
        1 => any::<u16>()
    ];
    let address = prop_oneof![
        4 => 0xe000_0000u64..0xe000_0040,
        3 => 0xe000_3000u64..0xe000_3010,
        2 => 0xe000_0000u64..0xe000_6000,
        4 => 0xfee0_0000u64..0xfee0_0400,
        2 => (0u64..0x40).prop_map(|i| 0xfee0_0000 + 16 * i),
        2 => 0xfec0_0000u64..0xfec0_0044,
        1 => any::<u64>()
    ];
    let value = prop_oneof![
        4 => 0u64..0x100,
        2 => any::<u64>(),
        1 => Just(u64::MAX),
        2 => (0u32..64).prop_map(|bit| 1 << bit)
    ];
    let config = (0u32..0x40, 0u32..2).prop_map(|(r, d)| 0x8000_0000 | d << 11 | r << 2);
    let msr = prop_oneof![0u32..0x300, 0xc001_0000u32..0xc001_0040, any::<u32>()];
    let leaf = prop_oneof![0u32..0x20, 0x8000_0000u32..0x8000_0030, any::<u32>()];
    prop_oneof![
        (port.clone(), size()).prop_map(|(p, s)| Step::In(p, s)),
        (port, size(), any::<u32>()).prop_map(|(p, s, v)| Step::Out(p, s, v)),
        config.prop_map(|address| Step::Out(0xcf8, 4, address)),
        (address.clone(), size()).prop_map(|(a, s)| Step::Read(a, s)),
        (address, size(), value.clone()).prop_map(|(a, s, v)| Step::Write(a, s, v)),
        (leaf, any::<u32>(), any::<u64>()).prop_map(|(l, s, c)| Step::Cpuid(l, s, c)),
        msr.clone().prop_map(Step::Rdmsr),
        (msr, value).prop_map(|(m, v)| Step::Wrmsr(m, v)),
        (0u64..DRIVER_RAM, any::<u16>()).prop_map(|(a, v)| Step::Store(a, v)),
        (0u64..0x3800, 0u16..300).prop_map(|(a, v)| Step::Store(a, v)),
        (0usize..2000).prop_map(Step::TakeTx),
        (0usize..2000).prop_map(Step::DeliverRx),
        Just(Step::Interrupt),
        any::<u64>().prop_map(|t| Step::Wait(t >> 24)),
        any::<bool>().prop_map(Step::Link),
    ]
}

fn run(machine: &mut Machine, ram: &Ram, base: u64, steps: Vec<Step>) {
    let mut now = 0u64;
    let mut buf = [0; 2048];
    for step in steps {
        match step {
            Step::In(port, size) => {
                machine.io_read(port, size, now);
            }
            Step::Out(port, size, value) => machine.io_write(port, size, value, now),
            Step::Read(gpa, size) => {
                machine.mmio_read(gpa, size, now);
            }
            Step::Write(gpa, size, value) => machine.mmio_write(gpa, size, value, now),
            Step::Cpuid(leaf, subleaf, bits) => {
                machine.cpuid(
                    leaf,
                    subleaf,
                    CpuidState {
                        cr4: bits,
                        xcr0: bits,
                    },
                );
            }
            Step::Rdmsr(msr) => {
                let _ = machine.rdmsr(msr, now);
            }
            Step::Wrmsr(msr, value) => {
                let _ = machine.wrmsr(msr, value, now);
            }
            Step::Store(offset, value) => {
                let _ = ram.write(base + offset, &value.to_le_bytes());
            }
            Step::TakeTx(len) => {
                if let Some(count) = machine.take_tx(ram, &mut buf[..len]) {
                    assert!(count <= len);
                }
            }
            Step::DeliverRx(len) => {
                let _ = machine.deliver_rx(ram, &buf[..len]);
            }
            Step::Interrupt => {
                if let Some(pending) = machine.pending_interrupt() {
                    assert!(pending.vector >= 16);
                    machine.accept_interrupt(pending.vector);
                    assert!(
                        machine
                            .pending_interrupt()
                            .is_none_or(|p| p.priority > pending.priority)
                    );
                }
            }
            Step::Wait(time) => {
                now = now.saturating_add(time);
                machine.advance(now);
                assert!(
                    machine
                        .next_deadline()
                        .is_none_or(|at| at.saturating_add(1) > now)
                );
            }
            Step::Link(up) => machine.set_link(up),
        }
        machine.drain_console(|_| ());
        machine.take_audit(&mut buf);
        let room = machine.audit_room();
        assert_eq!(machine.put_audit(&buf[..16]), room);
        machine.take_nic_events();
        machine.take_power_event();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_sequence_on_a_fresh_machine(steps in prop::collection::vec(step(), 0..200)) {
        let ram = Ram::new(0x40_0000);
        run(&mut machine(), &ram, 0, steps);
    }

    #[test]
    fn any_sequence_on_a_machine_with_a_running_driver(
        steps in prop::collection::vec(step(), 0..200),
        wanted in any::<u64>(),
    ) {
        let ram = Ram::new(0x40_0000);
        let mut machine = machine();
        let mut driver = NetDriver::start(&mut machine, &ram, 0x10_0000, wanted);
        driver.fill_rx(&mut machine, &ram);
        for len in 0..20 {
            driver.send(&mut machine, &ram, &[0xaa; 100][..len * 5]);
        }
        run(&mut machine, &ram, 0x10_0000, steps);
    }
}
