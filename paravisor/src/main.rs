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
    mod clock;
    mod image;
    mod network;
    mod others;
    mod stop;

    use self::image::Image;
    use self::network::Line;
    use self::others::Kit;
    use self::stop::{Chapter as _, Stop, bug, finish, stop};
    use crate::arch::memory::{GHCB_PFN, GuestRam, POOL_PAGES, POOL_PFN, PoolBacking};
    use crate::arch::{heap, log as out, memory as window, tables, traps, tsc};
    use abi::record::Outcome;
    use alloc::boxed::Box;
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use core::convert::Infallible;
    use devices::{Machine, MachineConfig, NicModel};
    use loader::config::{Config, NIC_E1000E, VMBUS_PLAIN};
    use loader::layout;
    use memory::{GuestMemory as _, Purpose, RawShared, SharedMemory as _, SharedPool};
    use paravisor_core::account::Account;
    use paravisor_core::cpuid::CheckedCpuid;
    use paravisor_core::lanes::{Hub, Worker};
    use paravisor_core::report::{Summary, shared_pages};
    use paravisor_core::run::{End, Vp, Why};
    use paravisor_core::synic::{self, Timer};
    use paravisor_core::{guest_boot, isolation, record, uplink};
    use platform::snp::{Hardware, Machine as _, Snp, check_host};
    use platform::{Access, Platform as _};

    type Host = Snp<'static, Hardware, RawShared>;
    type Pool = SharedPool<PoolBacking, POOL_PAGES>;
    type Uplink = uplink::Uplink<PoolBacking, POOL_PAGES>;
    /// A VP with all that it runs on.
    type Runner = Vp<Host, GuestRam, Line, Image>;

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
        let mut clock = clock::read(&mut host)?;
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
        let no_page = |_| stop(Outcome::MemoryFailure, "SynIC and GHCB pages");
        // The other VPs' pages, as long as the pool is here: GHCB, and a SynIC for those
        // that are to have a channel of the NIC.
        let sub_channels = network::sub_channels(&config, vps);
        let hub = Arc::new(Hub::new(vps));
        let mut pages = Vec::new();
        for index in 1..vps {
            let ghcb = pool.take(1, Purpose::Ghcb).map_err(no_page)?;
            let worker = if sub_channels == 0 {
                None
            } else {
                let messages = pool.take(1, Purpose::Synic).map_err(no_page)?;
                let flags = pool.take(1, Purpose::Synic).map_err(no_page)?;
                let worker = Worker::new(hub.clone(), index, messages, flags, target.sint);
                Some(Box::new(worker))
            };
            pages.push((ghcb, worker));
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
            sub_channels,
            coalescing: config.nic != NIC_E1000E,
        };
        let mut uplink = Uplink::with_lanes(uplink_config, pool, messages, flags, hub);
        network::bring_up(&mut host, &mut uplink, &mut watch, &clock)?;
        clock::align(&mut host, &mut clock)?;

        // The guest's machine, its tables, its first state.
        let machine_config = MachineConfig {
            memory_size: memory,
            tsc_hz: clock.hz(),
            mac: uplink.mac().unwrap_or(NO_NIC_MAC),
            mtu: u16::try_from(uplink.mtu()).unwrap_or(MTU as u16),
            link_up: uplink.link_up(),
            processors: vps,
            // A pair for each channel that the host has granted.
            queue_pairs: uplink.granted().saturating_add(1),
            hash: uplink.offers_hash(),
            epoch_seconds: 0,
            advertise_pm_timer: false,
        };
        let cpuid = CheckedCpuid::new(window::cpuid_page())
            .ok_or(stop(Outcome::BadConfig, "CPUID page"))?;
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
            for (index, (ghcb, worker)) in (1..vps).zip(pages) {
                let kit = Kit {
                    machine: machine.processor(index).ok_or(bug("processor"))?,
                    ghcb_pfn: ghcb.pfn(0).ok_or(bug("GHCB page"))?,
                    ram,
                    clock,
                    sint: target.sint,
                    worker,
                    console,
                };
                others::start(&mut host, index, kit)?;
            }
            out::mark("vps-online");
            out::record(&record::Line::count("vps", format_args!(""), vps.into()));
        }
        out::mark("guest-start");
        out::flush(&mut host, usize::MAX);

        // And the loop.
        uplink.device_attached();
        uplink.vps_online();
        let line = Line::First(Box::new(uplink));
        let image = Image { console };
        let mut vp = Vp::new(host, ram, machine, line, image, [timer, watch], clock);
        let end = run(&mut vp);

        // The others stop, the host is left, and what was counted is told.
        let counted = others::await_stop(&mut vp.platform, &vp.clock, vps);
        vp.stats.add(&counted);
        if let Line::First(uplink) = &mut vp.network {
            let mut account = Account::new();
            account.memory(heap::usage(), out::lost());
            account.devices(&vp.machine.counters());
            account.pages(&shared_pages(uplink.pool(), 1));
            // A host that fails requests would fail this one, too.
            if !matches!(end.why, Why::Platform(_)) {
                network::take_leave(&mut vp.platform, uplink, &vp.clock);
            }
            uplink.account(&mut account);
            let summary = Summary {
                stats: &vp.stats,
                uplink,
                hypercalls: &others::all_calls(vp.platform.hypercall_counts()),
                account: &account,
                foreign_interrupts: traps::spurious(),
            };
            summary.emit(out::record);
        }
        out::end(end.outcome, format_args!("{}", end.why))
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
        if let Some(worker) = &kit.worker {
            let (messages, flags) = worker.pages();
            synic::take(&mut host, messages, flags, kit.sint, traps::SINT_VECTOR)
                .chapter("SynIC")?;
        }
        let timer = Timer::new(&mut host, 0, traps::TIMER_VECTOR).chapter("timer")?;
        let watch = Timer::new(&mut host, 1, traps::WATCH_VECTOR).chapter("timer")?;
        window::allow_extended_state();
        host.start_at(0).chapter("guest VP")?;
        let line = Line::Another(kit.worker);
        let image = Image {
            console: kit.console,
        };
        let timers = [timer, watch];
        let mut vp = Vp::new(host, kit.ram, kit.machine, line, image, timers, kit.clock).waiting();
        others::set_online(index);
        run(&mut vp);
        vp.network.give_back();
        others::stopped(index, &vp.stats, vp.platform.hypercall_counts());
        // The first VP takes leave of the host and ends the VM.
        loop {
            vp.platform.wait();
        }
    }

    /// Runs this VP's half of the guest until it or another VP ends the run, and wakes the
    /// others to see it.
    fn run(vp: &mut Runner) -> End {
        let end = vp.run();
        if vp.surroundings.console && matches!(end.why, Why::Exit { .. }) {
            log::info!("{:?}", end.why);
        }
        others::end(end);
        vp.machine.call_all();
        let _ = vp.send_kicks();
        end
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
}
