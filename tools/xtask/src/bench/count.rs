//! `cargo xtask bench count`: instructions a frame, which noise does not touch. Callgrind
//! counts what the bench of the data path executes natively, and the figures are held
//! against a committed table, so that a path that has become longer is seen.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{plot, speed};
use crate::process::Scratch;
use crate::ui::Step;
use crate::{firmware, paths, process};

/// What `bench count` takes.
#[derive(Args, Default)]
pub struct CountArgs {
    /// Only paths whose name contains this
    #[arg(conflicts_with = "write")]
    pub filter: Option<String>,
    /// Write the table anew in place of comparing
    #[arg(long)]
    pub write: bool,
    /// Folder for the profile; default: bench in the target directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What came out.
pub struct Counted {
    /// Instructions a frame, by path.
    pub paths: BTreeMap<String, f64>,
    /// What differs too much from the committed table.
    pub differ: Vec<String>,
}

/// The committed table.
#[derive(Serialize, Deserialize)]
struct Table {
    /// By how much a path may differ.
    percent: f64,
    /// The compiler that the figures are of.
    rustc: String,
    /// Instructions a frame.
    paths: BTreeMap<String, f64>,
}

/// What is said where there is no valgrind.
const MISSING: &str = "instructions are not counted: there is no valgrind (`apt install valgrind`)";
/// The function of the bench inside of which is counted.
const COUNTED: &str = "*collected*";
/// Calls of a path that are counted.
const CALLS: usize = 8;
/// Functions of a path that the profile names.
const FUNCTIONS: usize = 16;

/// One path, as callgrind has seen it.
struct Profile {
    /// Instructions a frame.
    each: f64,
    /// The same by function, what is inlined into it included.
    functions: Vec<(String, f64)>,
}

/// A path that has become longer is an error.
pub fn judge(counted: Option<Counted>) -> Result<()> {
    match counted {
        Some(counted) if !counted.differ.is_empty() => bail!(
            "too far from the table:\n  {}\nIf that is meant: `cargo xtask bench count --write`",
            counted.differ.join("\n  ")
        ),
        _ => Ok(()),
    }
}

/// Counts, prints, and compares or writes; `None` without valgrind.
pub fn count(args: &CountArgs) -> Result<Option<Counted>> {
    if process::on_path("valgrind").is_none() {
        println!("{MISSING}");
        return Ok(None);
    }
    let step = Step::new("building the bench");
    let bench = build()?;
    step.done("");
    let dir = Scratch::new()?;
    let mut counted = BTreeMap::new();
    let mut profile = String::new();
    for name in list(&bench)? {
        if args
            .filter
            .as_ref()
            .is_some_and(|part| !name.contains(part))
        {
            continue;
        }
        let step = Step::new(name.as_str());
        let path = run(&bench, &name, dir.path())?;
        step.done(&format!("{:.1}", path.each));
        writeln!(profile, "{name}: {:.1} instructions a frame", path.each)?;
        for (function, each) in path.functions.iter().take(FUNCTIONS) {
            writeln!(
                profile,
                "  {each:>9.1}  {:>4.1} %  {function}",
                100.0 * each / path.each
            )?;
        }
        profile.push('\n');
        counted.insert(name, (path.each * 10.0).round() / 10.0);
    }
    let folder = speed::folder(args.out.as_deref())?;
    let keep = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    keep("profile.txt", &profile)?;
    let committed = paths::root().join("tests/benches/instructions.toml");
    if args.write {
        write(&committed, counted.clone())?;
    }
    let text = std::fs::read_to_string(&committed)
        .with_context(|| format!("cannot read {}", committed.display()))?;
    let table: Table = toml::from_str(&text).context("the table of instructions is damaged")?;
    let (text, differ) = compare(&table, &counted, args.filter.is_none())?;
    print!("{text}");
    keep("count.txt", &text)?;
    crate::write_json(&folder.join("count.json"), &counted)?;
    let bars: Vec<_> = counted
        .iter()
        .map(|(name, now)| plot::Bar {
            name: name.clone(),
            values: [*now, table.paths.get(name).copied().unwrap_or_default()],
        })
        .collect();
    let names = ["now", "committed table"];
    plot::bars(
        &folder.join("count.svg"),
        "instructions a frame",
        names,
        &bars,
    )?;
    println!(
        "kept in {}: count.txt, count.json, count.svg, profile.txt (where they go)",
        folder.display()
    );
    Ok(Some(Counted {
        paths: counted,
        differ,
    }))
}

/// The compiler's name and version.
pub fn compiler() -> Result<String> {
    let said = process::output(
        Command::new("rustc")
            .arg("--version")
            .current_dir(paths::root()),
    )?;
    Ok(said.trim().to_owned())
}

fn write(file: &Path, paths: BTreeMap<String, f64>) -> Result<()> {
    let table = Table {
        percent: 2.0,
        rustc: compiler()?,
        paths,
    };
    let text = format!(
        "# Instructions a frame, made by `cargo xtask bench count --write`.\n{}",
        toml::to_string(&table)?
    );
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Both figures of each path, and those that differ too much.
fn compare(
    table: &Table,
    counted: &BTreeMap<String, f64>,
    all: bool,
) -> Result<(String, Vec<String>)> {
    let rustc = compiler()?;
    let same = rustc == table.rustc;
    let mut differ = Vec::new();
    let mut text = format!(
        "{:<34} {:>10} {:>10} {:>8}\n",
        "instructions a frame", "now", "table", ""
    );
    for (name, now) in counted {
        let Some(then) = table.paths.get(name) else {
            writeln!(text, "{name:<34} {now:>10.1}")?;
            differ.push(format!("{name} is not in the table"));
            continue;
        };
        let percent = 100.0 * (now - then) / then;
        writeln!(text, "{name:<34} {now:>10.1} {then:>10.1} {percent:>+7.1}%")?;
        if percent.abs() > table.percent {
            differ.push(format!("{name}: {then:.1} in the table, {now:.1} now"));
        }
    }
    if all {
        let gone = table
            .paths
            .keys()
            .filter(|name| !counted.contains_key(*name));
        differ.extend(gone.map(|name| format!("{name} is in the table only")));
    }
    if !same {
        writeln!(
            text,
            "the table is of another compiler ({}): nothing is said about differences",
            table.rustc
        )?;
        differ.clear();
    }
    Ok((text, differ))
}

/// Builds the bench; the program.
fn build() -> Result<PathBuf> {
    let mut command = firmware::cargo();
    command.args([
        "bench",
        "-p",
        "undercroft-benches",
        "--bench",
        "speed",
        "--no-run",
    ]);
    command.args(["--message-format", "json"]);
    let said = process::output(&mut command)?;
    said.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "speed")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo did not say where the bench is")
}

/// Names of all paths.
fn list(bench: &Path) -> Result<Vec<String>> {
    let said = process::output(Command::new(bench).env("UNDERCROFT_BENCH_COUNT", "list"))?;
    Ok(said.lines().map(str::to_owned).collect())
}

fn run(bench: &Path, name: &str, dir: &Path) -> Result<Profile> {
    let file = dir.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind"]);
    command.arg(format!("--toggle-collect={COUNTED}"));
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(bench);
    command.env("UNDERCROFT_BENCH_COUNT", format!("{name}:{CALLS}"));
    let frames = process::output(&mut command)?;
    let frames: f64 = frames
        .trim()
        .parse()
        .with_context(|| format!("the bench does not say how many frames: {frames}"))?;
    let said = process::output(
        Command::new("callgrind_annotate")
            .args(["--threshold=100", "--auto=no"])
            .arg(&file),
    )?;
    let (total, functions) = parse(&said).context("callgrind counted nothing")?;
    let mut functions: Vec<_> = functions
        .into_iter()
        .map(|(name, count)| (name, count as f64 / frames))
        .collect();
    functions.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(Profile {
        each: total as f64 / frames,
        functions,
    })
}

/// Total and count by function of what `callgrind_annotate` says. It has a line for each
/// source file from which something was inlined; they are one function here.
fn parse(said: &str) -> Option<(u64, BTreeMap<String, u64>)> {
    let mut total = None;
    let mut functions = BTreeMap::new();
    for line in said.lines() {
        let Some((count, rest)) = line.trim_start().split_once(" (") else {
            continue;
        };
        let Ok(count) = count.replace(',', "").parse::<u64>() else {
            continue;
        };
        let Some((_, place)) = rest.split_once(')') else {
            continue;
        };
        let place = place.trim();
        if place == "PROGRAM TOTALS" {
            total = Some(count);
            continue;
        }
        let place = place.split(" [").next().unwrap_or(place);
        // The name stands behind the file, from which one colon divides it.
        let name = place
            .match_indices(':')
            .find(|(at, _)| !place[at + 1..].starts_with(':') && !place[..*at].ends_with(':'))
            .map_or(place, |(at, _)| &place[at + 1..]);
        *functions.entry(name.to_owned()).or_default() += count;
    }
    Some((total.filter(|total| *total != 0)?, functions))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
--------------------------------------------------------------------------------
Ir
6,324,549 (100.0%)  PROGRAM TOTALS

442,383 ( 6.99%)  /a/raw.rs:<memory::raw::RawShared as memory::SharedMemory>::copy_out [/t/speed]
208,896 ( 3.30%)  /rustc/59/core/src/num.rs:<memory::raw::RawShared as memory::SharedMemory>::copy_out
 16 ( 0.00%)  ???:vmbus::channel::Channel<M>::receive [/t/speed]
";

    #[test]
    fn functions_are_added_up() {
        let (total, functions) = parse(SAID).unwrap();
        assert_eq!(total, 6_324_549);
        let copy = "<memory::raw::RawShared as memory::SharedMemory>::copy_out";
        assert_eq!(functions.get(copy), Some(&(442_383 + 208_896)));
        assert_eq!(
            functions.get("vmbus::channel::Channel<M>::receive"),
            Some(&16)
        );
        assert!(parse("nothing").is_none());
    }

    #[test]
    fn a_longer_path_is_named() {
        let table = |each| Table {
            percent: 2.0,
            rustc: compiler().unwrap(),
            paths: [("ring".to_owned(), each)].into(),
        };
        let now = BTreeMap::from([("ring".to_owned(), 101.0)]);
        let differ =
            |each, now: &BTreeMap<String, f64>, all| compare(&table(each), now, all).unwrap().1;
        assert!(differ(100.0, &now, true).is_empty());
        for wrong in [98.0, 104.0] {
            let counted = Counted {
                paths: now.clone(),
                differ: differ(wrong, &now, true),
            };
            let why = judge(Some(counted)).unwrap_err().to_string();
            assert!(why.contains("ring"), "{why}");
        }
        assert!(!differ(100.0, &BTreeMap::new(), true).is_empty());
        assert!(differ(100.0, &BTreeMap::new(), false).is_empty());
        assert!(judge(None).is_ok());
    }
}
