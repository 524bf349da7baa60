//! `cargo xtask`: sets the machine up, builds, runs, tests and measures Undercroft.

mod guest;
mod http;
mod machine;
mod paths;
mod plain;
mod process;
mod records;
mod setup;
mod ui;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use plain::{Own, TestGuest};
use setup::{KernelVersion, Pretend};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, builds, runs, tests and measures Undercroft")]
struct Cli {
    #[command(subcommand)]
    command: Chore,
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
}

/// What `run` takes.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The guest's kernel (a bzImage); default: Debian's cloud kernel
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The guest's initrd; default with Debian's kernel: one that tests the network
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Words added to the guest's command line
    #[arg(long, value_name = "WORDS")]
    append: Option<String>,
    /// Memory of the VM in MiB, 256 to 2048, an even number
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u32,
    /// Debian's kernel to use
    #[arg(long, value_enum, default_value = "6.1")]
    kernel_version: KernelVersion,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Boot the same guest in plain QEMU instead, without rig and paravisor
    #[arg(long)]
    plain: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match process::install_handler().and_then(|()| chore(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chore(chore: Chore) -> Result<()> {
    match chore {
        Chore::Setup { pretend_no_target, pretend_no_qemu } => setup::all(
            &[KernelVersion::V6_1, KernelVersion::V6_12],
            Pretend { no_target: pretend_no_target, no_qemu: pretend_no_qemu },
        ),
        Chore::Run(args) => {
            let own = Own { kernel: args.kernel, initrd: args.initrd, append: args.append };
            let guest = TestGuest::new(args.kernel_version, &own)?;
            let ran = guest.boot_plain(args.memory, Duration::from_secs(args.timeout), true)?;
            println!("{:#?} {:?} {}", ran.marks, ran.status, ran.seconds);
            Ok(())
        }
    }
}
