//! The image. [`story::boot`] is the story: from the first instruction at VMPL0 to
//! the loop that runs the guest. What each chapter does lies in a module of its own;
//! this file says in which order, and why.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

#[cfg(target_os = "none")]
extern crate alloc;
#[cfg(target_os = "none")]
mod arch;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the paravisor is firmware: build it for x86_64-unknown-none");
    std::process::exit(2);
}

#[cfg(target_os = "none")]
mod story {
    use crate::arch::memory::{GuestRam, POOL_PAGES, POOL_PFN, PoolBacking};
    use crate::arch::{heap, log as out, memory as window, tables, traps, tsc};
    use abi::hyperv::msr;
    use abi::record::{CONSOLE_PORT, Outcome};
    use alloc::vec::Vec;
    use core::convert::Infallible;
    use core::fmt;
    use devices::{Machine, MachineConfig, NicModel};
    use loader::config::{Config, NIC_E1000E, VMBUS_PLAIN};
    use loader::layout;
    use memory::{GuestMemory, Purpose, RawShared, SharedPool};
    use paravisor_core::audit::{Audit, Finding};
    use paravisor_core::cpuid::CheckedCpuid;
    use paravisor_core::guest_boot::{self, BadBoot};
    use paravisor_core::isolation;
    use paravisor_core::record::Line;
    use paravisor_core::report::{SharedPages, Summary, shared_pages};
    use paravisor_core::run::{End, Network, Pending, Polled, Reason, Surroundings, Vp, Why};
    use paravisor_core::synic::{self, SynicError, Timer};
    use paravisor_core::time::Clock;
    use paravisor_core::uplink::{self, Standing};
    use platform::snp::{Hardware, Machine as _, Snp, check_host};
    use platform::{Access, Platform};
    use relay::{InVm, Unplugged};

    type Host = Snp<'static, Hardware, RawShared>;
    type Pool = SharedPool<PoolBacking, POOL_PAGES>;
    type Uplink = uplink::Uplink<PoolBacking, POOL_PAGES>;

    /// Longest wait for the NIC before the guest starts without a link, in 100 ns.
    /// Every request on the way has a shorter deadline of its own.
    const NIC_DEADLINE: u64 = 30 * 10_000_000;
    /// Longest wait for the link of a NIC that is ready: its first indication comes
    /// with the packet filter, or the cable is out.
    const LINK_DEADLINE: u64 = 2 * 10_000_000;
    /// Longest wait for a NIC that was taken back to return: the guest's address is its.
    const RETURN_DEADLINE: u64 = 2 * 10_000_000;
    /// MTU that the guest's NIC has unless the host allows less.
    const MTU: u32 = 1500;
    /// Address of a guest whose host offers no NIC: locally administered.
    const NO_NIC_MAC: [u8; 6] = [0x02, 0x75, 0x63, 0, 0, 1];

    /// Called once by the entry code, on the boot stack.
    pub extern "C" fn paravisor_main() -> ! {
        match boot() {
            Ok(never) => match never {},
            Err(Stop { outcome, what, why }) => match why.inspect(Cause::found) {
                Some(why) => out::end(outcome, format_args!("{what}: {why}")),
                None => out::end(outcome, format_args!("{what}")),
            },
        }
    }

    /// Why the boot ended before the loop: in which chapter, and what happened.
    struct Stop {
        outcome: Outcome,
        what: &'static str,
        why: Option<Cause>,
    }

    enum Cause {
        Platform(platform::Error),
        Synic(SynicError),
        Boot(BadBoot),
        Config(loader::config::ConfigError),
        End(End),
        Rule(validate::Violation),
    }

    impl Cause {
        /// Puts a rule that ended the boot into the audit. Those of the uplink are
        /// there already.
        fn found(&self) {
            if let Cause::Synic(error) = self {
                let violation = error.violation();
                out::found(violation.map(|violation| Finding {
                    vp: 0,
                    channel: None,
                    violation,
                    times: 1,
                }));
            }
        }
    }

    impl fmt::Display for Cause {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Cause::Platform(error) => error.fmt(f),
                Cause::Synic(error) => error.fmt(f),
                Cause::Boot(error) => write!(f, "{error:?}"),
                Cause::Config(error) => write!(f, "{error:?}"),
                Cause::End(end) => end.why.fmt(f),
                Cause::Rule(violation) => violation.fmt(f),
            }
        }
    }

    /// Names the chapter in which something went wrong.
    trait Chapter<T> {
        fn chapter(self, what: &'static str) -> Result<T, Stop>;
    }

    macro_rules! chapters {
        ($($error:ty => |$e:ident| $outcome:expr, $cause:expr;)+) => {$(
            impl<T> Chapter<T> for Result<T, $error> {
                fn chapter(self, what: &'static str) -> Result<T, Stop> {
                    self.map_err(|$e| Stop { outcome: $outcome, what, why: Some($cause) })
                }
            }
        )+};
    }
    chapters! {
        platform::Error => |e| e.outcome(), Cause::Platform(e);
        SynicError => |e| match e {
            SynicError::Platform(below) => below.outcome(),
            SynicError::Judged { .. } => Outcome::HostFailure,
            SynicError::NoFrame => Outcome::Panic,
        }, Cause::Synic(e);
        BadBoot => |e| Outcome::BadConfig, Cause::Boot(e);
        loader::config::ConfigError => |e| Outcome::BadConfig, Cause::Config(e);
        End => |e| e.outcome, Cause::End(e);
        validate::Violation => |e| Outcome::HostFailure, Cause::Rule(e);
    }

    fn bug(what: &'static str) -> Stop {
        Stop {
            outcome: Outcome::Panic,
            what,
            why: None,
        }
    }

    /// The story.
    fn boot() -> Result<Infallible, Stop> {
        // Whatever goes wrong from here on ends in a record, not in silence.
        tables::load();
        heap::init();
        let mut hardware = window::take_machine().ok_or(bug("started twice"))?;
        isolation::judge(hardware.sev_status()).chapter("isolation")?;

        // What the image says. It is measured: a wrong page is a broken build.
        let config = Config::from_page(&window::config_page()).chapter("configuration")?;

        // A voice: the host's word on versions, then one shared page. After it
        // records can be written.
        check_host(&mut hardware, config.c_bit).chapter("first contact with the host")?;
        let page = window::ghcb_window().ok_or(bug("GHCB page"))?;
        let (vmsa, vmsa_gpa) = window::guest_vmsa().ok_or(bug("VMSA page"))?;
        let mut host: Host = Snp::new(hardware, page, vmsa, vmsa_gpa).chapter("GHCB")?;
        out::open();
        out::speak();

        // Time: rate and origin from the host, everything after that from the TSC.
        synic::introduce(&mut host).chapter("hypervisor")?;
        let mut clock = read_clock(&mut host)?;
        out::set_clock(clock);
        out::mark("paravisor-entry");

        // The guest's memory: as much as host and image agree on, accepted once,
        // then opened to the guest. The paravisor's own region was never opened:
        // pages come from the launch without rights for lower levels.
        let memory = guest_boot::judge_memory_map(&window::parameter_page(), &config)
            .chapter("memory map of the host")?;
        let ram = accept_memory(&mut host, &config, memory)?;
        out::mark("memory-accepted");

        // The host's interrupts: our pages, our vector.
        let mut pool: Pool = SharedPool::new(window::pool_backing(), POOL_PFN);
        let target = if config.vmbus_target == VMBUS_PLAIN {
            vmbus::Target::PLAIN
        } else {
            vmbus::Target::REDIRECTED
        };
        let no_page = |_| Stop {
            outcome: Outcome::MemoryFailure,
            what: "SynIC pages",
            why: None,
        };
        let messages = pool.take(1, Purpose::Synic).map_err(no_page)?;
        let flags = pool.take(1, Purpose::Synic).map_err(no_page)?;
        synic::take(
            &mut host,
            &messages,
            &flags,
            target.sint,
            traps::SINT_VECTOR,
        )
        .chapter("SynIC")?;
        let timer = Timer::new(&mut host, 0, traps::TIMER_VECTOR).chapter("timer")?;
        let mut watch = Timer::new(&mut host, 1, traps::WATCH_VECTOR).chapter("timer")?;

        // The bus and the NIC, before the guest: it needs to be told its address.
        let uplink_config = uplink::Config {
            target,
            mac: config.fixed_mac(),
            enforce_unmeasured: config.enforce_unmeasured(),
            mtu: MTU,
            seed: tsc(),
        };
        let mut uplink = Uplink::new(uplink_config, pool, messages, flags);
        bring_up(&mut host, &mut uplink, &mut watch, &clock)?;
        align_clock(&mut host, &mut clock)?;

        // The guest's machine, its tables, its first state.
        let machine_config = MachineConfig {
            memory_size: memory,
            tsc_hz: clock.hz(),
            mac: uplink.mac().unwrap_or(NO_NIC_MAC),
            mtu: u16::try_from(uplink.mtu()).unwrap_or(MTU as u16),
            link_up: uplink.link_up(),
            epoch_seconds: 0,
            advertise_pm_timer: false,
        };
        let cpuid = CheckedCpuid::new(window::cpuid_page()).ok_or(Stop {
            outcome: Outcome::BadConfig,
            what: "CPUID page",
            why: None,
        })?;
        // A NIC that comes late must have the address that the guest is told now.
        uplink.fix_mac(machine_config.mac);
        let model = if config.nic == NIC_E1000E {
            NicModel::E1000e
        } else {
            NicModel::Virtio
        };
        let machine = Machine::with_nic(&machine_config, &cpuid, model);
        prepare_guest(&mut host, &ram, &config, &machine_config)?;
        window::allow_extended_state();
        out::mark("guest-start");
        out::flush(&mut host, usize::MAX);

        // And the loop.
        uplink.device_attached();
        let console = config.debug_console();
        let image = Image { console };
        let mut vp = Vp::new(
            host,
            ram,
            machine,
            Line1 { uplink },
            image,
            [timer, watch],
            clock,
        );
        let end = vp.run();
        if console && matches!(end.why, Why::Exit { .. }) {
            log::info!("{:?}", end.why);
        }
        let pages = shared_pages(vp.network.uplink.pool(), 1);
        // A host that fails requests would fail this one, too.
        if !matches!(end.why, Why::Platform(_)) {
            take_leave(&mut vp);
        }
        report(&mut vp, pages);
        out::end(end.outcome, format_args!("{}", end.why))
    }

    fn read_clock(host: &mut Host) -> Result<Clock, Stop> {
        let hz = host
            .read_register(msr::TSC_FREQUENCY)
            .chapter("TSC frequency")?;
        // The TSC first: the time that the request takes makes our clock run ahead of
        // the host's, so a timer of the host's is late for us by that, never early.
        let before = tsc();
        let reference = host
            .read_register(msr::TIME_REF_COUNT)
            .chapter("reference time")?;
        Clock::new(before, hz, reference)
            .map_err(SynicError::from)
            .chapter("TSC frequency")
    }

    /// The second look at the host's counter, by which its timers expire (SYN-29).
    fn align_clock(host: &mut Host, clock: &mut Clock) -> Result<(), Stop> {
        let counter = host
            .read_register(msr::TIME_REF_COUNT)
            .chapter("reference time")?;
        if let Some(violation) = clock.align(tsc(), counter) {
            log::warn!("the host's counter is not believed: {violation}");
            out::found([Finding {
                vp: 0,
                channel: None,
                violation,
                times: 1,
            }]);
        }
        Ok(())
    }

    fn accept_memory(host: &mut Host, config: &Config, memory: u64) -> Result<GuestRam, Stop> {
        for range in guest_boot::fresh(memory, config) {
            host.accept(range.start, range.end)
                .chapter("accepting guest memory")?;
        }
        for range in guest_boot::guest_ram(memory) {
            host.protect(range.start, range.end, Access::All)
                .chapter("rights of the guest")?;
        }
        Ok(window::guest_ram(memory))
    }

    /// Brings VMBus and the NIC up, or finds that there is none. Only a host that
    /// does not speak VMBus at all ends the run here.
    fn bring_up(
        host: &mut Host,
        uplink: &mut Uplink,
        watch: &mut Timer,
        clock: &Clock,
    ) -> Result<(), Stop> {
        let begin = clock.reference(clock.ns(tsc()));
        let mut deadline = begin.saturating_add(NIC_DEADLINE);
        let mut connected = false;
        let mut ready = false;
        let mut gone_since = None;
        uplink.start(begin);
        loop {
            let pending = traps::take();
            let now = clock.reference(clock.ns(tsc()));
            if pending.watch {
                watch.expired(host, now).chapter("timer")?;
            }
            let polled = uplink
                .turn(host, &mut Unplugged, pending.sint, now)
                .chapter("bring-up of the NIC");
            out::found(uplink.take_findings());
            let polled = polled?;
            let standing = uplink.standing();
            if !connected && !matches!(standing, Standing::Contacting | Standing::Failed) {
                connected = true;
                out::mark("vmbus-connected");
                if let Some(version) = uplink.version() {
                    let (major, minor) = (version.0 >> 16, version.0 & 0xffff);
                    out::record(&Line::text_value(
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
        if let Some(mac) = uplink.mac() {
            let [a, b, c, d, e, f] = mac;
            out::record(&Line::text_value(
                "mac",
                format_args!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
            ));
        }
        if let Some(version) = uplink.nvsp_version() {
            out::record(&Line::text_value("nvsp_version", format_args!("{version}")));
        }
        Ok(())
    }

    /// Lets the host's interrupts in until one has come or `wake` is past. No HLT:
    /// a host that raises nothing at all, not even the timer that it was asked for,
    /// must not turn a deadline into a wait for ever.
    fn rest(host: &mut Host, clock: &Clock, wake: u64) {
        while !traps::pending() && clock.reference(clock.ns(tsc())) < wake {
            host.take_interrupts();
            core::hint::spin_loop();
        }
    }

    /// UNLOAD: the host forgets our channels and pages before the VM ends, or has
    /// not answered by its deadline (CTL-54, SYS-17). The messages are copied and
    /// judged like all others.
    fn take_leave(vp: &mut Vp<Host, GuestRam, Line1, Image>) {
        let Vp {
            platform: host,
            network: Line1 { uplink },
            clock,
            ..
        } = vp;
        let begin = clock.reference(clock.ns(tsc()));
        if !uplink.leave(begin) {
            return;
        }
        let last = begin.saturating_add(vmbus::limits::UNLOAD_DEADLINE);
        while !uplink.has_left() {
            let sint = traps::take().sint;
            let now = clock.reference(clock.ns(tsc()));
            let polled = uplink.turn(host, &mut Unplugged, sint, now);
            out::found(uplink.take_findings());
            let Ok(polled) = polled else { return };
            if !polled.more && !uplink.has_left() {
                let wake = polled.deadline.map_or(last, |first| first.min(last));
                rest(host, clock, wake);
            }
        }
    }

    /// ACPI, zero page, command line, page tables, registers.
    fn prepare_guest(
        host: &mut Host,
        ram: &GuestRam,
        config: &Config,
        machine: &MachineConfig,
    ) -> Result<(), Stop> {
        let tables = devices::acpi::build(layout::ACPI.start, machine);
        if tables.end > layout::ACPI.end {
            return Err(bug("ACPI tables do not fit"));
        }
        for (gpa, bytes) in &tables.pieces {
            ram.write(*gpa, bytes).map_err(|_| bug("ACPI tables"))?;
        }
        let clock = devices::boot::clock_parameters(machine.tsc_hz);
        guest_boot::finish_boot_params(ram, config, machine.memory_size, tables.rsdp, &clock)
            .chapter("boot parameters")?;
        let state = guest_boot::write_tables(ram, config).chapter("guest tables")?;
        host.start(&state).chapter("guest VP")
    }

    /// The image around the loop.
    struct Image {
        console: bool,
    }

    impl Surroundings<Host> for Image {
        fn tsc(&self) -> u64 {
            tsc()
        }

        fn pending(&mut self) -> Pending {
            traps::take()
        }

        fn console(&mut self, host: &mut Host, bytes: &[u8]) {
            // Wall 8: guest data leave in clear only from an image built for it.
            if self.console {
                for byte in bytes {
                    let _ = host.write_port(CONSOLE_PORT, *byte);
                }
            }
        }

        fn audit<T>(&mut self, act: impl FnOnce(&mut Audit) -> T) -> T {
            out::audit(act)
        }

        fn records(&mut self, host: &mut Host, budget: usize) {
            out::flush(host, budget);
        }
    }

    /// The one network line of the VP.
    struct Line1 {
        uplink: Uplink,
    }

    impl Network<Host> for Line1 {
        fn poll(
            &mut self,
            host: &mut Host,
            machine: &mut Machine,
            memory: &impl GuestMemory,
            reason: Reason,
            now: u64,
        ) -> Result<Polled, End> {
            if reason.reset {
                self.uplink.device_reset();
            }
            if reason.guest {
                self.uplink.guest_acted();
            }
            self.uplink
                .turn(host, &mut InVm { machine, memory }, reason.sint, now)
        }

        fn take_findings(&mut self) -> Vec<Finding> {
            self.uplink.take_findings()
        }
    }

    /// All counters, at the end.
    fn report(vp: &mut Vp<Host, GuestRam, Line1, Image>, shared_pages: SharedPages) {
        let Vp {
            platform,
            machine,
            network,
            stats,
            ..
        } = vp;
        let summary = Summary {
            stats,
            uplink: &network.uplink,
            hypercalls: platform.hypercall_counts(),
            devices: machine.counters(),
            foreign_interrupts: traps::spurious(),
            shared_pages,
            heap_used: heap::usage().0 as u64,
            records_lost: out::lost(),
        };
        summary.emit(out::record);
    }
}
