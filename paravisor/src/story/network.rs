//! The network line: the bus and the NIC come up before the guest, its turns while
//! the guest runs, and the leave that is taken of the host.

use super::stop::{Cause, Chapter as _, Stop};
use super::{Host, Uplink, clock};
use crate::arch::{log as out, traps};
use abi::hyperv::msr;
use abi::record::Outcome;
use alloc::boxed::Box;
use alloc::vec::Vec;
use devices::Machine;
use loader::config::{Config, NIC_E1000E};
use memory::{GuestMemory, RawShared};
use paravisor_core::account::Account;
use paravisor_core::audit::Finding;
use paravisor_core::lanes::Worker;
use paravisor_core::record;
use paravisor_core::report::shared_pages;
use paravisor_core::run::{End, Network, Polled, Reason};
use paravisor_core::synic::Timer;
use paravisor_core::time::Clock;
use paravisor_core::uplink::Standing;
use platform::Platform as _;
use relay::{InVm, Unplugged};

/// Longest wait for the NIC before the guest starts without a link, in 100 ns.
/// Every request on the way has a shorter deadline of its own.
const NIC_DEADLINE: u64 = 30 * 10_000_000;
/// Longest wait for the link of a NIC that is ready: its first indication comes
/// with the packet filter, or the cable is out.
const LINK_DEADLINE: u64 = 2 * 10_000_000;
/// Longest wait for a NIC that was taken back to return: the guest's address is its.
const RETURN_DEADLINE: u64 = 2 * 10_000_000;

/// Brings VMBus and the NIC up, or finds that there is none. Only a host that
/// does not speak VMBus at all ends the run here.
pub fn bring_up(
    host: &mut Host,
    uplink: &mut Uplink,
    watch: &mut Timer,
    clock: &Clock,
) -> Result<(), Stop> {
    let begin = clock::now(clock);
    let mut deadline = begin.saturating_add(NIC_DEADLINE);
    let mut connected = false;
    let mut ready = false;
    let mut gone_since = None;
    uplink.start(begin);
    loop {
        let pending = traps::take();
        let now = clock::now(clock);
        if pending.watch {
            watch.expired(host, now).chapter("timer")?;
        }
        let polled = turn(host, uplink, pending.sint, now).chapter("bring-up of the NIC")?;
        let standing = uplink.standing();
        if !connected && !matches!(standing, Standing::Contacting | Standing::Failed) {
            connected = true;
            out::mark("vmbus-connected");
            if let Some(version) = uplink.version() {
                let (major, minor) = (version.0 >> 16, version.0 & 0xffff);
                out::record(&record::Line::text_value(
                    "vmbus_version",
                    format_args!("{major}.{minor}"),
                ));
            }
        }
        let away = standing == Standing::NoNic && uplink.may_return();
        gone_since = gone_since.or(Some(now)).filter(|_| away);
        match standing {
            Standing::Failed if !connected => {
                return Err(Stop {
                    outcome: Outcome::HostFailure,
                    what: "VMBus",
                    why: uplink.failure().map(Cause::Rule),
                });
            }
            Standing::NoNic if away => {}
            Standing::Failed | Standing::NoNic => break,
            Standing::Ready { link: true } => {
                out::mark("link-up");
                break;
            }
            Standing::Ready { link: false } if !ready => {
                ready = true;
                deadline = deadline.min(now.saturating_add(LINK_DEADLINE));
            }
            _ => {}
        }
        let limit = gone_since.map_or(deadline, |since| {
            deadline.min(since.saturating_add(RETURN_DEADLINE))
        });
        if now >= limit {
            log::warn!("the guest starts without a link");
            break;
        }
        if !polled.more {
            let wake = polled.deadline.map_or(limit, |first| first.min(limit));
            watch.ensure(host, now, wake).chapter("timer")?;
            out::flush(host, 4096);
            rest(host, clock, wake);
        }
    }
    say_what_there_is(uplink);
    Ok(())
}

/// The NIC, for the records.
fn say_what_there_is(uplink: &Uplink) {
    if let Some(mac) = uplink.mac() {
        let [a, b, c, d, e, f] = mac;
        out::record(&record::Line::text_value(
            "mac",
            format_args!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        ));
    }
    if let Some(version) = uplink.nvsp_version() {
        out::record(&record::Line::text_value(
            "nvsp_version",
            format_args!("{version}"),
        ));
    }
}

/// Lets the host's interrupts in until one has come or `wake` is past. No HLT:
/// a host that raises nothing at all, not even the timer that it was asked for,
/// must not turn a deadline into a wait for ever.
fn rest(host: &mut Host, clock: &Clock, wake: u64) {
    while !traps::pending() && clock::now(clock) < wake {
        host.take_interrupts();
        core::hint::spin_loop();
    }
}

/// One turn of the uplink while the guest has no part in it.
fn turn(host: &mut Host, uplink: &mut Uplink, sint: bool, now: u64) -> Result<Polled, End> {
    let polled = uplink.turn(host, &mut Unplugged, sint, now);
    out::found(uplink.take_findings());
    polled
}

/// UNLOAD: the host forgets our channels and pages before the VM ends, or has
/// not answered by its deadline (CTL-54, SYS-17). The messages are copied and
/// judged like all others.
pub fn take_leave(host: &mut Host, uplink: &mut Uplink, clock: &Clock) {
    let begin = clock::now(clock);
    if !uplink.leave(begin) {
        return;
    }
    let last = begin.saturating_add(vmbus::limits::UNLOAD_DEADLINE);
    while !uplink.has_left() {
        let pending = traps::take();
        if pending.kick {
            let _ = host.write_register(msr::EOI, 0);
        }
        let Ok(polled) = turn(host, uplink, pending.sint, clock::now(clock)) else {
            return;
        };
        if !polled.more && !uplink.has_left() {
            let wake = polled.deadline.map_or(last, |first| first.min(last));
            rest(host, clock, wake);
        }
    }
}

/// A VP's part of the way to the host's NIC.
pub enum Line {
    /// The first VP's: the bus, and the primary channel.
    First(Box<Uplink>),
    /// Another's, if it has one: a sub-channel.
    Another(Option<Box<Worker<RawShared>>>),
}

impl Line {
    /// Another VP stops: the host is left by the first, which gives the memory back.
    pub fn give_back(&mut self) {
        if let Line::Another(Some(worker)) = self {
            out::found(worker.take_findings());
            worker.go_home();
        }
    }
}

impl Network<Host> for Line {
    fn poll(
        &mut self,
        host: &mut Host,
        machine: &mut Machine,
        memory: &impl GuestMemory,
        reason: Reason,
        now: u64,
    ) -> Result<Polled, End> {
        match self {
            Line::First(uplink) => {
                if reason.reset {
                    uplink.device_reset();
                }
                if reason.guest {
                    uplink.guest_acted();
                }
                uplink.set_queues(machine.queue_pairs_in_use());
                if reason.hash {
                    uplink.set_hash(machine.hash_request());
                }
                let device = &mut InVm { machine, memory };
                let polled = uplink.turn(host, device, reason.sint, now);
                let mut calls = uplink.take_calls();
                while calls != 0 {
                    machine.call(calls.trailing_zeros() as u8);
                    calls &= calls.wrapping_sub(1);
                }
                polled
            }
            Line::Another(Some(worker)) => {
                let device = &mut InVm { machine, memory };
                let polled = worker.turn(host, device, reason, now);
                if worker.take_call() {
                    machine.call(0);
                }
                polled
            }
            Line::Another(None) => Ok(Polled::default()),
        }
    }

    fn take_findings(&mut self) -> Vec<Finding> {
        match self {
            Line::First(uplink) => uplink.take_findings(),
            Line::Another(Some(worker)) => worker.take_findings(),
            Line::Another(None) => Vec::new(),
        }
    }

    fn is_called(&self) -> bool {
        match self {
            Line::First(uplink) => uplink.is_called(),
            Line::Another(Some(worker)) => worker.is_called(),
            Line::Another(None) => false,
        }
    }

    fn has_queues(&self) -> bool {
        !matches!(self, Line::Another(None))
    }

    fn account(&self, account: &mut Account) {
        if let Line::First(uplink) = self {
            uplink.account(account);
            account.pages(&shared_pages(uplink.pool(), 1));
        }
    }
}

/// Sub-channels to ask the host for: a lane for each VP but the first, if the card has
/// queues for them.
pub fn sub_channels(config: &Config, vps: u8) -> u16 {
    match config.nic {
        NIC_E1000E => 0,
        _ => u16::from(vps).saturating_sub(1),
    }
}
