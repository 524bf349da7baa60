//! `cargo xtask soak`: a run whose guest receives and sends at the same time for
//! minutes. Contents are checked at the other end, frames are counted at every hop and
//! must add up, and memory must stay as it is.

pub mod blocks;
mod hops;
mod judge;
#[cfg(test)]
mod tests;
pub mod told;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::http::{Served, Server};
use crate::machine::{OnSoak, Ran};
use crate::nic::Nic;
use crate::run::{self, Plan};
use crate::setup::KernelVersion;
use judge::Evidence;
pub use judge::Verdict;
use told::{Moment, Told};

/// What a run may take beside the load: boot, first transfers, coming to rest. The load
/// itself ends by the guest's clock, however slow the machine is.
const BESIDE: u64 = 300;

/// What `soak` takes.
#[derive(Args)]
pub struct SoakArgs {
    /// Minutes of load
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// Seconds of load, in place of minutes
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    seconds: Option<u64>,
    /// Seconds between two looks at all counters
    #[arg(long, value_name = "N", default_value_t = 30)]
    beat: u64,
    /// The guest's network card
    #[arg(long, value_enum, default_value = "virtio")]
    nic: Nic,
    /// Virtual processors of the VM
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=16)
    )]
    vps: u32,
    /// Debian's kernel to use
    #[arg(long, value_enum, default_value = "6.1")]
    kernel_version: KernelVersion,
    /// Memory of the VM in MiB, 256 to 2048, an even number
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u32,
    /// Write a report to this file (JSON)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show the guest's console
    #[arg(long)]
    console: bool,
}

/// How long, and how often to look.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Seconds of load.
    pub seconds: u64,
    /// Seconds between two looks.
    pub beat: u64,
}

impl Load {
    /// For the guest.
    pub fn append(&self) -> String {
        format!("uc.soak={} uc.beat={}", self.seconds, self.beat)
    }

    /// When the whole run is given up.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.seconds.saturating_add(BESIDE))
    }
}

/// Runs it and prints what was seen.
pub fn soak(args: &SoakArgs) -> Result<()> {
    let seconds = args.seconds.unwrap_or(args.minutes.saturating_mul(60));
    let load = Load {
        seconds,
        beat: args.beat,
    };
    if load.beat == 0 || load.seconds < load.beat.saturating_mul(3) {
        bail!(
            "{seconds} s of load leave no room for two looks {} s apart; use --beat for a shorter one",
            load.beat
        );
    }
    let report = run::run(&Plan {
        version: args.kernel_version,
        nic: args.nic,
        memory: args.memory,
        timeout: load.timeout(),
        vps: args.vps,
        show: args.console,
        load: Some(load),
        ..Plan::default()
    });
    if report.started() {
        println!("\nSummary\n{}", report.summary());
    }
    if let Some(verdict) = &report.soak {
        println!("Under load\n{}", verdict.text());
    }
    if let Some(file) = &args.report {
        crate::write_json(file, &report)?;
    }
    match report.error {
        None => Ok(()),
        Some(error) => Err(anyhow!(error)),
    }
}

/// Prints a line for each beat as it comes.
pub fn progress() -> OnSoak {
    let last = std::cell::RefCell::new(None::<Moment>);
    Box::new(move |line| {
        let Some(words) = line.strip_prefix("beat ") else {
            return;
        };
        let beat = Moment::parse(words);
        let mut last = last.borrow_mut();
        eprintln!("  {}", judge::beat_line(&beat, last.as_ref()));
        *last = Some(beat);
    })
}

/// Judges what a run under load has left.
pub fn verdict(plan: &Plan, ran: &Ran, served: &Served, server: &Server) -> Result<Verdict> {
    let told = Told::parse(ran.marks.soak.iter().map(|(_, line)| line.as_str()));
    let counts = |from: &str| {
        let counts = ran.records.counts.get(from);
        counts.with_context(|| format!("{from} told no counters"))
    };
    Ok(judge::judge(&Evidence {
        nic: plan.nic,
        vps: plan.vps,
        told: &told,
        sums: &server.block_sums(),
        came: &served.blocks_up,
        pauses: [&served.pace[0], &served.pace[1]].map(|pace| pace.pause),
        beats: &ran.records.beats,
        host: counts("rig")?,
        paravisor: counts("paravisor")?,
    }))
}
