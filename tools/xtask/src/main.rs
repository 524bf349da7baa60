//! `cargo xtask`: sets the machine up, builds, runs, tests and measures Undercroft.

mod bench;
mod faults;
mod firmware;
mod fuzz;
mod guest;
mod http;
mod lint;
mod machine;
mod miri;
mod nic;
mod panics;
mod paths;
mod plain;
mod process;
mod records;
mod report;
mod run;
mod scenario;
mod setup;
mod size;
mod soak;
mod tally;
mod test;
mod texts;
mod ui;
mod unsafe_scan;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand};

use bench::{AllArgs, Bench};
use nic::Nic;
use plain::Own;
use run::Plan;
use setup::{KernelVersion, Pretend};
use test::TestArgs;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
#[command(about = "Sets up, builds, runs, tests and measures Undercroft")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Bring what a run needs: Rust target, QEMU, guest kernels, busybox
    Setup {
        /// As if rustup could not bring the target
        #[arg(long, hide = true)]
        pretend_no_target: bool,
        /// As if there were no QEMU; the installation is only simulated
        #[arg(long, hide = true)]
        pretend_no_qemu: bool,
    },
    /// Boot a guest above the paravisor in the rig and let it use the network
    Run(RunArgs),
    /// Let the rig test the machine that it emulates: no image, no guest
    Selftest,
    /// Check formatting and lints, the firmware's too
    Lint,
    /// Run every test, in process and in QEMU; lints first
    Test(TestArgs),
    /// Fuzz what host and guest can reach (needs a nightly toolchain)
    Fuzz(fuzz::FuzzArgs),
    /// Measure: without a word more, everything that has an aim, in one run
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(subcommand)]
        what: Option<Bench>,
        #[command(flatten)]
        all: AllArgs,
    },
    /// Run what is nearest to shared memory under Miri (needs nightly)
    Miri,
    /// Check that every panic that is left in the firmware has its reason
    Panics(panics::PanicsArgs),
    /// Load a guest's network both ways for minutes; nothing may be lost or grow
    Soak(soak::SoakArgs),
    /// Print sizes: image, memory, crates, unsafe blocks
    Size {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// What `run` takes.
#[derive(Args)]
struct RunArgs {
    /// The guest's kernel (a bzImage); default: Debian's cloud kernel
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The guest's initrd; default with Debian's kernel: one that tests the network
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Words added to the guest's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    append: Option<String>,
    /// Memory of the VM in MiB, 256 to 2048, an even number
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u32,
    /// Write a report to this file (JSON)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Debian's kernel to use
    #[arg(long, value_enum, default_value = "6.1")]
    kernel_version: KernelVersion,
    /// The guest's network card; e1000e takes Debian's generic kernel, which has its
    /// driver
    #[arg(long, value_enum, default_value = "virtio", conflicts_with_all = ["enlightened", "scenario"])]
    nic: Nic,
    /// Give up after so many seconds of the machine
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Let something go wrong: image-truncated, image-flipped, guest-triple-fault,
    /// guest-unknown-exit, or a scenario of the rig's host (repeatable)
    #[arg(long, value_name = "NAME")]
    fault: Vec<String>,
    /// Boot the same guest in plain QEMU instead, without rig and paravisor
    #[arg(long, conflicts_with_all = ["fault", "keep_image"])]
    plain: bool,
    /// Let the image's guest run without paravisor, as an ordinary Hyper-V guest with
    /// Linux's own drivers: they judge the rig's host
    #[arg(long, conflicts_with = "plain")]
    enlightened: bool,
    /// Keep a copy of the image
    #[arg(long, value_name = "FILE")]
    keep_image: Option<PathBuf>,
    /// Record every byte that the host hands over, for `undercroft audit`
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    trace: Option<PathBuf>,
    /// Let the host play a scenario, or each of a folder (docs/scenarios.md)
    #[arg(
        long,
        value_name = "FILE|DIR",
        conflicts_with_all = ["kernel", "initrd", "append", "fault", "plain", "enlightened", "keep_image"]
    )]
    scenario: Option<PathBuf>,
    /// Scenarios at a time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = clap::value_parser!(u8).range(1..=64),
        requires = "scenario"
    )]
    jobs: u8,
    /// Write the table of scenarios to this file (Markdown)
    #[arg(long, value_name = "FILE", requires = "scenario")]
    table: Option<PathBuf>,
    /// Virtual processors of the VM, each a thread of QEMU's
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=16),
        conflicts_with_all = ["plain", "enlightened"]
    )]
    vps: u32,
    /// Words for the rig's own command line
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    rig_append: String,
    /// Do not show the guest's console
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match process::install_handler().and_then(|()| chore(cli.chore)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chore(chore: Chore) -> Result<()> {
    match chore {
        Chore::Setup {
            pretend_no_target,
            pretend_no_qemu,
        } => setup::all(
            &setup::CLOUD_KERNELS,
            Pretend {
                no_target: pretend_no_target,
                no_qemu: pretend_no_qemu,
            },
        ),
        Chore::Run(args) => run(args),
        Chore::Selftest => {
            run::selftest(true).map(|()| println!("the emulated machine is as it should be"))
        }
        Chore::Lint => lint::lint(),
        Chore::Test(args) => test::test(&args),
        Chore::Fuzz(args) => fuzz::fuzz(&args),
        Chore::Bench { what, all } => bench::bench(what.as_ref(), &all),
        Chore::Miri => miri::miri(),
        Chore::Panics(args) => panics::panics(&args),
        Chore::Soak(args) => soak::soak(&args),
        Chore::Size { json } => size::size(json),
    }
}

fn scenario(path: PathBuf, args: RunArgs) -> Result<()> {
    let table = scenario::play(&scenario::Plan {
        path,
        jobs: args.jobs.into(),
        version: args.kernel_version,
        memory: args.memory,
        timeout: Duration::from_secs(args.timeout),
        trace: args.trace,
        vps: args.vps,
        rig_append: args.rig_append,
        show: !args.quiet,
    });
    if !table.played.is_empty() {
        println!("\nScenarios\n{}", table.text());
    }
    if let Some(file) = &args.report {
        write_json(file, &table)?;
    }
    if let Some(file) = &args.table {
        std::fs::write(file, table.markdown())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    match table.error {
        None => Ok(()),
        Some(error) => Err(anyhow!(error)),
    }
}

fn run(mut args: RunArgs) -> Result<()> {
    if let Some(path) = args.scenario.take() {
        return scenario(path, args);
    }
    let plan = Plan {
        own: Own {
            kernel: args.kernel,
            initrd: args.initrd,
            append: args.append,
        },
        version: args.kernel_version,
        nic: args.nic,
        memory: args.memory,
        timeout: Duration::from_secs(args.timeout),
        faults: args.fault,
        trace: args.trace,
        vps: args.vps,
        rig_append: args.rig_append,
        plain: args.plain,
        enlightened: args.enlightened,
        show: !args.quiet,
        keep_image: args.keep_image,
        load: None,
    };
    let report = run::run(&plan);
    if report.started() {
        println!("\nSummary\n{}", report.summary());
    }
    if let Some(file) = &args.report {
        write_json(file, &report)?;
    }
    match report.error {
        None => Ok(()),
        Some(error) => Err(anyhow!(error)),
    }
}

/// Writes `what` as JSON for people and programs.
fn write_json(file: &Path, what: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(what)?;
    text.push('\n');
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
