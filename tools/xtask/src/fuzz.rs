//! `cargo xtask fuzz`: builds the libFuzzer programs of `tests/fuzz/libfuzzer` with
//! nightly and runs them. The flags are cargo-fuzz's own; the tool itself is not
//! needed. Corpora, logs and crashes are kept in `target/fuzz`. `cargo xtask test` has
//! a look of seconds at each, with a program that is quicker to build.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::process::{self, Guarded, Scratch};
use crate::ui::Step;
use crate::{paths, write_json};

/// What `cargo fuzz build --sanitizer none` gives to rustc: the code is safe Rust,
/// and without address sanitizer it runs twice as fast.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0";
/// Longest input that is tried.
const MAX_LEN: &str = "-max_len=2048";
/// Most seeds of a target that come from fuzzing.
const MAX_SEEDS: usize = 48;
/// How long `cargo xtask test` fuzzes each target. The build takes most of the time, and
/// what is found in seconds is mostly found in the first.
const SHORT_SECONDS: u64 = 3;
/// The program that holds all targets, and what tells it which one to be.
const ALL: &str = "all";
const CHOICE: &str = "UNDERCROFT_FUZZ_TARGET";

/// What `fuzz` takes.
#[derive(Args)]
pub struct FuzzArgs {
    /// One target; default: all, one after the other
    target: Option<String>,
    /// Minutes for each target
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,
    /// Make the inputs that reach most of the code the committed seeds
    #[arg(long)]
    update_seeds: bool,
    /// A look of seconds at each target, as in `cargo xtask test`
    #[arg(long, conflicts_with_all = ["target", "minutes", "update_seeds", "report"])]
    short: bool,
    /// Write the table to this file too; default: target/fuzz/report.json
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// What came out of one target.
#[derive(Serialize)]
struct Row {
    target: String,
    executions: u64,
    per_second: u64,
    /// How long it ran, and how much of a processor it had meanwhile (0: unknown).
    seconds: u64,
    cpu_seconds: f64,
    /// Edges reached, and libFuzzer's features (edges by how often, comparisons).
    edges: u64,
    features: u64,
    new_corpus: u64,
    crashes: Vec<PathBuf>,
}

fn folder() -> PathBuf {
    paths::target().join("fuzz")
}

fn sources() -> PathBuf {
    paths::root().join("tests/fuzz")
}

/// Why nothing can be fuzzed here.
fn missing() -> Option<&'static str> {
    let Ok(version) = process::output(&mut nightly("rustc", &["--version"])) else {
        return Some("no nightly toolchain: `rustup toolchain install nightly --profile minimal`");
    };
    if minor(&version) < minor(concat!("rustc ", env!("CARGO_PKG_RUST_VERSION"))) {
        return Some("the nightly toolchain is too old: `rustup update nightly`");
    }
    if process::on_path("c++").is_none() {
        return Some("no C++ compiler for libFuzzer: `apt install g++`");
    }
    None
}

/// The second number of `rustc 1.95.0-nightly (…)`.
fn minor(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(1)?;
    number.split(['.', '-']).nth(1)?.parse().ok()
}

/// A program of the nightly toolchain.
pub fn nightly(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]).args(args);
    // What the cargo that runs us has set is for the pinned toolchain.
    for name in [
        "RUSTUP_TOOLCHAIN",
        "CARGO",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        command.env_remove(name);
    }
    command
}

/// Names of the targets: the programs.
fn targets() -> Result<Vec<String>> {
    let programs = sources().join("libfuzzer/fuzz_targets");
    let entries =
        fs::read_dir(&programs).with_context(|| format!("cannot read {}", programs.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// How programs are built: the folder is named after it too.
#[derive(Clone, Copy)]
enum Profile {
    /// Quick to run.
    Release,
    /// Quick to build.
    Quick,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Quick => "quick",
        }
    }
}

/// Builds programs; the folder that they are in.
fn build(names: &[&str], profile: Profile) -> Result<PathBuf> {
    let version = process::output(&mut nightly("rustc", &["-vV"]))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not say which machine it builds for")?
        .to_owned();
    let step = Step::new("building the fuzz targets");
    let mut command = nightly("cargo", &["build", "--target", &host]);
    command.args(["--profile", profile.name()]);
    command.args(names.iter().flat_map(|name| ["--bin", name]));
    command.arg("--manifest-path");
    command.arg(sources().join("libfuzzer/Cargo.toml"));
    command.env("CARGO_TARGET_DIR", folder().join("build"));
    command.env("RUSTFLAGS", RUSTFLAGS);
    process::output(&mut command)?;
    step.done("");
    Ok(folder().join("build").join(host).join(profile.name()))
}

/// A target as it is run.
#[derive(Clone, Copy)]
struct Subject<'a> {
    target: &'a str,
    /// The folder of the program, and its name.
    programs: &'a Path,
    program: &'a str,
    /// Where libFuzzer keeps what it finds.
    corpus: &'a Path,
}

impl Subject<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.programs.join(self.program));
        if self.program == ALL {
            command.env(CHOICE, self.target);
        }
        command
    }

    /// The command that plays one input, for people.
    fn again(&self, input: &Path) -> String {
        let program = self.programs.join(self.program);
        let choice = if self.program == ALL {
            format!("{CHOICE}={} ", self.target)
        } else {
            String::new()
        };
        format!("{choice}{} {}", program.display(), input.display())
    }
}

/// Fuzzes one target for `seconds`; `say` hears how it is going.
fn run(subject: Subject, seconds: u64, say: impl Fn(&str)) -> Result<Row> {
    let target = subject.target;
    let corpus = subject.corpus;
    let crashes = folder().join("crashes").join(target);
    let log = folder().join(format!("{target}.log"));
    fs::create_dir_all(corpus)?;
    fs::create_dir_all(&crashes)?;
    let before = files(&crashes);
    let seeds = sources().join("seeds").join(target);
    let mut command = subject.command();
    command.arg(corpus);
    command.args(seeds.is_dir().then_some(&seeds));
    command.args([MAX_LEN, "-timeout=20", "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    let err = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(err);
    let begun = Instant::now();
    let child = Guarded::spawn(&mut command)?;
    let id = child.with(|child| child.id());
    let mut cpu = 0.0;
    let status = loop {
        cpu = process::cpu_seconds(id).unwrap_or(cpu);
        if let Some(status) = child.poll()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(if seconds < 10 { 50 } else { 500 }));
        let said = fs::read(&log).unwrap_or_default();
        if let Some(line) = String::from_utf8_lossy(&said)
            .lines()
            .rfind(|line| line.contains(" ft: "))
        {
            say(line);
        }
    };
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let mut row = parse(target, &said);
    (row.seconds, row.cpu_seconds) = (begun.elapsed().as_secs(), cpu);
    row.crashes = files(&crashes).difference(&before).cloned().collect();
    if row.crashes.is_empty() && !status.success() {
        bail!(
            "{target} ended with {status}: {}",
            process::last_lines(&said, 6)
        );
    }
    for crash in &mut row.crashes {
        explain(subject, crash, &said);
    }
    Ok(row)
}

/// Makes a crash small and says how to see it again.
fn explain(subject: Subject, crash: &mut PathBuf, said: &str) {
    if let Some(at) = said.find("panicked at") {
        let reason: Vec<&str> = said[at..].lines().take(2).collect();
        println!("{}: {}", subject.target, reason.join(" "));
    }
    let small = crash.with_extension("min");
    let mut command = subject.command();
    command.args(["-minimize_crash=1", "-max_total_time=20"]);
    command.arg(format!("-exact_artifact_path={}", small.display()));
    command.arg(&*crash);
    // It may be as small as can be already.
    let _ = process::output(&mut command);
    if small.is_file() {
        *crash = small;
    }
    println!("  again: {}", subject.again(crash));
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// Reads libFuzzer's last words.
fn parse(target: &str, said: &str) -> Row {
    let stat = |name: &str| {
        said.lines()
            .rfind(|line| line.starts_with(name))
            .and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0)
    };
    let status = said
        .lines()
        .rfind(|line| line.contains(" ft: "))
        .unwrap_or("");
    let field = |name: &str| {
        let mut words = status.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    Row {
        target: target.to_owned(),
        executions: stat("stat::number_of_executed_units"),
        per_second: stat("stat::average_exec_per_sec"),
        seconds: 0,
        cpu_seconds: 0.0,
        edges: field("cov:"),
        features: field("ft:"),
        new_corpus: stat("stat::new_units_added"),
        crashes: Vec::new(),
    }
}

/// Replaces the seeds that fuzzing found (named by their hash) by a small set that
/// reaches the same code.
fn update_seeds(programs: &Path, target: &str) -> Result<()> {
    let seeds = sources().join("seeds").join(target);
    let merged = folder().join("merged").join(target);
    let _ = fs::remove_dir_all(&merged);
    fs::create_dir_all(&merged)?;
    let mut command = Command::new(programs.join(target));
    command.args(["-set_cover_merge=1", "-max_len=512"]);
    command.args([&merged, &seeds, &folder().join("corpus").join(target)]);
    process::output(&mut command)?;
    let by_hash = |file: &Path| {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    for file in files(&seeds).iter().filter(|file| by_hash(file)) {
        fs::remove_file(file)?;
    }
    for file in files(&merged).iter().take(MAX_SEEDS) {
        fs::copy(file, seeds.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<10} {:>12} {:>8} {:>6} {:>6} {:>7} {:>9} {:>7} {:>7}\n",
        "target", "executions", "per s", "s", "cpu s", "edges", "features", "new", "crashes"
    );
    for row in rows {
        text += &format!(
            "{:<10} {:>12} {:>8} {:>6} {:>6.1} {:>7} {:>9} {:>7} {:>7}\n",
            row.target,
            row.executions,
            row.per_second,
            row.seconds,
            row.cpu_seconds,
            row.edges,
            row.features,
            row.new_corpus,
            row.crashes.len()
        );
    }
    text
}

/// The command.
pub fn fuzz(args: &FuzzArgs) -> Result<()> {
    if let Some(why) = missing() {
        bail!("{why}");
    }
    if args.short {
        return short();
    }
    let mut names = targets()?;
    if let Some(wanted) = &args.target {
        if !names.contains(wanted) {
            bail!("no target {wanted}; there are {}", names.join(", "));
        }
        names = vec![wanted.clone()];
    }
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let programs = build(&wanted, Profile::Release)?;
    let seconds = (args.minutes * 60.0).max(1.0) as u64;
    let report = args
        .report
        .clone()
        .unwrap_or_else(|| folder().join("report.json"));
    let mut rows = Vec::new();
    for name in &names {
        let step = Step::new(format!("{name}, {seconds} s"));
        let subject = Subject {
            target: name,
            programs: &programs,
            program: name,
            corpus: &folder().join("corpus").join(name),
        };
        let row = run(subject, seconds, |line| step.say(line))?;
        step.done(&format!(
            "{} executions, {} crashes",
            row.executions,
            row.crashes.len()
        ));
        rows.push(row);
        // Whoever ends a long run early keeps what was measured.
        write_json(&report, &rows)?;
        if args.update_seeds {
            update_seeds(&programs, name)?;
        }
    }
    outcome(&rows)
}

/// Shows what came out; fails if there were crashes.
fn outcome(rows: &[Row]) -> Result<()> {
    println!("\n{}", table(rows));
    if rows.iter().any(|row| !row.crashes.is_empty()) {
        bail!("crashes are in {}", folder().join("crashes").display());
    }
    Ok(())
}

/// A short look at every target, for `cargo xtask test`: from the committed seeds alone, on
/// all processors. Without the tools it says so and is content: the seeds have been
/// replayed by `cargo test`.
pub fn short() -> Result<()> {
    if let Some(why) = missing() {
        println!("fuzzing left out: {why}");
        return Ok(());
    }
    let programs = build(&[ALL], Profile::Quick)?;
    let names = targets()?;
    let corpora = Scratch::new()?;
    let step = Step::new(format!(
        "fuzzing {} targets for {SHORT_SECONDS} s each",
        names.len()
    ));
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || -> Result<()> {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let subject = Subject {
                target: name,
                programs: &programs,
                program: ALL,
                corpus: &corpora.path().join(name),
            };
            let row = run(subject, SHORT_SECONDS, |_| step.say(name))?;
            rows.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(row);
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        started.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by(|a, b| a.target.cmp(&b.target));
    step.done("");
    outcome(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_read() {
        let said = "#5\tNEW    cov: 10 ft: 20 corp: 1/1b\n#9\tDONE   cov: 1013 ft: 4707 corp: 7/1Kb\n\
            stat::number_of_executed_units: 178498\nstat::average_exec_per_sec:     13730\n\
            stat::new_units_added:          1036\n";
        let row = parse("ring", said);
        assert_eq!((row.edges, row.features), (1013, 4707));
        assert_eq!(
            (row.executions, row.per_second, row.new_corpus),
            (178_498, 13_730, 1036)
        );
        assert!(table(&[row]).contains("178498"));
    }

    #[test]
    fn versions_of_the_compiler_are_compared() {
        assert_eq!(minor("rustc 1.97.0-nightly (abc 2026-05-01)"), Some(97));
        assert_eq!(minor("rustc 1.95"), Some(95));
        assert!(minor("nothing") < minor("rustc 1.1.0"));
    }

    #[test]
    fn every_program_is_a_target() {
        assert!(targets().unwrap().contains(&"client".to_owned()));
    }
}
