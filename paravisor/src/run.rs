//! The loop of a VP: what is due, then the guest, then why it left; for ever, or
//! until somebody ends it.
//!
//! Host interrupts are off while the loop works. They are let in at two points: when
//! the guest left because one is waiting, and while the guest is halted and there is
//! nothing to do. Their handlers set flags; everything they mean is done here, once
//! per turn and within budgets.

mod around;

use crate::audit::{Finding, Port};
use crate::dispatch::{self, Next};
use crate::mmio::Decoded;
use crate::synic::Timer;
use crate::time::Clock;
use abi::hyperv::msr;
use abi::record::Outcome;
use devices::{Machine, NicEvents, PowerEvent};
use memory::GuestMemory;
use platform::{Exit, Platform, Registers};
use validate::{Rule, Violation};

pub use around::{End, Network, Pending, Polled, Reason, Stats, Surroundings, Why};

/// Bytes of questions at the audit port that are taken per turn.
const QUESTION_BUDGET: usize = 256;
/// Bytes of the audit that are moved per turn: what the FIFO of a 16550A holds.
const AUDIT_FIFO: usize = 16;
/// Record bytes that are written per turn while the guest could run, and while
/// it is halted. A byte costs an exit of our own (about 15 µs in the emulator).
const RECORD_BUDGET_BUSY: usize = 16;
const RECORD_BUDGET_IDLE: usize = 4096;
/// Longest sleep in ns: should the host lose a timer interrupt (it may), the loop
/// still looks at its deadlines at every other interrupt; this bounds the distance
/// to the next timer it asks for.
const LONGEST_SLEEP: u64 = 1_000_000_000;

/// Turns in a row that interrupts of the host may hold a guest back which could run.
/// The first of them saves a world switch; a host that goes on and on gets no more
/// than it could have by not running the VP.
const ROUNDS: u8 = 4;

/// Vector by which one VP wakes another: the lowest class, so that one which waits for
/// its EOI holds nothing back.
pub const KICK_VECTOR: u8 = 0x30;

/// What the guest's processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// It executes.
    Running,
    /// It has executed HLT.
    Halted,
    /// INIT has stopped it; a SIPI starts it.
    WaitForSipi,
}

/// A VP with its guest.
pub struct Vp<P, G, N, S> {
    /// Host and guest below us.
    pub platform: P,
    /// The guest's RAM.
    pub guest: G,
    /// The guest's devices.
    pub machine: Machine,
    /// Its way to the host.
    pub network: N,
    /// The image around the loop.
    pub surroundings: S,
    /// Wakes us for the guest's devices.
    pub timer: Timer,
    /// Wakes us for everything else. Apart from the other, because its deadlines are
    /// far away and stay: with one timer each tick of the guest would set it twice.
    pub watch: Timer,
    /// The one clock.
    pub clock: Clock,
    /// What was counted.
    pub stats: Stats,
    decoded: Decoded,
    activity: Activity,
    /// The guest has used a device since the devices' output was looked at.
    touched: bool,
    network_deadline: Option<u64>,
    network_more: bool,
    /// Turns since the guest was entered, because of interrupts.
    rounds: u8,
    audit_port: Port,
}

impl<P, G, N, S> Vp<P, G, N, S>
where
    P: Platform,
    G: GuestMemory,
    N: Network<P>,
    S: Surroundings<P>,
{
    /// Puts a VP together; nothing runs yet.
    pub fn new(
        platform: P,
        guest: G,
        machine: Machine,
        network: N,
        surroundings: S,
        [timer, watch]: [Timer; 2],
        clock: Clock,
    ) -> Self {
        Vp {
            platform,
            guest,
            machine,
            network,
            surroundings,
            timer,
            watch,
            clock,
            stats: Stats::default(),
            decoded: Decoded::new(),
            activity: Activity::Running,
            touched: true,
            network_deadline: Some(0),
            network_more: false,
            rounds: 0,
            audit_port: Port::new(),
        }
    }

    /// The same VP, whose guest waits for its start: every one but the first.
    pub fn waiting(mut self) -> Self {
        self.activity = Activity::WaitForSipi;
        self.network_deadline = None;
        self.machine.rest();
        self
    }

    /// Whether it serves the devices, the network and the records for all.
    fn is_first(&self) -> bool {
        self.machine.index() == 0
    }

    /// Runs the guest until somebody ends the run.
    pub fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.turn() {
                return end;
            }
        }
    }

    /// One turn of the loop.
    fn turn(&mut self) -> Result<(), End> {
        let now = self.clock.ns(self.surroundings.tsc());
        let reference = self.clock.reference(now);
        let pending = self.surroundings.pending();
        let Vp {
            platform,
            timer,
            watch,
            stats,
            ..
        } = self;
        let mut early = [false; 2];
        let raised = [(pending.timer, timer), (pending.watch, watch)];
        for ((raised, timer), early) in raised.into_iter().zip(&mut early) {
            if raised && !timer.expired(platform, reference)? {
                stats.early_timers = stats.early_timers.saturating_add(1);
                *early = true;
            }
        }
        for (timer, early) in early.into_iter().enumerate() {
            if early {
                self.record(now, Violation::new(Rule::SYN_34, 0, timer as u64));
            }
        }
        if let Some(vector) = pending.foreign {
            self.record(now, Violation::new(Rule::SYN_19, 0, vector));
        }
        if pending.sint {
            self.stats.sints = self.stats.sints.saturating_add(1);
        }
        if pending.kick {
            self.stats.kicks = self.stats.kicks.saturating_add(1);
            self.platform.write_register(msr::EOI, 0)?;
        }
        if let Some(end) = self.surroundings.ended() {
            return Err(end);
        }
        self.take_signals()?;
        if self
            .machine
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.machine.advance(now);
        }
        self.serve_devices(pending.sint, reference)?;
        self.arm(now)?;
        self.send_kicks()?;
        if self.activity != Activity::Running && !self.wake()? {
            if !self.network_more {
                if self.is_first() {
                    self.surroundings
                        .records(&mut self.platform, RECORD_BUDGET_IDLE);
                }
                if self.machine.leave() {
                    self.platform.wait();
                    self.machine.back();
                }
            }
            return Ok(());
        }
        self.enter()
    }

    /// What other processors of the guest did to this one.
    fn take_signals(&mut self) -> Result<(), End> {
        let signals = self.machine.take_signals();
        if signals.init {
            if self.is_first() {
                // A PC's first processor starts with its firmware, so this is a reset.
                return Err(End {
                    outcome: Outcome::Reset,
                    why: Why::Told("guest reset itself"),
                });
            }
            self.activity = Activity::WaitForSipi;
            self.machine.rest();
        }
        // Any but the first is of no effect: Linux sends two.
        if let Some(page) = signals.start
            && self.activity == Activity::WaitForSipi
        {
            self.platform.start_at(page)?;
            self.machine.revive();
            self.activity = Activity::Running;
        }
        Ok(())
    }

    /// Wakes the VPs for which something was left.
    pub fn send_kicks(&mut self) -> Result<(), End> {
        let mut kicks = self.machine.take_kicks();
        while kicks != 0 {
            let index = kicks.trailing_zeros();
            kicks &= kicks.wrapping_sub(1);
            self.platform.kick(index as u8, KICK_VECTOR)?;
        }
        Ok(())
    }

    /// What the devices have for us: on the first VP everything, on others the output
    /// of their own guest half.
    fn serve_devices(&mut self, sint: bool, reference: u64) -> Result<(), End> {
        if !self.is_first() {
            if self.network.has_queues() {
                self.poll_network(sint, true, reference)?;
            }
            if !core::mem::take(&mut self.touched) {
                return Ok(());
            }
            self.move_console();
            return self.take_power_event();
        }
        let touched = self.machine.take_attention();
        self.poll_network(sint, touched, reference)?;
        if touched {
            self.move_console();
        }
        if touched || self.audit_port.is_answering() {
            self.move_audit();
        }
        if touched {
            self.take_power_event()?;
        }
        Ok(())
    }

    fn take_power_event(&mut self) -> Result<(), End> {
        match self.machine.take_power_event() {
            None => Ok(()),
            Some(PowerEvent::PowerOff) => Err(End {
                outcome: Outcome::PowerOff,
                why: Why::Told("guest switched itself off"),
            }),
            Some(PowerEvent::Reset) => Err(End {
                outcome: Outcome::Reset,
                why: Why::Told("guest reset itself"),
            }),
        }
    }

    fn poll_network(&mut self, sint: bool, touched: bool, reference: u64) -> Result<(), End> {
        let events = if touched {
            self.machine.serve_nic(&self.guest);
            self.machine.take_nic_events()
        } else {
            NicEvents::default()
        };
        let reason = Reason {
            sint,
            guest: events.tx_kicked || events.rx_refilled || events.pairs_changed,
            reset: events.reset,
            hash: events.hash_changed,
        };
        let due = self.network.is_called()
            || self
                .network_deadline
                .is_some_and(|deadline| deadline <= reference);
        let asked = reason.guest || reason.reset || reason.hash;
        if !(reason.sint || asked || due || self.network_more) {
            return Ok(());
        }
        let Vp {
            platform,
            machine,
            guest,
            network,
            ..
        } = self;
        let polled = network.poll(platform, machine, guest, reason, reference);
        let findings = network.take_findings();
        let time = self.time();
        for finding in findings {
            self.surroundings.audit(|audit| audit.add(time, finding));
        }
        let polled = polled?;
        self.network_deadline = polled.deadline;
        self.network_more = polled.more;
        Ok(())
    }

    /// The audit's time: 100 ns since our clock began.
    fn time(&self) -> u64 {
        self.clock.audit_time(self.surroundings.tsc())
    }

    fn record(&mut self, now: u64, violation: Violation) {
        let finding = Finding {
            vp: self.machine.index(),
            channel: None,
            violation,
            times: 1,
        };
        let time = Clock::audit_units(now);
        self.surroundings.audit(|audit| audit.add(time, finding));
    }

    /// The guest's questions about the audit, and the next bytes of the answer. As
    /// much per turn as the port's FIFO holds: each byte that the guest fetches is an
    /// exit of its own, and none of them reaches the host.
    fn move_audit(&mut self) {
        let mut asked = [0; QUESTION_BUDGET];
        let count = self.machine.take_audit(&mut asked);
        self.audit_port.write(asked.get(..count).unwrap_or(&[]));
        if let Some(account) = self.audit_port.wanted() {
            // Memory first: the rest may need some for a moment.
            self.surroundings.memory(account);
            account.devices(&self.machine.counters());
            account.exits(&self.stats.exits);
            self.network.account(account);
        }
        if !self.audit_port.is_answering() {
            return;
        }
        let room = self.machine.audit_room();
        if room == 0 {
            return;
        }
        let mut bytes = [0; AUDIT_FIFO];
        let part = bytes.get_mut(..room.min(AUDIT_FIFO)).unwrap_or(&mut []);
        let port = &mut self.audit_port;
        let count = self.surroundings.audit(|audit| port.read(audit, part));
        self.machine.put_audit(bytes.get(..count).unwrap_or(&[]));
    }

    fn move_console(&mut self) {
        let Vp {
            machine,
            platform,
            surroundings,
            ..
        } = self;
        machine.drain_console(|bytes| surroundings.console(platform, bytes));
    }

    /// Sets the timers to what is due first.
    fn arm(&mut self, now: u64) -> Result<(), End> {
        let reference = self.clock.reference(now);
        if let Some(deadline) = self.machine.next_deadline() {
            let deadline = self.clock.reference(deadline);
            self.timer.ensure(&mut self.platform, reference, deadline)?;
        }
        let longest = self.clock.reference(now.saturating_add(LONGEST_SLEEP));
        let watch = self
            .network_deadline
            .map_or(longest, |deadline| deadline.min(longest));
        self.watch.ensure(&mut self.platform, reference, watch)?;
        Ok(())
    }

    /// Whether the halted guest has a reason to go on.
    fn wake(&mut self) -> Result<bool, End> {
        if self.activity == Activity::WaitForSipi {
            return Ok(false);
        }
        let enabled = self.platform.vp().interrupts_enabled();
        if self.machine.has_nmi() || enabled && self.machine.pending_interrupt().is_some() {
            self.machine.revive();
            self.activity = Activity::Running;
            return Ok(true);
        }
        // An NMI or INIT of another processor can wake it; if those rest, too, nothing can.
        if !enabled && self.machine.rest() {
            return Err(End {
                outcome: Outcome::PowerOff,
                why: Why::Told("guest halted with interrupts off"),
            });
        }
        Ok(false)
    }

    /// Whether the host has answered while we worked: it completes packets in the very
    /// call that signals it. To enter the guest would only be to leave it again.
    fn is_answered(&mut self) -> bool {
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds <= ROUNDS {
            self.platform.take_interrupts();
            if self.surroundings.raised() {
                return true;
            }
        }
        self.rounds = 0;
        false
    }

    fn enter(&mut self) -> Result<(), End> {
        if self.is_answered() {
            return Ok(());
        }
        let vp = self.platform.vp();
        // One that finds the slot taken waits for the next entry.
        if !vp.event_pending() && self.machine.take_nmi() {
            vp.inject_nmi();
        }
        // CR8 and the local APIC's task priority are one register: the guest may have
        // written the latter, and will perhaps write the former. The processor compares.
        let offered = self
            .machine
            .requested_interrupt()
            .map(|interrupt| interrupt.vector);
        vp.set_task_priority(self.machine.task_priority());
        vp.offer_interrupt(offered);
        if !self.machine.leave() {
            vp.offer_interrupt(None);
            return Ok(());
        }
        let exit = self.platform.enter();
        self.machine.back();
        let now = self.clock.ns(self.surroundings.tsc());
        let vp = self.platform.vp();
        if let Some(vector) = offered
            && !vp.interrupt_offered()
        {
            self.machine.accept_interrupt(vector);
        }
        vp.offer_interrupt(None);
        self.machine.set_task_priority(vp.task_priority());
        if let Some(count) = self.stats.exits.get_mut(exit.index()) {
            *count = count.saturating_add(1);
        }
        let (machine, decoded) = (&mut self.machine, &mut self.decoded);
        match dispatch::dispatch(&exit, vp, &self.guest, machine, decoded, now) {
            Next::Run => {}
            Next::Halted => self.activity = Activity::Halted,
            Next::TripleFault => {
                return Err(End {
                    outcome: Outcome::TripleFault,
                    why: Why::Told("guest shutdown"),
                });
            }
            Next::Unknown { code, info1, info2 } => {
                let rip = vp.get(platform::Reg::Rip);
                return Err(End {
                    outcome: Outcome::UnknownExit,
                    why: Why::Exit {
                        code,
                        info1,
                        info2,
                        rip,
                    },
                });
            }
        }
        match exit {
            Exit::Interrupted => {
                if self.is_first() {
                    self.surroundings
                        .records(&mut self.platform, RECORD_BUDGET_BUSY);
                }
                self.platform.take_interrupts();
            }
            Exit::Io(_) | Exit::Mmio { .. } => self.touched = true,
            _ => {}
        }
        // At once: another processor may wait for it.
        self.send_kicks()
    }
}

#[cfg(test)]
mod tests;
