//! `cargo xtask bench net`: what the guest's network does above the paravisor, beside
//! QEMU's own network cards given to the same guest, by turns on the same machine.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::aims::{Aim, Bound};
use super::{plot, speed};
use crate::http::FILE_SIZE;
use crate::nic::Nic;
use crate::plain::Own;
use crate::report::Report;
use crate::run::{self, Plan};
use crate::setup::KernelVersion;
use crate::soak::told::Moment;

/// What `bench net` takes.
#[derive(Args)]
pub struct NetArgs {
    /// Runs of each kind
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub number: u8,
    /// Files of 8 MiB that are timed, each way
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rounds: u8,
    /// Seconds after which no more of them are begun
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub seconds: u16,
    /// Only this card; default: each that there is
    #[arg(long, value_enum)]
    pub nic: Option<Nic>,
    /// Debian's kernel to use
    #[arg(long, value_enum, default_value = "6.1")]
    pub kernel_version: KernelVersion,
    /// Folder for table, JSON and plot; default: bench in the target directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl Default for NetArgs {
    fn default() -> NetArgs {
        NetArgs {
            number: 2,
            rounds: 8,
            seconds: 10,
            nic: None,
            kernel_version: KernelVersion::V6_1,
            out: None,
        }
    }
}

/// One card: the best of QEMU's own, the best above the paravisor, and what the
/// paravisor counted in its last run.
pub struct Card {
    /// Which.
    pub nic: Nic,
    plain: Figures,
    ours: Figures,
    work: Vec<Work>,
    /// Signals that the host had no need of, and hypercalls that are none, in the whole run.
    unneeded: u64,
    other_calls: u64,
}

/// What one run has shown.
#[derive(Clone, Debug)]
struct Figures {
    /// MiB/s to the guest and from it.
    down: f64,
    up: f64,
    /// ms there and back: least and mean.
    ping: [f64; 2],
}

impl Figures {
    fn best(self, other: &Figures) -> Figures {
        Figures {
            down: self.down.max(other.down),
            up: self.up.max(other.up),
            ping: [0, 1].map(|n| self.ping[n].min(other.ping[n])),
        }
    }

    /// What they are called, and how much of `plain` they are.
    fn beside(&self, plain: &Figures) -> [(&'static str, f64, f64, f64); 4] {
        [
            (
                "MiB/s to the guest",
                plain.down,
                self.down,
                self.down / plain.down,
            ),
            (
                "MiB/s from the guest",
                plain.up,
                self.up,
                self.up / plain.up,
            ),
            (
                "ping, least ms",
                plain.ping[0],
                self.ping[0],
                plain.ping[0] / self.ping[0],
            ),
            (
                "ping, mean ms",
                plain.ping[1],
                self.ping[1],
                plain.ping[1] / self.ping[1],
            ),
        ]
    }
}

/// What was done while something was measured.
struct Work {
    what: &'static str,
    frames: f64,
    exits: f64,
    /// The most frequent of them.
    kinds: [f64; KINDS.len()],
    /// Those to registers, which are nested page faults, by what they are for.
    registers: [f64; REGISTERS.len()],
    signals: f64,
}

/// Exits that a frame may lead to.
const KINDS: [&str; 5] = ["npf", "intr", "hlt", "ioio", "msr"];
/// What registers are for.
const REGISTERS: [&str; 4] = ["interrupt-end", "timer", "card", "other"];
/// What the guest measures, between its questions for the paravisor's counters.
const MEASURED: [&str; 3] = ["to the guest", "from the guest", "ping"];

/// Runs by turns and prints the best of each kind: other work on the machine can only
/// make a run slower.
pub fn net(args: &NetArgs) -> Result<Vec<Card>> {
    let folder = speed::folder(args.out.as_deref())?;
    let nics = args
        .nic
        .map_or(vec![Nic::Virtio, Nic::E1000e], |nic| vec![nic]);
    nics.into_iter()
        .map(|nic| card(args, nic, &folder))
        .collect()
}

fn card(args: &NetArgs, nic: Nic, folder: &Path) -> Result<Card> {
    let mut best: [Option<Figures>; 2] = [None, None];
    let mut reports = Vec::new();
    for turn in 1..=args.number {
        for plain in [true, false] {
            let report = run::run(&plan(args, nic, plain));
            if let Some(error) = &report.error {
                bail!("run {turn} ({}, {}): {error}", nic.name(), report.mode);
            }
            let now = figures(&report)?;
            eprintln!(
                "  {turn}/{} {:<7} {:<9} {:.1} MiB/s down, {:.1} up ({:.0} s)",
                args.number,
                nic.name(),
                report.mode,
                now.down,
                now.up,
                report.seconds
            );
            let kept = &mut best[usize::from(!plain)];
            *kept = Some(match kept.take() {
                None => now,
                Some(then) => then.best(&now),
            });
            reports.push(report);
        }
    }
    let ([Some(plain), Some(ours)], Some(last)) = (best, reports.last()) else {
        bail!("nothing was run");
    };
    let sum = |table: &std::collections::BTreeMap<String, u64>| table.values().sum::<u64>();
    let signals = |key: &str| last.host_signals.get(key).copied().unwrap_or(0);
    let card = Card {
        nic,
        plain,
        ours,
        work: work(last)?,
        unneeded: signals("sent").saturating_sub(signals("needed")),
        other_calls: sum(&last.hypercalls).saturating_sub(signals("sent")),
    };
    let text = card.text(args, last)?;
    print!("{text}");
    let name = |kind: &str| folder.join(format!("net-{}.{kind}", nic.name()));
    std::fs::write(name("txt"), text).context("cannot write the table")?;
    crate::write_json(&name("json"), &reports)?;
    let names = ["above the paravisor", "QEMU's own"];
    let bars: Vec<_> = card.ours.beside(&card.plain)[..2]
        .iter()
        .map(|(what, plain, ours, _)| plot::Bar {
            name: format!("{}, {what}", nic.name()),
            values: [*ours, *plain],
        })
        .collect();
    plot::bars(&name("svg"), "MiB/s", names, &bars)?;
    println!(
        "kept in {}: net-{}.txt, .json, .svg",
        folder.display(),
        nic.name()
    );
    Ok(card)
}

fn plan(args: &NetArgs, nic: Nic, plain: bool) -> Plan {
    let counters = if plain { "" } else { " uc.counters" };
    // Both ways, the last file of each begun in time; a slow one takes minutes.
    let longest = 900 + 2 * u64::from(args.seconds);
    Plan {
        own: Own {
            append: Some(format!(
                "uc.rounds={} uc.seconds={}{counters}",
                args.rounds, args.seconds
            )),
            ..Own::default()
        },
        version: args.kernel_version,
        nic,
        plain,
        show: false,
        timeout: Duration::from_secs(longest),
        ..Plan::default()
    }
}

fn said<'a>(report: &'a Report, name: &str) -> Result<&'a str> {
    let value = report.guest.sees.get(name).map(String::as_str);
    value.with_context(|| format!("the guest did not say {name}"))
}

fn figures(report: &Report) -> Result<Figures> {
    Ok(Figures {
        down: rate(said(report, "bench-fetch")?).context("no download was timed")?,
        up: rate(said(report, "bench-upload")?).context("no upload was timed")?,
        ping: ping(said(report, "bench-ping")?).context("ping was not answered")?,
    })
}

/// MiB/s of "files seconds".
fn rate(said: &str) -> Option<f64> {
    let (files, seconds) = said.split_once(' ')?;
    let (files, seconds): (f64, f64) = (files.parse().ok()?, seconds.parse().ok()?);
    (files > 0.0 && seconds > 0.0).then(|| files * (FILE_SIZE >> 20) as f64 / seconds)
}

/// Least and mean of "0.1/0.2/0.3 ms".
fn ping(said: &str) -> Option<[f64; 2]> {
    let mut parts = said.strip_suffix(" ms")?.split('/');
    Some([parts.next()?.parse().ok()?, parts.next()?.parse().ok()?])
}

/// What the paravisor did meanwhile. The guest asks for the counters five times: the
/// second time at once after the first, which shows what asking costs.
fn work(report: &Report) -> Result<Vec<Work>> {
    let mut moments = Vec::new();
    for number in 0..MEASURED.len() + 2 {
        moments.push(Moment::parse(said(
            report,
            &format!("bench-counters-{number}"),
        )?));
    }
    let difference = |after: &Moment, before: &Moment, name: &str| {
        after.get(name) as f64 - before.get(name) as f64
    };
    let [first, second, ..] = &moments[..] else {
        bail!("the guest did not ask for counters");
    };
    let all = |moment: &Moment| -> f64 {
        let exits = moment.values.iter();
        exits
            .filter(|(name, _)| name.starts_with("guest_exit."))
            .map(|(_, count)| *count as f64)
            .sum()
    };
    let mut done = Vec::new();
    for (what, pair) in MEASURED.iter().zip(moments.windows(2).skip(1)) {
        let [before, after] = pair else { continue };
        let of = |name: &str| {
            (difference(after, before, name) - difference(second, first, name)).max(0.0)
        };
        let frames = difference(after, before, "frame.rx") + difference(after, before, "frame.tx");
        done.push(Work {
            what,
            frames: frames.max(1.0),
            exits: ((all(after) - all(before)) - (all(second) - all(first))).max(0.0),
            kinds: KINDS.map(|kind| of(&format!("guest_exit.{kind}"))),
            registers: REGISTERS.map(|name| of(&format!("guest_register.{name}"))),
            signals: of("host_signal.sent"),
        });
    }
    Ok(done)
}

impl Card {
    fn text(&self, args: &NetArgs, report: &Report) -> Result<String> {
        let mut text = format!(
            "{} on {}\nTCP each way, files of {} MiB, {} of them or as many as begin within {} s, \
             best of {} runs\n\n{:<28} {:>10} {:>10} {:>8}\n",
            report.guest_kernel,
            report.machine,
            FILE_SIZE >> 20,
            args.rounds,
            args.seconds,
            args.number,
            self.nic.name(),
            "QEMU's own",
            "paravisor",
            "ratio"
        );
        for (what, plain, ours, ratio) in self.ours.beside(&self.plain) {
            writeln!(text, "{what:<28} {plain:>10.3} {ours:>10.3} {ratio:>7.2}×")?;
        }
        write!(text, "{:<28}", "above the paravisor")?;
        for work in &self.work {
            write!(text, " {:>14}", work.what)?;
        }
        writeln!(text)?;
        let mut row = |name: &str, figure: &dyn Fn(&Work) -> f64, digits: usize| {
            let cells = self.work.iter();
            let cells: Vec<_> = cells
                .map(|work| format!("{:>14.digits$}", figure(work)))
                .collect();
            writeln!(text, "{name:<28} {}", cells.join(" "))
        };
        row("frames", &|work| work.frames, 0)?;
        row("guest exits a frame", &|work| work.exits / work.frames, 3)?;
        for (at, kind) in KINDS.iter().enumerate() {
            row(
                &format!("  {kind}"),
                &|work| work.kinds[at] / work.frames,
                3,
            )?;
            for (at, name) in REGISTERS.iter().enumerate().filter(|_| *kind == "npf") {
                row(
                    &format!("    {name}"),
                    &|work| work.registers[at] / work.frames,
                    3,
                )?;
            }
        }
        row(
            "host signals a frame",
            &|work| work.signals / work.frames,
            3,
        )?;
        writeln!(
            text,
            "in the whole run, boot included: {} hypercalls that are no signals, {} signals that \
             the host did not need",
            self.other_calls, self.unneeded
        )?;
        Ok(text)
    }
}

/// What is aimed at with `nic`; `None` if it was not measured.
pub fn aims(nic: Nic, card: Option<&Card>) -> Vec<Aim> {
    let name = nic.name();
    let mut aims = Vec::new();
    for (what, ratio) in [
        (
            "TCP to the guest",
            card.map(|card| card.ours.down / card.plain.down),
        ),
        (
            "TCP from the guest",
            card.map(|card| card.ours.up / card.plain.up),
        ),
        (
            "ping",
            card.map(|card| card.plain.ping[0] / card.ours.ping[0]),
        ),
    ] {
        let what = format!("{name}, {what}: of QEMU's own");
        aims.push(Aim::new(what, Bound::Least(1.0), ratio));
    }
    for (at, way) in MEASURED.iter().take(2).enumerate() {
        let work = card.and_then(|card| card.work.get(at));
        let exits = work.map(|work| work.exits / work.frames);
        let signals = work.map(|work| work.signals / work.frames);
        aims.push(Aim::new(
            format!("{name}, exits a frame {way}"),
            Bound::Most(0.05),
            exits,
        ));
        // While frames flow, there are no other hypercalls.
        aims.push(Aim::new(
            format!("{name}, hypercalls a frame {way}"),
            Bound::Most(0.02),
            signals,
        ));
    }
    aims.push(Aim::new(
        format!("{name}, signals that the host did not need"),
        Bound::Most(0.0),
        card.map(|card| card.unneeded as f64),
    ));
    aims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busybox_says_how_long_a_ping_took() {
        assert_eq!(ping("0.101/0.250/3.000 ms"), Some([0.101, 0.25]));
        assert_eq!(ping(""), None);
        assert_eq!(ping("0.1 ms"), None);
    }

    #[test]
    fn the_guest_says_how_many_files_took_how_long() {
        assert_eq!(rate("4 2.00"), Some(16.0));
        assert_eq!(rate("0 2.00"), None);
        assert_eq!(rate("2.00"), None);
    }

    #[test]
    fn what_asking_costs_is_no_work_of_frames() {
        let mut report = Report::new("paravisor");
        for (number, (exits, frames)) in [(10, 0), (15, 0), (120, 100), (130, 100), (145, 110)]
            .into_iter()
            .enumerate()
        {
            report.guest.sees.insert(
                format!("bench-counters-{number}"),
                format!(
                    "guest_exit.npf={exits} guest_exit.rare=1 guest_register.card={exits} \
                     frame.rx={frames} frame.tx=0 host_signal.sent={frames}"
                ),
            );
        }
        let work = work(&report).unwrap();
        let seen: Vec<_> = work
            .iter()
            .map(|work| {
                (
                    work.what,
                    work.frames,
                    work.exits,
                    work.kinds[0],
                    work.registers[2],
                    work.signals,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("to the guest", 100.0, 100.0, 100.0, 100.0, 100.0),
                ("from the guest", 1.0, 5.0, 5.0, 5.0, 0.0),
                ("ping", 10.0, 10.0, 10.0, 10.0, 10.0),
            ]
        );
        report.guest.sees.remove("bench-counters-3");
        assert!(super::work(&report).is_err());
    }
}
