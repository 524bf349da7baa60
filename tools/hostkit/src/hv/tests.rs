use super::*;
use crate::mem::VecMemory;
use abi::hyperv::{
    CallResult, Control, Message, PostMessage, ReferenceTsc, RegisterAssignment, RegisterValue,
    Sint, StimerConfig, VpRegistersHeader, call, msr, reg, status,
};
use alloc::vec;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const SIMP: u64 = 0x1000;
const SIEFP: u64 = 0x2000;
const SINT: u8 = 7;
const VECTOR: u8 = 0x50;
const SLOT: u64 = SIMP + 256 * SINT as u64;

fn machine(auto_eoi: bool) -> (VecMemory, Partition) {
    let mem = VecMemory::new(0x10000);
    let mut p = Partition::new(PartitionConfig {
        tsc_hz: 2_000_000_000,
        tsc_at_start: 1000,
        ..Default::default()
    });
    for (m, v) in [
        (msr::GUEST_OS_ID, 1),
        (msr::SIMP, SIMP | 1),
        (msr::SIEFP, SIEFP | 1),
        (msr::SINT0 + u32::from(SINT), Sint::new(VECTOR, auto_eoi).0),
        (msr::SCONTROL, 1),
    ] {
        p.msr_write(&mem, 0, m, v).unwrap();
    }
    (mem, p)
}

fn slot(mem: &VecMemory) -> Message {
    mem.guest(SLOT, 256, |b| Message::read_from_bytes(b).unwrap())
        .unwrap()
}

fn empty_slot(mem: &VecMemory) {
    mem.guest(SLOT, 4, |b| b.fill(0)).unwrap();
}

fn take(p: &mut Partition) -> Option<u8> {
    let v = p.pending_vector(0)?;
    p.accept_vector(0, v);
    Some(v)
}

#[test]
fn message_fills_an_empty_slot_and_raises_the_vector() {
    let (mem, mut p) = machine(true);
    assert!(p.send_message(&mem, 0, SINT, 1, 0x800074, &[1, 2, 3]));
    let m = slot(&mem);
    assert_eq!(
        (m.header.message_type, m.header.payload_size, m.header.flags),
        (1, 3, 0)
    );
    assert_eq!(
        (m.header.origin, &m.payload[..3]),
        (0x800074, &[1, 2, 3][..])
    );
    assert_eq!(take(&mut p), Some(VECTOR));
    assert_eq!(p.pending_vector(0), None);
}

#[test]
fn second_message_waits_sets_pending_and_comes_with_eom() {
    let (mem, mut p) = machine(true);
    p.send_message(&mem, 0, SINT, 1, 0, &[1]);
    take(&mut p);
    p.send_message(&mem, 0, SINT, 1, 0, &[2]);
    assert_eq!((slot(&mem).header.flags, slot(&mem).payload[0]), (1, 1));
    assert_eq!(p.pending_vector(0), None);
    empty_slot(&mem);
    assert_eq!(slot(&mem).header.message_type, 0);
    p.msr_write(&mem, 0, msr::EOM, 0).unwrap();
    assert_eq!((slot(&mem).header.flags, slot(&mem).payload[0]), (0, 2));
    assert_eq!(take(&mut p), Some(VECTOR));
}

#[test]
fn eoi_rescans_and_blocks_lower_priority_until_then() {
    let (mem, mut p) = machine(false);
    p.send_message(&mem, 0, SINT, 1, 0, &[1]);
    p.send_message(&mem, 0, SINT, 1, 0, &[2]);
    assert_eq!(take(&mut p), Some(VECTOR));
    empty_slot(&mem);
    // In service: the same class stays out until EOI, which delivers the next message.
    p.signal_event_flag(&mem, 0, SINT, 3);
    assert_eq!(p.pending_vector(0), None);
    p.msr_write(&mem, 0, msr::X2APIC_EOI, 0).unwrap();
    assert_eq!(slot(&mem).payload[0], 2);
    assert_eq!(take(&mut p), Some(VECTOR));
}

#[test]
fn masked_sint_delivers_without_interrupt() {
    let (mem, mut p) = machine(true);
    p.msr_write(&mem, 0, msr::SINT0 + u32::from(SINT), Sint::MASKED)
        .unwrap();
    p.send_message(&mem, 0, SINT, 1, 0, &[9]);
    assert_eq!(
        (slot(&mem).header.message_type, p.pending_vector(0)),
        (1, None)
    );
    assert_eq!(p.signal_event_flag(&mem, 0, SINT, 5), Signalled::Off);
}

#[test]
fn synic_off_keeps_messages_until_it_is_on() {
    let (mem, mut p) = machine(true);
    p.msr_write(&mem, 0, msr::SCONTROL, 0).unwrap();
    p.send_message(&mem, 0, SINT, 1, 0, &[9]);
    assert_eq!(
        (slot(&mem).header.message_type, p.queued_messages(0, SINT)),
        (0, 1)
    );
    p.msr_write(&mem, 0, msr::SCONTROL, 1).unwrap();
    assert_eq!(
        (slot(&mem).header.message_type, p.queued_messages(0, SINT)),
        (1, 0)
    );
}

#[test]
fn event_flag_interrupts_only_when_it_was_clear() {
    let (mem, mut p) = machine(true);
    assert_eq!(p.signal_event_flag(&mem, 0, SINT, 33), Signalled::New);
    let byte = |mem: &VecMemory| mem.guest(SIEFP + 256 * 7 + 4, 1, |b| b[0]).unwrap();
    assert_eq!((byte(&mem), take(&mut p)), (2, Some(VECTOR)));
    assert_eq!(
        p.signal_event_flag(&mem, 0, SINT, 33),
        Signalled::AlreadySet
    );
    assert_eq!(p.pending_vector(0), None);
    assert_eq!(p.signal_event_flag(&mem, 0, SINT, 2048), Signalled::Off);
}

#[test]
fn private_synic_page_is_refused_not_written() {
    let (mem, mut p) = machine(true);
    mem.set_private(SIMP, true);
    p.send_message(&mem, 0, SINT, 1, 0, &[9]);
    mem.set_private(SIMP, false);
    assert_eq!((slot(&mem).header.message_type, mem.refused()), (0, 1));
    assert_eq!(p.counters().memory_faults, 1);
}

#[test]
fn sint_with_reserved_vector_faults() {
    let (mem, mut p) = machine(true);
    assert_eq!(p.msr_write(&mem, 0, msr::SINT0, 15), Err(MsrFault));
    assert_eq!(p.msr_write(&mem, 0, msr::SVERSION, 1), Err(MsrFault));
    assert_eq!(p.msr_read(0, 0x4000_1234), Err(MsrFault));
    assert_eq!(p.msr_read(0, msr::SVERSION), Ok(1));
}

#[test]
fn one_shot_direct_timer_is_never_early() {
    let (mem, mut p) = machine(true);
    let config = StimerConfig::direct(0x61, StimerConfig::AUTO_ENABLE);
    p.msr_write(&mem, 0, msr::STIMER0_CONFIG, config.0).unwrap();
    p.msr_write(&mem, 0, msr::STIMER0_COUNT, 500).unwrap();
    assert_eq!(p.next_deadline(), Some(500));
    p.poll(&mem, 499);
    assert_eq!(p.pending_vector(0), None);
    p.poll(&mem, 500);
    assert_eq!((take(&mut p), p.next_deadline()), (Some(0x61), None));
    assert_eq!(p.msr_read(0, msr::STIMER0_CONFIG).unwrap() & 1, 0);
    // A time that is past expires at once; in service until EOI.
    p.msr_write(&mem, 0, msr::STIMER0_COUNT, 10).unwrap();
    p.poll(&mem, 501);
    assert_eq!(p.pending_vector(0), None);
    p.msr_write(&mem, 0, msr::EOI, 0).unwrap();
    assert_eq!(take(&mut p), Some(0x61));
}

#[test]
fn periodic_message_timer_waits_for_its_slot() {
    let (mem, mut p) = machine(true);
    let config = StimerConfig::message(SINT, StimerConfig::PERIODIC);
    p.msr_write(&mem, 0, msr::STIMER0_COUNT + 2, 1000).unwrap();
    p.msr_write(&mem, 0, msr::STIMER0_CONFIG + 2, config.0 | 1)
        .unwrap();
    p.poll(&mem, 1000);
    let m = slot(&mem);
    assert_eq!(
        (m.header.message_type, m.header.payload_size),
        (0x8000_0010, 24)
    );
    assert_eq!(
        (
            m.payload[0],
            u64::from_le_bytes(m.payload[8..16].try_into().unwrap())
        ),
        (1, 1000)
    );
    p.poll(&mem, 2000);
    assert_eq!(slot(&mem).header.flags, 1);
    // One message per timer waits; while it does the timer has no deadline.
    assert_eq!(p.next_deadline(), None);
    empty_slot(&mem);
    p.set_time(2500);
    p.msr_write(&mem, 0, msr::EOM, 0).unwrap();
    let m = slot(&mem);
    assert_eq!(
        u64::from_le_bytes(m.payload[8..16].try_into().unwrap()),
        2000
    );
    assert_eq!(
        u64::from_le_bytes(m.payload[16..24].try_into().unwrap()),
        2500
    );
    assert_eq!(p.next_deadline(), Some(3000));
}

#[test]
fn message_timer_on_sint_0_stays_off() {
    let (mem, mut p) = machine(true);
    p.msr_write(&mem, 0, msr::STIMER0_COUNT, 1000).unwrap();
    p.msr_write(&mem, 0, msr::STIMER0_CONFIG, 1).unwrap();
    assert_eq!(
        (p.msr_read(0, msr::STIMER0_CONFIG), p.next_deadline()),
        (Ok(0), None)
    );
    assert_eq!(
        p.msr_write(&mem, 0, msr::STIMER0_CONFIG, 1 << 40),
        Err(MsrFault)
    );
}

#[test]
fn reference_tsc_page_agrees_with_the_counter() {
    let (mem, mut p) = machine(true);
    p.msr_write(&mem, 0, msr::REFERENCE_TSC, 0x3001).unwrap();
    let page = mem
        .guest(0x3000, 24, |b| ReferenceTsc::read_from_bytes(b).unwrap())
        .unwrap();
    assert_eq!(page.sequence, 1);
    // 2 GHz: one second after the start.
    let tsc = 1000u128 + 2_000_000_000;
    let time = ((tsc * u128::from(page.scale)) >> 64) as i64 + page.offset;
    assert!((time - 10_000_000).abs() <= 1, "{time}");
    p.set_time(77);
    assert_eq!(p.msr_read(0, msr::TIME_REF_COUNT), Ok(77));
}

fn hc(p: &mut Partition, mem: &VecMemory, control: Control, input: &[u8]) -> CallResult {
    CallResult(p.hypercall(mem, &mut NoHook, 0, control.0, input, &mut []))
}

fn post(connection: u32, payload: &[u8]) -> PostMessage {
    let mut m = PostMessage::new_zeroed();
    (m.connection_id, m.message_type, m.payload_size) = (connection, 1, payload.len() as u32);
    m.payload[..payload.len()].copy_from_slice(payload);
    m
}

#[test]
fn post_message_reaches_the_inbox_or_says_why_not() {
    let (mem, mut p) = machine(true);
    let control = Control::simple(call::POST_MESSAGE);
    p.connect_port(4, Port::Message);
    p.connect_port(5, Port::Event);
    let mut say = |m: PostMessage| hc(&mut p, &mem, control, m.as_bytes()).status();
    assert_eq!(say(post(4, &[1, 2])), status::SUCCESS);
    assert_eq!(say(post(3, &[1])), status::INVALID_CONNECTION_ID);
    assert_eq!(say(post(5, &[1])), status::INVALID_PORT_ID);
    assert_eq!(
        say(PostMessage {
            message_type: 0x8000_0001,
            ..post(4, &[])
        }),
        status::INVALID_PARAMETER
    );
    assert_eq!(
        say(PostMessage {
            payload_size: 241,
            ..post(4, &[])
        }),
        status::INVALID_PARAMETER
    );
    for _ in 1..PORT_BUFFERS {
        assert_eq!(say(post(4, &[])), status::SUCCESS);
    }
    assert_eq!(say(post(4, &[])), status::INSUFFICIENT_BUFFERS);
    let first = p.take_inbound().unwrap();
    assert_eq!(
        first,
        Inbound::Message {
            connection: 4,
            vp: 0,
            message_type: 1,
            payload: vec![1, 2]
        }
    );
    assert_eq!(
        hc(&mut p, &mem, Control(control.0 | 1 << 27), &[]).status(),
        status::INVALID_HYPERCALL_INPUT
    );
    assert_eq!(
        hc(&mut p, &mem, Control::simple(0x77), &[]).status(),
        status::INVALID_HYPERCALL_CODE
    );
    assert_eq!(p.counters().hypercalls[&call::POST_MESSAGE], 22);
}

#[test]
fn signal_event_collapses_while_it_waits() {
    let (mem, mut p) = machine(true);
    p.connect_port(0x27001, Port::Event);
    let signal = [0x01, 0x70, 0x02, 0, 0, 0, 0, 0];
    for _ in 0..3 {
        assert_eq!(
            hc(&mut p, &mem, Control::simple(call::SIGNAL_EVENT), &signal).status(),
            0
        );
    }
    assert_eq!(
        p.take_inbound(),
        Some(Inbound::Event {
            connection: 0x27001
        })
    );
    assert_eq!(p.take_inbound(), None);
}

#[derive(Default)]
struct Hook(Vec<(Option<u8>, u32, u64)>);

impl RegisterHook for Hook {
    fn get(&mut self, _: u32, _: Option<u8>, name: u32) -> Result<RegisterValue, u16> {
        Ok(RegisterValue {
            low: u64::from(name),
            high: 1,
        })
    }
    fn set(&mut self, _: u32, vtl: Option<u8>, name: u32, value: RegisterValue) -> Result<(), u16> {
        self.0.push((vtl, name, value.low));
        if name == 0xdead {
            Err(status::ACCESS_DENIED)
        } else {
            Ok(())
        }
    }
}

#[test]
fn registers_go_to_the_synic_or_the_hook() {
    let (mem, mut p) = machine(true);
    let mut hook = Hook::default();
    let set = |name, low| RegisterAssignment {
        name,
        pad: [0; 3],
        value: RegisterValue { low, high: 0 },
    };
    let head = |target_vtl| VpRegistersHeader {
        partition_id: u64::MAX,
        vp_index: abi::hyperv::VP_INDEX_SELF,
        target_vtl,
        reserved: [0; 3],
    };
    let mut input = head(0).as_bytes().to_vec();
    for r in [
        set(reg::GUEST_OS_ID, 0x77),
        set(reg::SEV_CONTROL, 0x5001),
        set(0xdead, 0),
        set(1, 1),
    ] {
        input.extend_from_slice(r.as_bytes());
    }
    let control = Control::rep(call::SET_VP_REGISTERS, 4);
    let r = CallResult(p.hypercall(&mem, &mut hook, 0, control.0, &input, &mut []));
    assert_eq!((r.status(), r.reps()), (status::ACCESS_DENIED, 2));
    assert_eq!(p.guest_os_id(), 0x77);
    assert_eq!(
        hook.0,
        [(None, reg::SEV_CONTROL, 0x5001), (None, 0xdead, 0)]
    );

    let mut input = head(0x12).as_bytes().to_vec();
    input.extend_from_slice(&reg::SVERSION.to_le_bytes());
    input.extend_from_slice(&reg::GHCB.to_le_bytes());
    let mut out = [0; 32];
    let control = Control::rep(call::GET_VP_REGISTERS, 2);
    let r = CallResult(p.hypercall(&mem, &mut hook, 0, control.0, &input, &mut out));
    assert_eq!((r.status(), r.reps(), out[0]), (0, 2, 1));
    assert_eq!(out[16..20], reg::GHCB.to_le_bytes());
    // Level 0 is not ours: everything goes to the hook.
    let mut input = head(0x10).as_bytes().to_vec();
    input.extend_from_slice(set(reg::SIPP, 9).as_bytes());
    let control = Control::rep(call::SET_VP_REGISTERS, 1);
    p.hypercall(&mem, &mut hook, 0, control.0, &input, &mut []);
    assert_eq!(hook.0.last(), Some(&(Some(0), reg::SIPP, 9)));
}

#[test]
fn interrupt_command_reaches_the_vps_that_it_names_until_eoi() {
    const KICK: u8 = 0x70;
    let mem = VecMemory::new(0x1000);
    let mut p = Partition::new(PartitionConfig {
        vp_count: 3,
        ..Default::default()
    });
    let mut sent = |from: u32, command: u64| -> Vec<u32> {
        p.msr_write(&mem, from, msr::ICR, command | u64::from(KICK))
            .unwrap();
        let named = (0..3).filter(|vp| p.pending_vector(*vp) == Some(KICK));
        let named: Vec<u32> = named.collect();
        for vp in &named {
            p.accept_vector(*vp, KICK);
            // One of the same class waits for the end of this one.
            p.msr_write(&mem, 0, msr::ICR, u64::from(*vp) << 56 | u64::from(KICK))
                .unwrap();
            assert_eq!(p.pending_vector(*vp), None);
            p.msr_write(&mem, *vp, msr::EOI, 0).unwrap();
            assert_eq!(p.pending_vector(*vp), Some(KICK));
            p.accept_vector(*vp, KICK);
            p.msr_write(&mem, *vp, msr::EOI, 0).unwrap();
        }
        named
    };
    assert_eq!(sent(0, 2 << 56), [2]);
    assert_eq!(sent(2, 0), [0]);
    assert_eq!(sent(1, 1 << 18), [1]);
    assert_eq!(sent(1, 2 << 18), [0, 1, 2]);
    assert_eq!(sent(1, 3 << 18), [0, 2]);
    assert_eq!(sent(1, 0xff << 56), [0, 1, 2]);
    // Nobody has this id: as on hardware, nothing happens.
    assert_eq!(sent(1, 3 << 56), []);
}

#[test]
fn interrupt_command_of_another_kind_is_a_fault() {
    let (mem, mut p) = machine(false);
    // A vector that does not exist, INIT, SIPI, NMI, a logical destination.
    for command in [0x0f, 0x500, 0x608, 0x400, 0x870] {
        assert_eq!(p.msr_write(&mem, 0, msr::ICR, command), Err(MsrFault));
        assert_eq!(p.pending_vector(0), None);
    }
}

#[test]
fn a_request_while_the_processor_may_take_the_one_before_is_not_lost() {
    const KICK: u8 = 0x70;
    let (mem, mut p) = machine(false);
    let send = |p: &mut Partition| {
        p.msr_write(&mem, 0, msr::ICR, u64::from(KICK)).unwrap();
    };
    let end = |p: &mut Partition| p.msr_write(&mem, 0, msr::EOI, 0).unwrap();
    send(&mut p);
    p.offer_vector(0, p.pending_vector(0));
    // Taken by now or not: the second one counts for itself.
    send(&mut p);
    p.accept_vector(0, KICK);
    end(&mut p);
    assert_eq!(p.pending_vector(0), Some(KICK));
    p.offer_vector(0, Some(KICK));
    p.accept_vector(0, KICK);
    end(&mut p);
    assert_eq!(p.pending_vector(0), None);
    // An offer that was withdrawn: both are one.
    send(&mut p);
    p.offer_vector(0, Some(KICK));
    send(&mut p);
    p.offer_vector(0, None);
    p.accept_vector(0, KICK);
    end(&mut p);
    assert_eq!(p.pending_vector(0), None);
}
