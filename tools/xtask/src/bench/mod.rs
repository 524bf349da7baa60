//! `cargo xtask bench`: everything that has an aim, in one run ([`all`]). One by one:
//! `bench boot`: the same guest with and without the paravisor, by turns on the same
//! machine, and the ratio of the two. `bench validate`: what judging a message costs
//! (docs/cost.md). `bench speed` and `count`: what moving a frame costs, in time and in
//! instructions (docs/speed.md), `net` the same in the rig.

mod aims;
mod all;
mod count;
mod net;
mod plot;
mod speed;

pub use all::AllArgs;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::path::Path;

use crate::report::Report;
use crate::run::{self, Plan};
use crate::setup::KernelVersion;
use crate::{firmware, process};

/// What can be measured.
#[derive(Subcommand)]
pub enum Bench {
    /// Boot to DHCP, a download and an upload, with and without the paravisor
    Boot(BootArgs),
    /// Messages of the host judged, read without a rule, and only copied
    Validate(ValidateArgs),
    /// Frames through the paravisor's own code on this machine, beside plain copies
    Speed(speed::SpeedArgs),
    /// Instructions a frame, compared with the committed table (needs valgrind)
    Count(count::CountArgs),
    /// TCP each way and ping in the rig, beside QEMU's own network cards
    Net(net::NetArgs),
}

/// What `bench validate` takes.
#[derive(Args)]
pub struct ValidateArgs {
    /// Write the table to this file (JSON)
    #[arg(long, value_name = "FILE")]
    report: Option<std::path::PathBuf>,
}

/// What `bench boot` takes.
#[derive(Args)]
pub struct BootArgs {
    /// Runs of each kind
    #[arg(short, long, default_value_t = 3)]
    number: usize,
    /// Debian's kernel to use
    #[arg(long, value_enum, default_value = "6.1")]
    kernel_version: KernelVersion,
    /// Write all reports to this file (JSON)
    #[arg(long, value_name = "FILE")]
    report: Option<std::path::PathBuf>,
}

/// Names and times of the points that both kinds of run pass.
type Point = (&'static str, fn(&Report) -> Option<f64>);
const POINTS: [Point; 4] = [
    ("init", |report| report.guest.init),
    ("lease", |report| report.guest.lease),
    ("DHCP + HTTP GET", |report| report.guest.fetched),
    ("upload", |report| report.guest.uploaded),
];

/// Measures and prints a table; without a word more, all that there are.
pub fn bench(bench: Option<&Bench>, all: &AllArgs) -> Result<()> {
    match bench {
        None => all::all(all),
        Some(Bench::Boot(args)) => boot(args),
        Some(Bench::Validate(args)) => validate(args.report.as_deref(), |_| {}),
        Some(Bench::Speed(args)) => speed::speed(args).map(|_| ()),
        Some(Bench::Count(args)) => count::count(args).and_then(count::judge),
        Some(Bench::Net(args)) => net::net(args).map(|_| ()),
    }
}

/// The bench is a program of its own, which prints the table; its lines go to `line`, too.
fn validate(report: Option<&Path>, line: impl FnMut(&str)) -> Result<()> {
    let mut command = firmware::cargo();
    command.args(["bench", "-p", "undercroft-benches", "--bench", "validate"]);
    if let Some(file) = report {
        let file = std::path::absolute(file)
            .with_context(|| format!("cannot make a full path of {}", file.display()))?;
        command.env("UNDERCROFT_BENCH_REPORT", file);
    }
    process::shown_by_line(&mut command, line)
}

/// Runs by turns and prints the medians.
fn boot(args: &BootArgs) -> Result<()> {
    let plan = Plan {
        version: args.kernel_version,
        show: false,
        ..Plan::default()
    };
    if args.number == 0 {
        bail!("--number must be at least 1");
    }
    let mut reports = Vec::new();
    for turn in 1..=args.number {
        for plain in [true, false] {
            let plan = Plan {
                plain,
                ..plan.clone()
            };
            let report = run::run(&plan);
            if let Some(error) = &report.error {
                bail!("run {turn} ({}): {error}", report.mode);
            }
            eprintln!(
                "  {turn}/{} {:<9} {:.2} s",
                args.number, report.mode, report.seconds
            );
            reports.push(report);
        }
    }
    println!("{} on {}", reports[0].guest_kernel, reports[0].machine);
    println!(
        "median of {} runs each, seconds from the start of QEMU",
        args.number
    );
    println!(
        "  {:<18} {:>8} {:>10} {:>7}",
        "until", "plain", "paravisor", "ratio"
    );
    for (name, point) in POINTS {
        let of = |mode| {
            let times = reports
                .iter()
                .filter(|r| r.mode == mode)
                .filter_map(point)
                .collect();
            median(times)
        };
        if let (Some(plain), Some(above)) = (of("plain"), of("paravisor")) {
            println!(
                "  {name:<18} {plain:>8.2} {above:>10.2} {:>6.2}×",
                above / plain
            );
        }
    }
    if let Some(file) = &args.report {
        crate::write_json(file, &reports)?;
    }
    Ok(())
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    match times.len() % 2 {
        0 if times.is_empty() => None,
        0 => Some((times[middle - 1] + times[middle]) / 2.0),
        _ => Some(times[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
