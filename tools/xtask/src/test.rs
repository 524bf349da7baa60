//! `cargo xtask test`: sets up, then every test there is. Host tests run under
//! cargo; the end-to-end tests (`tests/tests/e2e*.rs`) are cargo tests too, which
//! are ignored unless they are given this program to drive QEMU with.

use anyhow::{Context, Result};
use clap::Args;

use crate::setup::{self, Flavour, KernelVersion, Pretend};
use crate::tally::Tally;
use crate::{firmware, fuzz, lint, panics, process, texts};

/// Tells the end-to-end tests which program to call.
const XTASK: &str = "UNDERCROFT_XTASK";
/// The end-to-end tests, which need QEMU.
const E2E: &str = "e2e";

/// What `test` takes.
#[derive(Args)]
pub struct TestArgs {
    /// Only what needs no QEMU
    #[arg(long, conflicts_with = "e2e")]
    host: bool,
    /// Only what needs QEMU
    #[arg(long)]
    e2e: bool,
    /// Leave out the seconds of fuzzing, for which a program is built with nightly
    #[arg(long)]
    no_fuzz: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// Runs the tests; fails if one fails.
pub fn test(args: &TestArgs) -> Result<()> {
    let mut failed = Vec::new();
    let mut tally = Tally::default();
    if !args.host {
        let [first, second] = setup::CLOUD_KERNELS;
        // For the card that the cloud kernels have no driver for.
        let third = (KernelVersion::V6_1, Flavour::Generic);
        setup::all(&[first, second, third], Pretend::default())?;
    }
    if !args.e2e && args.filter.is_none() && lint::lint().is_err() {
        failed.push("lints");
    }
    if !args.e2e {
        // The firmware's programs are empty ones on this machine, its parts are tested.
        let mut command = firmware::cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]);
        command.args(&args.filter);
        if process::shown_by_line(&mut command, |line| tally.host_line(line)).is_err() {
            failed.push("host tests");
        }
    }
    if !args.e2e && !args.no_fuzz && args.filter.is_none() {
        // The seeds were replayed above; this looks a little further.
        if let Err(why) = fuzz::short() {
            eprintln!("fuzzing: {why:#}");
            failed.push("fuzzing");
        }
    }
    if !args.host {
        let built = firmware::build()?;
        if let Err(why) = panics::test(&built) {
            eprintln!("{why:#}");
            failed.push("panics in the firmware");
        }
        if let Err(why) = texts::test(&built) {
            eprintln!("{why:#}");
            failed.push("texts in the firmware");
        }
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = firmware::cargo();
        // Of the whole workspace, so that nothing is compiled once more with the
        // features of one package.
        command.args(["test", "--workspace", "--test", E2E]);
        command.args(&args.filter);
        // They agree among themselves on how many machines run side by side.
        command.args(["--", "--ignored", "--test-threads", "2", "--nocapture"]);
        command.env(XTASK, program);
        if process::shown_by_line(&mut command, |line| tally.machine_line(line)).is_err() {
            failed.push("end-to-end tests");
        }
    }
    println!("\n{tally}");
    if failed.is_empty() {
        return Ok(());
    }
    anyhow::bail!("{} failed", failed.join(", "))
}
