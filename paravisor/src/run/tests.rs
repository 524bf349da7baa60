use super::*;
use crate::account::Account;
use crate::audit::Audit;
use crate::testing::{FakePlatform, identity_tables};
use abi::hyperv::msr;
use devices::{CpuidSource, MachineConfig};
use memory::doubles::VecGuest;
use platform::{IoAccess, Reg};
use std::cell::Cell;
use std::rc::Rc;

const IF: u64 = 1 << 9;
/// xAPIC registers.
const SPURIOUS: u64 = 0xfee0_00f0;
const LVT_TIMER: u64 = 0xfee0_0320;
const INITIAL_COUNT: u64 = 0xfee0_0380;
const VECTOR: u8 = 0xec;

struct NoLeaves;
impl CpuidSource for NoLeaves {
    fn cpuid(&self, _: u32, _: u32) -> Option<[u32; 4]> {
        None
    }
}

/// Counts its turns and says what it is told to say.
#[derive(Default)]
struct Counted {
    turns: Vec<Reason>,
    answer: Polled,
    findings: Vec<Finding>,
    fails: bool,
    called: bool,
    no_queues: bool,
    lost: u64,
}

impl Network<FakePlatform> for Counted {
    fn poll(
        &mut self,
        _: &mut FakePlatform,
        _: &mut Machine,
        _: &impl GuestMemory,
        reason: Reason,
        _: u64,
    ) -> Result<Polled, End> {
        self.turns.push(reason);
        if self.fails {
            return Err(End {
                outcome: Outcome::HostFailure,
                why: Why::Told("test"),
            });
        }
        Ok(self.answer)
    }
    fn take_findings(&mut self) -> Vec<Finding> {
        core::mem::take(&mut self.findings)
    }
    fn is_called(&self) -> bool {
        self.called
    }
    fn has_queues(&self) -> bool {
        !self.no_queues
    }
    fn account(&self, account: &mut Account) {
        account.add("relay", "lost", self.lost);
    }
}

#[derive(Default)]
struct Fixed {
    tsc: Rc<Cell<u64>>,
    pending: Pending,
    /// How many turns the host will answer before the guest is entered.
    answers: Cell<u32>,
    audit: Audit,
}

impl Surroundings<FakePlatform> for Fixed {
    fn tsc(&self) -> u64 {
        self.tsc.get()
    }
    fn pending(&mut self) -> Pending {
        core::mem::take(&mut self.pending)
    }
    fn raised(&self) -> bool {
        let left = self.answers.get();
        self.answers.set(left.saturating_sub(1));
        left != 0
    }
    fn console(&mut self, _: &mut FakePlatform, _: &[u8]) {}
    fn audit<T>(&mut self, act: impl FnOnce(&mut Audit) -> T) -> T {
        act(&mut self.audit)
    }
    fn records(&mut self, _: &mut FakePlatform, _: usize) {}
    fn memory(&self, account: &mut Account) {
        account.add("heap_used", "", 5);
    }
}

type TestVp = Vp<FakePlatform, VecGuest, Counted, Fixed>;

mod processors;

/// A VP whose TSC counts nanoseconds.
fn vp(exits: &[Exit]) -> (TestVp, Rc<Cell<u64>>) {
    let machine = machine(1);
    vp_of(machine, exits)
}

fn machine(processors: u8) -> Machine {
    let config = MachineConfig {
        memory_size: 0x2000_0000,
        tsc_hz: 1_000_000_000,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_up: false,
        processors,
        queue_pairs: 1,
        hash: Default::default(),
        epoch_seconds: 0,
        advertise_pm_timer: false,
    };
    Machine::new(&config, &NoLeaves)
}

fn vp_of(machine: Machine, exits: &[Exit]) -> (TestVp, Rc<Cell<u64>>) {
    let guest = VecGuest::new(0x20_0000);
    identity_tables(&guest, 0x1000);
    let exits = exits.iter().copied().collect();
    let mut platform = FakePlatform {
        exits,
        ..FakePlatform::default()
    };
    let rflags = platform.vp.get(Reg::Rflags);
    platform.vp.set(Reg::Rflags, rflags | IF);
    let timer = Timer::new(&mut platform, 0, 0x50).unwrap();
    let watch = Timer::new(&mut platform, 1, 0x40).unwrap();
    platform.written.clear();
    let clock = Clock::new(0, 1_000_000_000, 0).unwrap();
    let tsc = Rc::new(Cell::new(1));
    let mut surroundings = Fixed {
        tsc: tsc.clone(),
        ..Fixed::default()
    };
    surroundings.audit.open();
    let timers = [timer, watch];
    let vp = Vp::new(
        platform,
        guest,
        machine,
        Counted::default(),
        surroundings,
        timers,
        clock,
    );
    (vp, tsc)
}

/// Sets the guest's APIC timer to `count` ticks, one shot.
fn arm_apic_timer(vp: &mut TestVp, count: u64) {
    vp.machine.mmio_write(SPURIOUS, 4, 0x1ff, 0);
    vp.machine.mmio_write(LVT_TIMER, 4, VECTOR.into(), 0);
    vp.machine.mmio_write(INITIAL_COUNT, 4, count, 0);
}

#[test]
fn halted_guest_sleeps_until_its_timer_is_due() {
    let (mut vp, tsc) = vp(&[Exit::Halt, Exit::Halt]);
    arm_apic_timer(&mut vp, 1000);
    let due = vp.machine.next_deadline().unwrap();
    vp.turn().unwrap();
    vp.turn().unwrap();
    assert_eq!(
        (vp.platform.waits, vp.stats.exits[Exit::Halt.index()]),
        (1, 1)
    );
    // The host was asked for an interrupt when it is due.
    assert!(
        vp.platform
            .written
            .contains(&(msr::STIMER0_COUNT, due.div_ceil(100)))
    );
    tsc.set(due);
    vp.turn().unwrap();
    assert_eq!(vp.platform.waits, 1);
    assert_eq!(vp.platform.taken, [VECTOR]);
    // It was taken, so it is not offered again.
    assert!(vp.machine.pending_interrupt().is_none());
}

#[test]
fn interrupt_that_was_not_taken_is_offered_again() {
    let (mut vp, tsc) = vp(&[Exit::Interrupted, Exit::Interrupted]);
    vp.platform.takes_interrupts = false;
    arm_apic_timer(&mut vp, 10);
    tsc.set(1_000_000);
    vp.turn().unwrap();
    assert!(vp.machine.pending_interrupt().is_some());
    vp.platform.takes_interrupts = true;
    vp.turn().unwrap();
    assert_eq!(vp.platform.taken, [VECTOR]);
}

/// CR8 and the local APIC's register are one: what the guest writes to either holds
/// interrupts back, and both read the same.
#[test]
fn task_priority_is_the_same_in_cr8_and_in_the_apic() {
    const TASK_PRIORITY: u64 = 0xfee0_0080;
    let (mut vp, tsc) = vp(&[Exit::Interrupted; 4]);
    arm_apic_timer(&mut vp, 10);
    tsc.set(1_000_000);
    let class = VECTOR >> 4;
    vp.machine
        .mmio_write(TASK_PRIORITY, 4, u64::from(class) << 4 | 3, 0);
    vp.turn().unwrap();
    assert_eq!(vp.platform.vp.priority, class);
    // Offered, so that the processor can let it in without an exit, and not taken.
    assert!(vp.platform.taken.is_empty());
    assert!(vp.machine.pending_interrupt().is_none());
    // MOV CR8 makes no exit of its own.
    vp.platform.cr8 = Some(0);
    vp.turn().unwrap();
    assert_eq!(vp.platform.taken, [VECTOR]);
    assert_eq!(vp.machine.mmio_read(TASK_PRIORITY, 4, 0), 0);
    vp.platform.cr8 = Some(9);
    vp.turn().unwrap();
    assert_eq!(vp.machine.mmio_read(TASK_PRIORITY, 4, 0), 0x90);
}

#[test]
fn network_has_a_turn_for_a_reason_only() {
    let (mut vp, tsc) = vp(&[Exit::Interrupted; 8]);
    vp.network.answer.deadline = Some(50);
    vp.turn().unwrap();
    assert_eq!(vp.network.turns.len(), 1, "once at the start");
    vp.turn().unwrap();
    assert_eq!(vp.network.turns.len(), 1);
    vp.surroundings.pending.sint = true;
    vp.turn().unwrap();
    assert!(vp.network.turns[1].sint);
    tsc.set(5000);
    vp.turn().unwrap();
    assert_eq!(vp.network.turns.len(), 3, "deadline at reference time 50");
    vp.network.answer = Polled {
        more: true,
        deadline: None,
    };
    vp.surroundings.pending.sint = true;
    vp.turn().unwrap();
    vp.turn().unwrap();
    assert_eq!(vp.network.turns.len(), 5, "a budget ended the turn before");
}

#[test]
fn what_the_host_answers_at_once_costs_no_entry_and_holds_the_guest_back_for_few_turns() {
    let (mut vp, _) = vp(&[Exit::Interrupted; 8]);
    let entered = |vp: &TestVp| vp.stats.exits[Exit::Interrupted.index()];
    vp.surroundings.answers.set(1);
    vp.turn().unwrap();
    assert_eq!(entered(&vp), 0);
    vp.turn().unwrap();
    assert_eq!(entered(&vp), 1);
    // A host that always has something to say.
    vp.surroundings.answers.set(u32::MAX);
    let turns = u64::from(ROUNDS) + 1;
    for n in 0..3 * turns {
        assert_eq!(entered(&vp), 1 + n / turns);
        vp.turn().unwrap();
    }
}

#[test]
fn halted_guest_with_network_work_left_does_not_sleep() {
    let (mut vp, _) = vp(&[Exit::Halt]);
    vp.network.answer = Polled {
        more: true,
        deadline: None,
    };
    for _ in 0..5 {
        vp.turn().unwrap();
    }
    assert_eq!((vp.platform.waits, vp.network.turns.len()), (0, 5));
}

#[test]
fn guest_that_can_never_wake_ends_the_run() {
    let (mut vp, _) = vp(&[Exit::Halt]);
    vp.platform.vp.set(Reg::Rflags, 2);
    assert_eq!(vp.run().outcome, Outcome::PowerOff);
}

#[test]
fn each_end_has_its_outcome() {
    let unknown = Exit::Unknown {
        code: 0x77,
        info1: 1,
        info2: 2,
    };
    let cases = [
        (Exit::Shutdown, Outcome::TripleFault),
        (unknown, Outcome::UnknownExit),
        (Exit::EntryRefused { code: u64::MAX }, Outcome::UnknownExit),
    ];
    for (exit, outcome) in cases {
        let (mut vp, _) = vp(&[exit]);
        assert_eq!(vp.run().outcome, outcome);
    }
    // The reset register (PC, port 0xcf9).
    let reset = IoAccess {
        port: 0xcf9,
        size: 1,
        input: false,
        string: None,
    };
    let (mut vp, _) = vp(&[Exit::Io(reset)]);
    vp.platform.vp.set(Reg::Rax, 6);
    assert_eq!(vp.run().outcome, Outcome::Reset);
}

#[test]
fn syn_34_timer_interrupts_without_a_cause_are_counted_and_harmless() {
    let (mut vp, _) = vp(&[Exit::Interrupted; 3]);
    for _ in 0..3 {
        vp.surroundings.pending = Pending {
            timer: true,
            ..Pending::default()
        };
        vp.turn().unwrap();
    }
    assert_eq!(vp.stats.early_timers, 3);
    let audit: Vec<_> = vp.surroundings.audit.iter().collect();
    assert_eq!(audit.len(), 1);
    assert_eq!(audit[0].finding.violation.rule, Rule::SYN_34);
    assert_eq!(audit[0].finding.times, 3);
    let ended = vp
        .platform
        .written
        .iter()
        .filter(|write| write.0 == msr::EOI)
        .count();
    assert_eq!(ended, 3);
}

#[test]
fn wall_8_end_of_a_run_tells_no_address_of_the_guest() {
    let unknown = Exit::Unknown {
        code: 0x46,
        info1: 0x1234_5678,
        info2: 0x9abc_def0,
    };
    let (mut vp, _) = vp(&[unknown]);
    vp.platform.vp.set(Reg::Rip, 0xffff_ffff_8100_0000);
    let end = vp.run();
    assert_eq!(end.outcome, Outcome::UnknownExit);
    assert_eq!(end.why.to_string(), "exit 0x46");
}

#[test]
fn nmi_waits_until_the_event_slot_is_free() {
    let (mut vp, _) = vp(&[Exit::Interrupted, Exit::Interrupted]);
    // Self IPI, delivery mode NMI.
    vp.machine.mmio_write(0xfee0_0300, 4, 0x4_0400, 0);
    vp.platform.vp.raised = Some((14, Some(0)));
    vp.turn().unwrap();
    assert_eq!(vp.platform.vp.raised, Some((14, Some(0))));
    vp.platform.vp.raised = None;
    vp.turn().unwrap();
    assert_eq!(vp.platform.vp.raised, Some((2, None)));
}

#[test]
fn syn_19_vectors_of_the_hosts_choice_are_recorded_and_nothing_else() {
    let (mut vp, _) = vp(&[Exit::Interrupted; 4]);
    vp.turn().unwrap();
    vp.platform.written.clear();
    for vector in [0x80, 0x80, 0xff] {
        vp.surroundings.pending.foreign = Some(vector);
        vp.turn().unwrap();
    }
    let seen: Vec<_> = vp
        .surroundings
        .audit
        .iter()
        .map(|entry| (entry.finding.violation, entry.finding.times))
        .collect();
    let expected =
        [(0x80u8, 2), (0xff, 1)].map(|(v, times)| (Violation::new(Rule::SYN_19, 0, v), times));
    assert_eq!(seen, expected);
    assert_eq!(vp.network.turns.len(), 1, "no message is looked for");
    assert_eq!(vp.platform.written, []);
}

#[test]
fn findings_of_the_network_reach_the_audit_of_a_turn_that_fails_too() {
    let (mut vp, _) = vp(&[Exit::Interrupted]);
    let violation = Violation::new(Rule::SYN_06, 4, 255u8);
    vp.network.findings.push(Finding {
        vp: 0,
        channel: None,
        violation,
        times: 1,
    });
    vp.network.fails = true;
    vp.turn().unwrap_err();
    let found = vp.surroundings.audit.iter().next().unwrap();
    assert_eq!(found.finding.violation, violation);
}

#[test]
fn guest_reads_the_audit_from_its_second_serial_port() {
    let (mut vp, _) = vp(&[]);
    vp.surroundings.pending.foreign = Some(0x80);
    let text = ask(&mut vp, "audit\n");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains(r#""kind":"audit""#) && lines[0].contains(r#""rule":"SYN-19""#));
    assert!(lines[1].contains(r#""more":0"#));
}

#[test]
fn guest_reads_the_counters_from_its_second_serial_port() {
    let (mut vp, _) = vp(&[]);
    for turn in 0..2 {
        // As they are at the moment of the question.
        vp.network.lost = turn;
        let text = ask(&mut vp, "counters\n");
        for expected in [
            r#""value":5,"name":"heap_used","key":"""#,
            r#""value":0,"name":"device","key":"rx_frames""#,
            r#""kind":"counters-end","next":"#,
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let told = format!(r#""value":{turn},"name":"relay","key":"lost""#);
        assert!(text.contains(&told), "{text}");
    }
}

/// What a guest without a driver reads after it has written `question`: OUT a
/// question, IN the answer.
fn ask(vp: &mut TestVp, question: &str) -> String {
    let io = |port, input| {
        Exit::Io(IoAccess {
            port,
            size: 1,
            input,
            string: None,
        })
    };
    for byte in question.bytes() {
        vp.platform.exits.push_back(io(0x2f8, false));
        vp.platform.vp.set(Reg::Rax, byte.into());
        vp.turn().unwrap();
    }
    let mut text = String::new();
    loop {
        vp.platform.exits.push_back(io(0x2fd, true));
        vp.turn().unwrap();
        if vp.platform.vp.get(Reg::Rax) & 1 == 0 {
            break;
        }
        vp.platform.exits.push_back(io(0x2f8, true));
        vp.turn().unwrap();
        text.push(vp.platform.vp.get(Reg::Rax) as u8 as char);
    }
    text
}
