//! Launch without paravisor: the guest's part of the image is loaded where the
//! paravisor would find it, and started as the paravisor would start it. The
//! paravisor's own region stays a hole in the guest's memory map.

use super::{Pc, Ram, vp::Vp};
use crate::host::Host;
use crate::metal::clock::Clock;
use crate::metal::memory::{Frames, Plan};
use crate::metal::svm;
use crate::options::Options;
use crate::record;
use crate::vm::context::{Context, Maps};
use crate::vm::end::{End, end};
use crate::vm::load;
use crate::vm::ram::Ram as MachineRam;
use crate::vm::stats::Stats;
use crate::vm::vmmem::HostMemory;
use abi::record::Outcome;
use abi::svm::{Segment, attrib, msr::EFER_SVME};
use alloc::rc::Rc;
use core::cell::RefCell;
use devices::{CpuidSource, Machine, MachineConfig};
use loader::config::Config;
use loader::layout;
use memory::GuestMemory;
use paravisor_core::guest_boot;
use paravisor_core::mmio::Decoded;
use platform::BootState;
use rig::enlightenment;
use rig::npt::View;
use rig::rmp::Rmp;

const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
const CR0_PG_WP_PE: u64 = 1 << 31 | 1 << 16 | 1 << 4 | 1;
const CR4_PAE: u64 = 1 << 5;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// CPUID of QEMU's processor.
struct Processor;

impl CpuidSource for Processor {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        Some([r.eax, r.ebx, r.ecx, r.edx])
    }
}

fn rejected(what: &str, why: impl core::fmt::Debug) -> End {
    End {
        outcome: Outcome::ImageRejected,
        message: alloc::format!("{what}: {why:?}"),
    }
}

impl Pc {
    /// From an image to a guest that can run.
    pub fn launch(
        plan: Plan,
        mut frames: Frames,
        clock: Clock,
        options: &Options,
        image: &[u8],
    ) -> Result<Pc, End> {
        const FRAMES: &str = "out of frames for nested tables";
        let machine_ram = MachineRam::new(plan.vm, plan.vm_size);
        let mut rmp = Rmp::new(plan.vm_size >> 12);
        let blank = [0; 4096];
        let loaded = load::Loader {
            ram: machine_ram,
            rmp: &mut rmp,
            cpuid: &blank,
            secrets: &blank,
            vps: 1,
        }
        .file(image)?;
        record::text("digest", format_args!("{}", record::Hex(&loaded.digest)));
        record::count("image_pages", format_args!(""), loaded.pages);
        // Nothing in this VM is private: the host reaches all of it.
        for gfn in 0..plan.vm_size >> 12 {
            rmp.update(gfn, false);
        }
        let memory = Rc::new(HostMemory::new(machine_ram, Rc::new(RefCell::new(rmp))));
        let ram = Ram(memory.clone());

        let mut page = [0; 4096];
        ram.read(layout::CONFIG_PAGE.start, &mut page)
            .map_err(|e| rejected("configuration page", e))?;
        let config =
            Config::from_page(&page).map_err(|e| rejected("configuration page of the image", e))?;
        let machine_config = MachineConfig {
            memory_size: plan.vm_size,
            tsc_hz: clock.tsc_hz,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            link_up: false,
            processors: 1,
            queue_pairs: 1,
            hash: Default::default(),
            epoch_seconds: 0,
            advertise_pm_timer: false,
        };
        let tables = devices::acpi::build_with(
            layout::ACPI.start,
            &machine_config,
            &enlightenment::vmbus_devices(),
        );
        for (gpa, bytes) in &tables.pieces {
            ram.write(*gpa, bytes)
                .map_err(|e| rejected("ACPI tables", e))?;
        }
        guest_boot::finish_boot_params(&ram, &config, plan.vm_size, 1, tables.rsdp, "")
            .map_err(|e| rejected("boot parameters", e))?;
        let state =
            guest_boot::write_tables(&ram, &config).map_err(|e| rejected("guest tables", e))?;

        let maps = Maps::new(&mut frames);
        // A view without an alias: the bit lies above all guest memory.
        let view = View::PrivateBit(crate::vm::C_BIT);
        let ctx = maps.and_then(|maps| Context::new(2, view, &maps, plan.vm, 0, &mut frames));
        let Some(mut ctx) = ctx else {
            return end!(Outcome::RigFailure, "{FRAMES}");
        };
        if ctx.npt.fill_plain(plan.vm_size, &mut frames).is_err() {
            return end!(Outcome::RigFailure, "{FRAMES}");
        }
        start(&mut ctx, &state);
        let save_area = frames.take(1);
        if save_area.is_none_or(|at| svm::enable(at).is_err()) {
            return end!(
                Outcome::RigFailure,
                "no SVM with nested paging: use -cpu EPYC,phys-bits=48"
            );
        }
        record::mark(&clock, "rig-loaded");
        Ok(Pc {
            vp: Vp { ctx, next_rip: 0 },
            ram,
            devices: Machine::new(&machine_config, &Processor),
            decoded: Decoded::new(),
            host: Host::new(memory, &clock, options),
            clock,
            limit: options.limit.saturating_mul(10_000_000),
            armed: u64::MAX,
            halted: false,
            started: false,
            stats: Stats::new(),
        })
    }
}

/// The state in which Linux's 64-bit entry wants the processor.
fn start(ctx: &mut Context, state: &BootState) {
    let segment = |selector, attrib| Segment {
        selector,
        attrib,
        limit: 0xffff_ffff,
        base: 0,
    };
    let s = &mut ctx.vmcb.save;
    s.cs = segment(state.code_selector, attrib::CODE64);
    let data = segment(state.data_selector, attrib::DATA);
    (s.ds, s.es, s.ss, s.fs, s.gs) = (data, data, data, data, data);
    s.tr = segment(0, attrib::TSS64_BUSY);
    s.ldtr = segment(0, attrib::LDT);
    s.gdtr.base = state.gdt_base;
    s.gdtr.limit = u32::from(state.gdt_limit);
    s.efer = EFER_SVME | EFER_LME_LMA;
    s.cr0 = CR0_PG_WP_PE;
    s.cr3 = state.cr3;
    s.cr4 = CR4_PAE;
    s.pat = PAT_RESET;
    s.dr6 = 0xffff_0ff0;
    s.dr7 = 0x400;
    s.rflags = 2;
    s.rip = state.rip;
    ctx.regs.rsi = state.rsi;
}
