//! `cargo xtask bench net`: what the guest's network does above the paravisor, beside
//! QEMU's own network cards given to the same guest, by turns on the same machine.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{plot, speed};
use crate::http::FILE_SIZE;
use crate::nic::Nic;
use crate::plain::Own;
use crate::report::Report;
use crate::run::{self, Plan};
use crate::setup::KernelVersion;

/// What `bench net` takes.
#[derive(Args)]
pub struct NetArgs {
    /// Runs of each kind
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    number: u8,
    /// Files of 8 MiB that are timed, each way
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Only this card; default: each that there is
    #[arg(long, value_enum)]
    nic: Option<Nic>,
    /// Debian's kernel to use
    #[arg(long, value_enum, default_value = "6.1")]
    kernel_version: KernelVersion,
    /// Folder for table, JSON and plot; default: bench in the target directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Default for NetArgs {
    fn default() -> NetArgs {
        NetArgs {
            number: 2,
            rounds: 8,
            nic: None,
            kernel_version: KernelVersion::V6_1,
            out: None,
        }
    }
}

/// What one run has shown.
struct Figures {
    /// MiB/s to the guest and from it.
    down: f64,
    up: f64,
    /// ms there and back: least and mean.
    ping: [f64; 2],
}

/// Runs by turns and prints the best of each kind: other work on the machine can only
/// make a run slower.
pub fn net(args: &NetArgs) -> Result<()> {
    let mut text = String::new();
    let mut bars = Vec::new();
    let mut reports = Vec::new();
    let nics = args
        .nic
        .map_or(vec![Nic::Virtio, Nic::E1000e], |nic| vec![nic]);
    for nic in nics {
        let mut best: [Option<Figures>; 2] = [None, None];
        let mut above = None;
        for turn in 1..=args.number {
            for plain in [true, false] {
                let report = run::run(&Plan {
                    own: Own {
                        append: Some(format!("uc.rounds={}", args.rounds)),
                        ..Own::default()
                    },
                    version: args.kernel_version,
                    nic,
                    plain,
                    show: false,
                    timeout: Duration::from_secs(600),
                    ..Plan::default()
                });
                if let Some(error) = &report.error {
                    bail!("run {turn} ({}, {}): {error}", nic.name(), report.mode);
                }
                let now = figures(&report, args.rounds.into())?;
                eprintln!(
                    "  {turn}/{} {:<7} {:<9} {:.1} MiB/s down, {:.1} up",
                    args.number,
                    nic.name(),
                    report.mode,
                    now.down,
                    now.up
                );
                let kept = &mut best[usize::from(!plain)];
                *kept = Some(match kept.take() {
                    None => now,
                    Some(then) => Figures {
                        down: then.down.max(now.down),
                        up: then.up.max(now.up),
                        ping: [0, 1].map(|n| then.ping[n].min(now.ping[n])),
                    },
                });
                if !plain {
                    above = Some(report.clone());
                }
                reports.push(report);
            }
        }
        if let ([Some(plain), Some(ours)], Some(report)) = (&best, &above) {
            table(&mut text, nic, report, plain, ours)?;
            for (what, [ours, plain]) in [
                ("to the guest", [ours.down, plain.down]),
                ("from the guest", [ours.up, plain.up]),
            ] {
                bars.push(plot::Bar {
                    name: format!("{}, {what}", nic.name()),
                    values: [ours, plain],
                });
            }
        }
    }
    let head = reports.first().map_or(String::new(), |report| {
        format!(
            "{} on {}\nTCP of {} x {} MiB each way, best of {} runs\n",
            report.guest_kernel,
            report.machine,
            args.rounds,
            FILE_SIZE >> 20,
            args.number
        )
    });
    let text = format!("{head}{text}");
    print!("{text}");
    let folder = speed::folder(args.out.as_deref())?;
    std::fs::write(folder.join("net.txt"), text).context("cannot write net.txt")?;
    crate::write_json(&folder.join("net.json"), &reports)?;
    let names = ["above the paravisor", "QEMU's own"];
    plot::bars(&folder.join("net.svg"), "MiB/s", names, &bars)?;
    println!("kept in {}: net.txt, net.json, net.svg", folder.display());
    Ok(())
}

fn figures(report: &Report, rounds: f64) -> Result<Figures> {
    let said = |name: &str| {
        let value = report.guest.sees.get(name).map(String::as_str);
        value.with_context(|| format!("the guest did not say {name}"))
    };
    let rate = |name: &str| -> Result<f64> {
        let seconds: f64 = said(name)?.parse().context("no number of seconds")?;
        Ok(rounds * (FILE_SIZE >> 20) as f64 / seconds)
    };
    Ok(Figures {
        down: rate("bench-fetch")?,
        up: rate("bench-upload")?,
        ping: ping(said("bench-ping")?).context("ping was not answered")?,
    })
}

/// Least and mean of "0.1/0.2/0.3 ms".
fn ping(said: &str) -> Option<[f64; 2]> {
    let mut parts = said.strip_suffix(" ms")?.split('/');
    Some([parts.next()?.parse().ok()?, parts.next()?.parse().ok()?])
}

fn table(
    text: &mut String,
    nic: Nic,
    report: &Report,
    plain: &Figures,
    ours: &Figures,
) -> Result<()> {
    writeln!(
        text,
        "\n{:<28} {:>10} {:>10} {:>8}",
        nic.name(),
        "QEMU's own",
        "paravisor",
        "ratio"
    )?;
    for (what, plain, ours, ratio) in [
        (
            "MiB/s to the guest",
            plain.down,
            ours.down,
            ours.down / plain.down,
        ),
        (
            "MiB/s from the guest",
            plain.up,
            ours.up,
            ours.up / plain.up,
        ),
        (
            "ping, least ms",
            plain.ping[0],
            ours.ping[0],
            plain.ping[0] / ours.ping[0],
        ),
        (
            "ping, mean ms",
            plain.ping[1],
            ours.ping[1],
            plain.ping[1] / ours.ping[1],
        ),
    ] {
        writeln!(text, "{what:<28} {plain:>10.3} {ours:>10.3} {ratio:>7.2}×")?;
    }
    // Of the last run, its boot included.
    let sum = |table: &std::collections::BTreeMap<String, u64>| table.values().sum::<u64>() as f64;
    let frames = sum(&report.frames).max(1.0);
    let mib = (sum(&report.frame_bytes) / f64::from(1 << 20)).max(1.0);
    let sent = report.host_signals.get("sent").copied().unwrap_or(0) as f64;
    writeln!(
        text,
        "{:<28} {:>10} {:>10} {:>10}",
        "boot included", "", "per frame", "per MiB"
    )?;
    let mut line = |what: &str, count: f64| {
        writeln!(
            text,
            "  {what:<26} {count:>10} {:>10.3} {:>10.1}",
            count / frames,
            count / mib
        )
    };
    line("frames", frames)?;
    line("guest exits", sum(&report.guest_exits))?;
    for (kind, count) in &report.guest_exits {
        line(&format!("  {kind}"), *count as f64)?;
    }
    line("hypercalls", sum(&report.hypercalls))?;
    line("host signals", sent)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::ping;

    #[test]
    fn busybox_says_how_long_a_ping_took() {
        assert_eq!(ping("0.101/0.250/3.000 ms"), Some([0.101, 0.25]));
        assert_eq!(ping(""), None);
        assert_eq!(ping("0.1 ms"), None);
    }
}
