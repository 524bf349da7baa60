//! `cargo xtask bench` without a word more: all parts that have an aim, in one run, one
//! after the other, and at the end the aims beside what was measured. A part that fails
//! does not keep the others from being measured.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::aims::{self, Aim, Bound};
use super::{count, net, speed};
use crate::nic::Nic;
use crate::size;

/// What `bench` takes.
#[derive(Args)]
pub struct AllArgs {
    /// Runs of each kind in the rig
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    number: u8,
    /// Files of 8 MiB that are timed in each of them, each way
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Seconds after which no more of them are begun
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
    seconds: u16,
    /// Leave this part out (repeatable)
    #[arg(long, value_enum, value_name = "PART")]
    without: Vec<Part>,
    /// Folder for tables, JSON and plots; default: bench in the target directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A part, in the order in which they are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Sizes of image and memory
    Size,
    /// Frames through the paravisor's code, in time
    Speed,
    /// The same in instructions
    Count,
    /// What judging a message costs
    Validate,
    /// A guest's network in the rig, with virtio
    Virtio,
    /// The same with e1000e
    E1000e,
}

/// What became of a part.
#[derive(Serialize)]
struct Done {
    part: Part,
    seconds: f64,
    error: Option<String>,
}

/// On what it was measured.
#[derive(Serialize)]
struct Machine {
    processor: String,
    threads: usize,
    /// Processes that ran or wanted to, as a mean of the last minute before the start.
    load: Option<f64>,
    rustc: String,
}

/// What a machine does beside the bench, at most, to be called quiet.
const QUIET: f64 = 0.5;

/// Everything that is kept at the end.
#[derive(Serialize)]
struct Summary {
    machine: Machine,
    seconds: f64,
    parts: Vec<Done>,
    aims: Vec<Aim>,
}

/// What the parts have measured.
#[derive(Default)]
struct Figures {
    size: Option<size::Size>,
    speed: Vec<speed::Row>,
    counted: Option<count::Counted>,
    cards: Vec<net::Card>,
}

/// Measures all that is not left out.
pub fn all(args: &AllArgs) -> Result<()> {
    let started = Instant::now();
    let folder = speed::folder(args.out.as_deref())?;
    let machine = machine()?;
    let parts: Vec<Part> = Part::value_variants()
        .iter()
        .copied()
        .filter(|part| !args.without.contains(part))
        .collect();
    println!("{}", machine.text());
    if machine.load.is_some_and(|load| load > QUIET) {
        println!("The machine is busy: what is timed will be slower than it could be.");
    }
    let mut figures = Figures::default();
    let mut done = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        println!("\n== {}/{}: {part:?}", at + 1, parts.len());
        let begun = Instant::now();
        let result = measure(*part, args, &folder, &mut figures);
        let error = result.err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            eprintln!("xtask: {part:?}: {error}");
        }
        done.push(Done {
            part: *part,
            seconds: begun.elapsed().as_secs_f64(),
            error,
        });
    }
    let summary = Summary {
        machine,
        seconds: started.elapsed().as_secs_f64(),
        parts: done,
        aims: figures.aims(),
    };
    let text = summary.text();
    println!("\n{text}");
    let file = folder.join("summary.txt");
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    crate::write_json(&folder.join("summary.json"), &summary)?;
    println!("everything is kept in {}", folder.display());
    let failed: Vec<String> = summary
        .parts
        .iter()
        .filter_map(|done| Some(format!("{:?}: {}", done.part, done.error.as_ref()?)))
        .collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(anyhow!("{}", failed.join("\n"))),
    }
}

fn measure(part: Part, args: &AllArgs, folder: &Path, figures: &mut Figures) -> Result<()> {
    let out = Some(folder.to_owned());
    match part {
        Part::Size => {
            let size = size::measure()?;
            let text = size.text();
            print!("{text}");
            std::fs::write(folder.join("size.txt"), text).context("cannot write size.txt")?;
            crate::write_json(&folder.join("size.json"), &size)?;
            figures.size = Some(size);
        }
        Part::Speed => {
            figures.speed = speed::speed(&speed::SpeedArgs {
                out,
                ..Default::default()
            })?;
        }
        Part::Count => {
            figures.counted = count::count(&count::CountArgs {
                out,
                ..Default::default()
            })?;
        }
        Part::Validate => {
            let mut table = String::new();
            super::validate(Some(&folder.join("validate.json")), |line| {
                if !table.is_empty() || line.starts_with("ns per message") {
                    table.push_str(line);
                    table.push('\n');
                }
            })?;
            std::fs::write(folder.join("validate.txt"), table)
                .context("cannot write validate.txt")?;
        }
        Part::Virtio | Part::E1000e => {
            let nic = if part == Part::Virtio {
                Nic::Virtio
            } else {
                Nic::E1000e
            };
            let cards = net::net(&net::NetArgs {
                number: args.number,
                rounds: args.rounds,
                seconds: args.seconds,
                nic: Some(nic),
                out,
                ..Default::default()
            })?;
            figures.cards.extend(cards);
        }
    }
    Ok(())
}

impl Figures {
    fn aims(&self) -> Vec<Aim> {
        let mut aims = Vec::new();
        let size = self.size.as_ref();
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        aims.extend([
            Aim::new(
                "image without guest payload, KiB",
                Bound::Most(512.0),
                size.map(|size| kib(size.image_bytes())),
            ),
            Aim::new(
                "private memory with one VP, KiB",
                Bound::Most(8192.0),
                size.map(|size| kib(size.private_bytes())),
            ),
        ]);
        let row = |name: &str| self.speed.iter().find(|row| row.path == name);
        let rate = |name: &str| row(name).map(|row| 1000.0 / row.ns);
        let of_copy = |name: &str| row(name).map(|row| row.memcpy_ns / row.ns);
        for (name, least) in [
            ("ring, 64 B, batch 1", 49.5),
            ("ring, 1536 B, batch 1", 22.5),
        ] {
            let what = format!("{name}: million/s");
            aims.push(Aim::new(what, Bound::Least(least), rate(name)));
        }
        for way in ["receive", "transmit"] {
            for (bytes, least) in [(1514, 0.5), (65536, 0.9)] {
                let name = format!("{way}, {bytes} B");
                let aim = Aim::new(
                    format!("{name}: of a copy"),
                    Bound::Least(least),
                    of_copy(&name),
                );
                let none = !self.speed.is_empty() && row(&name).is_none();
                aims.push(aim.note(if none { "no such frames" } else { "" }));
            }
        }
        let (one, many) = ("ring, 64 B, batch 16", "ring, 64 B, batch 16, 64 channels");
        let times = row(one).zip(row(many)).map(|(one, many)| many.ns / one.ns);
        let counted = self.counted.as_ref().map(|counted| &counted.paths);
        let instructions = counted.and_then(|paths| Some(paths.get(many)? / paths.get(one)?));
        aims.extend([
            Aim::new("64 channels against 1: time", Bound::Most(1.1), times),
            Aim::new(
                "64 channels against 1: instructions",
                Bound::Most(1.02),
                instructions,
            ),
            Aim::new(
                "paths that left the committed table",
                Bound::Most(0.0),
                self.counted
                    .as_ref()
                    .map(|counted| counted.differ.len() as f64),
            ),
        ]);
        for nic in [Nic::Virtio, Nic::E1000e] {
            let card = self.cards.iter().find(|card| card.nic == nic);
            aims.extend(net::aims(nic, card));
        }
        aims
    }
}

impl Machine {
    fn text(&self) -> String {
        let load = match self.load {
            Some(load) => format!(", load {load:.2} before the start"),
            None => String::new(),
        };
        format!(
            "{}, {} threads{load}; {}",
            self.processor, self.threads, self.rustc
        )
    }
}

impl Summary {
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.machine.text());
        text.push_str(&aims::table(&self.aims));
        // Writing into a string does not fail.
        for done in &self.parts {
            let error = done.error.as_deref().unwrap_or("done");
            let _ = writeln!(
                text,
                "{:<10} {:>6.0} s  {error}",
                format!("{:?}", done.part).to_lowercase(),
                done.seconds
            );
        }
        let _ = writeln!(
            text,
            "in all     {:>6.0} s, builds included; not part of it: `bench boot` (the way to a \
             guest's network), `soak`",
            self.seconds
        );
        text
    }
}

fn machine() -> Result<Machine> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = info
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map_or("a processor without a name", |(_, name)| name.trim());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(Machine {
        processor: processor.to_owned(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        load: load.split(' ').next().and_then(|load| load.parse().ok()),
        rustc: count::compiler()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_has_its_aims_all_the_same() {
        let nothing = Figures::default().aims();
        let mut some = Figures {
            speed: vec![speed::Row {
                path: "ring, 64 B, batch 1".to_owned(),
                ns: 20.0,
                memcpy_ns: 5.0,
            }],
            ..Figures::default()
        };
        let text = aims::table(&some.aims());
        assert!(text.contains("49.50         50  reached"), "{text}");
        assert!(text.contains("not measured (no such frames)"), "{text}");
        assert_eq!(nothing.len(), some.aims().len());
        some.speed[0].ns = 40.0;
        let text = aims::table(&some.aims());
        assert!(text.contains("49.50         25  not reached"), "{text}");
    }
}
