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
mod others;

#[cfg(target_os = "none")]
mod story {
    use crate::arch::memory::{GHCB_PFN, GuestRam, POOL_PAGES, POOL_PFN, PoolBacking};
    use crate::arch::{heap, log as out, memory as window, percpu, tables, traps, tsc};
    use crate::others::{self, Kit};
    use abi::hyperv::msr;
    use abi::record::{CONSOLE_PORT, Outcome};
    use alloc::vec::Vec;
    use core::convert::Infallible;
    use core::fmt;
    use devices::{Machine, MachineConfig, NicModel};
    use loader::config::{Config, NIC_E1000E, VMBUS_PLAIN};
    use loader::layout;
    use memory::{GuestMemory, Purpose, RawShared, SharedMemory as _, SharedPool};
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

    pub(super) type Host = Snp<'static, Hardware, RawShared>;
    type Pool = SharedPool<PoolBacking, POOL_PAGES>;
    pub(super) type Uplink = uplink::Uplink<PoolBacking, POOL_PAGES>;

    /// Longest wait for the NIC before the guest starts without a link, in 100 ns.
    /// Every request on the way has a shorter deadline of its own.
    const NIC_DEADLINE: u64 = 30 * 10_000_000;
    /// Longest wait for the link of a NIC that is ready: its first indication comes
    /// with the packet filter, or the cable is out.
    const LINK_DEADLINE: u64 = 2 * 10_000_000;
    /// Longest wait for a NIC that was taken back to return: the guest's address is its.
    const RETURN_DEADLINE: u64 = 2 * 10_000_000;
    /// Longest wait for a VP to run that the host was asked to start.
    const ONLINE_DEADLINE: u64 = 5 * 10_000_000;
    /// Longest wait for the other VPs to stop at the end of a run.
    const STOP_DEADLINE: u64 = 10_000_000 / 2;
    /// MTU that the guest's NIC has unless the host allows less.
    const MTU: u32 = 1500;
    /// Address of a guest whose host offers no NIC: locally administered.
    const NO_NIC_MAC: [u8; 6] = [0x02, 0x75, 0x63, 0, 0, 1];

    /// Called once by the entry code, on the boot stack.
    pub extern "C" fn paravisor_main() -> ! {
        finish(boot())
    }

    /// Called by the entry code of the VP with this index, on its own stack.
    pub extern "C" fn paravisor_another(index: u64) -> ! {
        finish(another(index))
    }

    fn finish(story: Result<Infallible, Stop>) -> ! {
        match story {
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
                    vp: percpu::this().index,
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
        tables::load_first();
        heap::init();
        let mut hardware = window::take_machine().ok_or(bug("started twice"))?;
        isolation::judge(hardware.sev_status()).chapter("isolation")?;

        // What the image says. It is measured: a wrong page is a broken build.
        let config = Config::from_page(&window::config_page()).chapter("configuration")?;

        // A voice: the host's word on versions, then one shared page. After it
        // records can be written.
        check_host(&mut hardware, config.c_bit).chapter("first contact with the host")?;
        let page = window::shared_page(GHCB_PFN).ok_or(bug("GHCB page"))?;
        let (vmsa, vmsa_gpa) = window::guest_vmsa().ok_or(bug("VMSA page"))?;
        let mut host: Host = Snp::new(hardware, page, vmsa, vmsa_gpa).chapter("GHCB")?;
        out::open();
        out::speak(GHCB_PFN);

        // Time: rate and origin from the host, everything after that from the TSC.
        synic::introduce(&mut host).chapter("hypervisor")?;
        let mut clock = read_clock(&mut host)?;
        out::set_clock(clock);
        out::mark("paravisor-entry");

        // The guest's memory: as much as host and image agree on, accepted once,
        // then opened to the guest. The paravisor's own region was never opened:
        // pages come from the launch without rights for lower levels.
        let parameters = window::parameter_page();
        let memory =
            guest_boot::judge_memory_map(&parameters, &config).chapter("memory map of the host")?;
        let vps =
            guest_boot::judge_vp_count(&parameters, &config).chapter("processors of the host")?;
        let ram = accept_memory(&mut host, &config, memory, vps)?;
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
            what: "SynIC and GHCB pages",
            why: None,
        };
        // The other VPs' GHCB pages, as long as the pool is here.
        let mut ghcbs = Vec::new();
        for _ in 1..vps {
            ghcbs.push(pool.take(1, Purpose::Ghcb).map_err(no_page)?);
        }
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
            processors: vps,
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
        let console = config.debug_console();
        if vps > 1 {
            for (index, ghcb) in (1..vps).zip(&ghcbs) {
                let kit = Kit {
                    machine: machine.processor(index).ok_or(bug("processor"))?,
                    ghcb_pfn: ghcb.pfn(0).ok_or(bug("GHCB page"))?,
                    ram,
                    clock,
                    console,
                };
                start_another(&mut host, index, kit)?;
            }
            out::mark("vps-online");
            out::record(&Line::count("vps", format_args!(""), vps.into()));
        }
        out::mark("guest-start");
        out::flush(&mut host, usize::MAX);

        // And the loop.
        uplink.device_attached();
        let image = Image { console };
        let mut vp = Vp::new(
            host,
            ram,
            machine,
            Line1 {
                uplink: Some(uplink),
            },
            image,
            [timer, watch],
            clock,
        );
        let end = vp.run();
        others::end(end);
        vp.machine.call_all();
        let _ = vp.send_kicks();
        await_stop(&mut vp, vps);
        if console && matches!(end.why, Why::Exit { .. }) {
            log::info!("{:?}", end.why);
        }
        let pages = vp
            .network
            .uplink
            .as_ref()
            .map(|uplink| shared_pages(uplink.pool(), 1));
        // A host that fails requests would fail this one, too.
        if !matches!(end.why, Why::Platform(_)) {
            take_leave(&mut vp);
        }
        if let Some(pages) = pages {
            report(&mut vp, pages);
        }
        out::end(end.outcome, format_args!("{}", end.why))
    }

    /// Starts VP `index` and waits until its guest half waits to be started.
    fn start_another(host: &mut Host, index: u8, kit: Kit) -> Result<(), Stop> {
        let clock = kit.clock;
        let area = layout::vp_area(index.into()).ok_or(bug("area of a VP"))?;
        host.accept(
            area.start.saturating_add(layout::VP_USED.start),
            area.start.saturating_add(layout::VP_USED.end),
        )
        .chapter("area of a VP")?;
        let mut ready = window::prepare_area(index).ok_or(bug("area of a VP"))?;
        others::put(index, kit);
        let state = ready.state;
        let (vmsa, gpa) = ready.start_vmsa();
        host.start_vp(index, vmsa, gpa, &state)
            .chapter("start of a VP")?;
        let limit = clock
            .reference(clock.ns(tsc()))
            .saturating_add(ONLINE_DEADLINE);
        while !others::is_online(index) {
            if clock.reference(clock.ns(tsc())) >= limit {
                return Err(Stop {
                    outcome: Outcome::HostFailure,
                    what: "a VP that was to be started does not run",
                    why: None,
                });
            }
            core::hint::spin_loop();
        }
        Ok(())
    }

    /// The story of every VP but the first: it makes itself ready, and then runs its half
    /// of the guest, which waits until the first half starts it.
    fn another(index: u64) -> Result<Infallible, Stop> {
        tables::load_this();
        let index = u8::try_from(index).unwrap_or(0);
        let kit = others::take(index).ok_or(bug("a VP that was not to be started"))?;
        let page = window::shared_page(kit.ghcb_pfn).ok_or(bug("GHCB page"))?;
        let (vmsa, vmsa_gpa) = window::area_guest_vmsa().ok_or(bug("VMSA page"))?;
        let hardware = window::take_another();
        let mut host: Host = Snp::adopt(hardware, page, vmsa, vmsa_gpa).chapter("GHCB")?;
        out::speak(kit.ghcb_pfn);
        synic::identify(&mut host, index).chapter("hypervisor")?;
        let timer = Timer::new(&mut host, 0, traps::TIMER_VECTOR).chapter("timer")?;
        let watch = Timer::new(&mut host, 1, traps::WATCH_VECTOR).chapter("timer")?;
        window::allow_extended_state();
        host.start_at(0).chapter("guest VP")?;
        let console = kit.console;
        let mut vp = Vp::new(
            host,
            kit.ram,
            kit.machine,
            Line1 { uplink: None },
            Image { console },
            [timer, watch],
            kit.clock,
        )
        .waiting();
        others::set_online(index);
        let end = vp.run();
        if console && matches!(end.why, Why::Exit { .. }) {
            log::info!("{:?}", end.why);
        }
        others::end(end);
        others::stopped(index, &vp.stats);
        vp.machine.call_all();
        let _ = vp.send_kicks();
        // The first VP takes leave of the host and ends the VM.
        loop {
            vp.platform.wait();
        }
    }

    /// Waits a little for the other VPs to stop, so that their guest halves do not go on
    /// while the host is left, and adds what they have counted.
    fn await_stop(vp: &mut Vp<Host, GuestRam, Line1, Image>, vps: u8) {
        let clock = vp.clock;
        let limit = clock
            .reference(clock.ns(tsc()))
            .saturating_add(STOP_DEADLINE);
        for index in 1..vps {
            while !others::has_stopped(index) && clock.reference(clock.ns(tsc())) < limit {
                vp.platform.take_interrupts();
                core::hint::spin_loop();
            }
        }
        vp.stats.add(&others::stats());
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

    fn accept_memory(
        host: &mut Host,
        config: &Config,
        memory: u64,
        vps: u8,
    ) -> Result<GuestRam, Stop> {
        for range in guest_boot::fresh(memory, vps, config) {
            host.accept(range.start, range.end)
                .chapter("accepting guest memory")?;
        }
        for range in guest_boot::guest_ram(memory, vps) {
            host.protect(range.start, range.end, Access::All)
                .chapter("rights of the guest")?;
        }
        Ok(window::guest_ram(memory, vps))
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
            network: Line1 {
                uplink: Some(uplink),
            },
            clock,
            ..
        } = vp
        else {
            return;
        };
        let begin = clock.reference(clock.ns(tsc()));
        if !uplink.leave(begin) {
            return;
        }
        let last = begin.saturating_add(vmbus::limits::UNLOAD_DEADLINE);
        while !uplink.has_left() {
            let pending = traps::take();
            if pending.kick {
                let _ = host.write_register(msr::EOI, 0);
            }
            let sint = pending.sint;
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
        let (size, vps) = (machine.memory_size, machine.processors);
        guest_boot::finish_boot_params(ram, config, size, vps, tables.rsdp, &clock)
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

        fn ended(&self) -> Option<End> {
            others::ended()
        }
    }

    /// The network line of the VM, which the first VP has.
    struct Line1 {
        uplink: Option<Uplink>,
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
            let Some(uplink) = &mut self.uplink else {
                return Ok(Polled::default());
            };
            if reason.reset {
                uplink.device_reset();
            }
            if reason.guest {
                uplink.guest_acted();
            }
            uplink.turn(host, &mut InVm { machine, memory }, reason.sint, now)
        }

        fn take_findings(&mut self) -> Vec<Finding> {
            match &mut self.uplink {
                Some(uplink) => uplink.take_findings(),
                None => Vec::new(),
            }
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
        let Some(uplink) = &network.uplink else {
            return;
        };
        let summary = Summary {
            stats,
            uplink,
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
