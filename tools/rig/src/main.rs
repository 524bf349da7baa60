//! The rig: QEMU boots it, it carves out a VM, loads the image into it as a
//! Hyper-V host with SEV-SNP would, and runs it until it ends.
//!
//! It is an emulator. Nothing that runs here ran on SEV hardware.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod enlightened;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod metal;
#[cfg(target_os = "none")]
mod options;
#[cfg(target_os = "none")]
mod record;
#[cfg(target_os = "none")]
mod selftest;
#[cfg(target_os = "none")]
mod vm;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("rig runs on bare metal only: build it for x86_64-unknown-none");
    std::process::exit(2);
}

#[cfg(target_os = "none")]
mod start {
    #![allow(unsafe_code)]

    use crate::enlightened::Pc;
    use crate::metal::{FwCfg, apic, boot, clock, idt, memory, serial};
    use crate::vm::end::{End, end};
    use crate::{options, record, selftest, vm};
    use abi::record::{Outcome, SCENARIO_FILE};
    use alloc::boxed::Box;
    use alloc::string::String;
    use alloc::vec::Vec;
    use hostkit::scenario::{self, Scenario};
    use rig::{firmware, fwcfg};
    use zerocopy::IntoBytes;

    /// Longest scenario: one byte more than the parser takes, so that it is the parser
    /// that complains.
    const MAX_SCENARIO: u32 = (64 << 10) + 1;

    /// Most bytes that a scenario may make the host hold at once: a part of the heap.
    const MAX_BURST: u64 = 8 << 20;

    /// Called by the boot code with the address of PVH's start info.
    // SAFETY: the name is called from this crate's boot code only.
    #[unsafe(no_mangle)]
    extern "C" fn rig_main(info: u64) -> ! {
        serial::init();
        idt::init();
        let Some(boot) = boot::read(info) else {
            record::outcome(Outcome::RigFailure, format_args!("no PVH start info"));
        };
        let end = run(&boot);
        record::outcome(end.outcome, format_args!("{}", end.message));
    }

    fn run(boot: &boot::Boot) -> End {
        match launch(boot) {
            Ok(Launched::Confidential(vm, cpus)) => vm::cpu::run(*vm, cpus, boot),
            Ok(Launched::Enlightened(mut pc)) => {
                let end = pc.run();
                pc.report();
                end
            }
            Err(end) => end,
        }
    }

    /// A VM that can run.
    enum Launched {
        /// Paravisor and guest.
        Confidential(Box<vm::Vm>, Vec<vm::VpCpu>),
        /// The guest alone.
        Enlightened(Box<Pc>),
    }

    /// From power-on to a VM that can run.
    fn launch(boot: &boot::Boot) -> Result<Launched, End> {
        // The heap exists only after the plan, so options are parsed without it.
        let options = match options::parse(boot.cmdline) {
            Ok(options) => options,
            Err(what) => {
                record::outcome(Outcome::RigFailure, format_args!("command line: {what}"));
            }
        };
        let Some(plan) = memory::plan(boot, options.memory) else {
            record::outcome(
                Outcome::RigFailure,
                format_args!(
                    "too little memory for a VM of {:#x} bytes: raise QEMU's -m",
                    options.memory
                ),
            );
        };
        apic::init();
        let clock = clock::Clock::calibrate();
        record::log(
            "info",
            if options.enlightened {
                format_args!("no paravisor, no confidential VM: an ordinary Hyper-V guest")
            } else {
                format_args!("emulated SEV-SNP on SVM, not SEV hardware")
            },
        );
        record::mark(&clock, "rig-start");

        let frames = memory::Frames::new(&plan);
        if options.selftest == Some(selftest::Kind::Cores) {
            return Err(selftest::cores::run(
                boot,
                &plan,
                frames,
                clock,
                options.vps,
            ));
        }
        if options.vps != 1 && options.enlightened {
            return end!(
                Outcome::RigFailure,
                "vps={}: an enlightened guest has one",
                options.vps
            );
        }
        let scenario = scenario(&options)?;
        if options.enlightened {
            let pc = Pc::launch(plan, frames, clock, &options, boot.image)?;
            return Ok(Launched::Enlightened(Box::new(pc)));
        }
        let Some((mut vm, cpus)) = vm::Vm::new(plan, frames, clock, &options) else {
            return end!(
                Outcome::RigFailure,
                "no SVM with nested paging: use -cpu EPYC,phys-bits=48"
            );
        };
        if let Some(scenario) = scenario {
            vm.host.play(&scenario);
        }
        let cpuid = firmware::cpuid_page(vm::C_BIT, 48, vm::VTOM_BIT, |leaf, index| {
            let r = core::arch::x86_64::__cpuid_count(leaf, index);
            [r.eax, r.ebx, r.ecx, r.edx]
        });
        let secrets = firmware::secrets_page(clock::tsc());
        let (cpuid, secrets) = (page(cpuid.as_bytes()), page(secrets.as_bytes()));

        let loaded = vm.loader(&cpuid, &secrets, |loader| match options.selftest {
            Some(kind) => selftest::load(loader, kind),
            None => loader.file(boot.image),
        })?;
        record::text("digest", format_args!("{}", record::Hex(&loaded.digest)));
        record::count("image_pages", format_args!(""), loaded.pages);
        if let Some(wanted) = options.digest
            && alloc::format!("{}", record::Hex(&loaded.digest)) != wanted
        {
            return end!(
                Outcome::ImageRejected,
                "launch digest differs from the one asked for"
            );
        }
        record::mark(&clock, "rig-loaded");
        vm.start(loaded.vmsa_gfn)?;
        Ok(Launched::Confidential(Box::new(vm), cpus))
    }

    /// The scenario that the host is to play.
    fn scenario(options: &options::Options) -> Result<Option<Scenario>, End> {
        if !options.scenario {
            return Ok(None);
        }
        if options.enlightened {
            return end!(
                Outcome::RigFailure,
                "scenario: there is no paravisor to play it against ('enlightened')"
            );
        }
        let text = fwcfg::read(&mut FwCfg, SCENARIO_FILE, MAX_SCENARIO);
        let text = match text.map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => return end!(Outcome::RigFailure, "scenario: not UTF-8"),
            Err(why) => return end!(Outcome::RigFailure, "scenario: {SCENARIO_FILE}: {why}"),
        };
        let scenario = match scenario::parse(&text) {
            Ok(scenario) => scenario,
            Err(error) => return end!(Outcome::RigFailure, "scenario:{error}"),
        };
        if let Some(why) = &scenario.in_process_only {
            return end!(Outcome::RigFailure, "scenario: in process only: {why}");
        }
        let (line, bytes) = scenario.largest_burst();
        if bytes > MAX_BURST {
            return end!(
                Outcome::RigFailure,
                "scenario:{line}: {} KiB at once, and the rig has room for {}",
                bytes >> 10,
                MAX_BURST >> 10
            );
        }
        Ok(Some(scenario))
    }

    fn page(bytes: &[u8]) -> [u8; 4096] {
        let mut page = [0; 4096];
        page.copy_from_slice(bytes);
        page
    }

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        let (file, line) = info.location().map_or(("?", 0), |l| (l.file(), l.line()));
        record::outcome(
            Outcome::RigFailure,
            format_args!("rig: {} ({file}:{line})", info.message()),
        )
    }
}
