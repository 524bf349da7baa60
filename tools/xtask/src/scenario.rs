//! `cargo xtask run --scenario`: the rig's host plays scenarios against the real image
//! and a live guest, each in a machine of its own, some at a time.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use abi::record::{Outcome, SCENARIO_FILE, SCENARIO_LINE, SCENARIO_OVER};
use anyhow::{Context, Result, bail};
use hostkit::scenario::{self, Expect, Guest, Observed, Scenario};
use serde::Serialize;

use crate::firmware;
use crate::guest::Errand;
use crate::machine::{self, Boot, Extras, Ran};
use crate::nic::Nic;
use crate::plain::{Own, TestGuest};
use crate::report::Report;
use crate::run;
use crate::setup::{self, KernelVersion};
use crate::ui::Step;

/// How a scenario's file name ends.
const EXTENSION: &str = "scenario";

/// What to play.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A file, or a folder of them.
    pub path: PathBuf,
    /// Machines at a time.
    pub jobs: usize,
    /// Debian's kernel.
    pub version: KernelVersion,
    /// Memory of the VM in MiB.
    pub memory: u32,
    /// When to give a machine up.
    pub timeout: Duration,
    /// Where the trace of a single scenario goes.
    pub trace: Option<PathBuf>,
    /// Virtual processors.
    pub vps: u32,
    /// Words for the rig.
    pub rig_append: String,
    /// Whether the console of a single scenario is shown.
    pub show: bool,
}

/// What came of all of them.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    /// What the runs ran on.
    pub machine: &'static str,
    /// Whether each ended as it should.
    pub ok: bool,
    /// If not: why, in a sentence.
    pub error: Option<String>,
    /// Launch digest of the one image.
    pub digest: String,
    /// Machines at a time.
    pub jobs: usize,
    /// Seconds for all.
    pub seconds: f64,
    /// Those that were played, by name.
    pub played: Vec<Played>,
    /// Those that are not played here, and why.
    pub in_process_only: Vec<Left>,
}

/// A scenario that is played in process only.
#[derive(Debug, Serialize)]
pub struct Left {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// One scenario that was played.
#[derive(Debug, Serialize)]
pub struct Played {
    /// Its name: the file's without folder and ending.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Whether it ended as it should.
    pub ok: bool,
    /// What is not as it should be.
    pub wrong: Vec<String>,
    /// Rules that it expects; several on a line are a choice.
    pub expected: Vec<String>,
    /// Rules that the paravisor named.
    pub named: Vec<String>,
    /// The guest's state at the end.
    pub guest: &'static str,
    /// Whether the guest's kernel was alive and well at the end; `None` without a guest.
    pub alive: Option<bool>,
    /// How the run ended.
    pub outcome: String,
    /// Pieces that the guest fetched whole.
    pub fetches: u32,
    /// Seconds from the start of QEMU to its end.
    pub seconds: f64,
    /// Everything about the run.
    pub report: Report,
}

/// A file that was read.
struct Reading {
    name: String,
    file: PathBuf,
    scenario: Scenario,
}

/// Plays them; the table says what came of it, also when nothing good did.
pub fn play(plan: &Plan) -> Table {
    let mut table = Table {
        machine: crate::report::MACHINE,
        jobs: plan.jobs,
        ..Table::default()
    };
    let started = Instant::now();
    match all(plan, &mut table) {
        Ok(()) => table.ok = true,
        Err(error) => table.error = Some(format!("{error:#}")),
    }
    table.seconds = started.elapsed().as_secs_f64();
    table
}

fn all(plan: &Plan, table: &mut Table) -> Result<()> {
    let readings = read(&plan.path)?;
    let (left, readings): (Vec<_>, Vec<_>) = readings
        .into_iter()
        .partition(|reading| reading.scenario.in_process_only.is_some());
    table.in_process_only = left
        .into_iter()
        .map(|reading| Left {
            name: reading.name,
            why: reading.scenario.in_process_only.unwrap_or_default(),
        })
        .collect();
    let single = readings.len() == 1;
    if plan.trace.is_some() && !single {
        bail!("--trace goes with a single scenario");
    }
    if readings.is_empty() {
        let names: Vec<_> = table.in_process_only.iter().map(said).collect();
        bail!("there is no scenario to play: {}", names.join("; "));
    }

    let qemu = setup::qemu()?;
    let guest = TestGuest::new(
        plan.version,
        &Own::default(),
        Errand::Scenario,
        Nic::default(),
    )?;
    let built = firmware::build()?;
    // A build that goes on meanwhile changes nothing here.
    let rig = guest.dir().join("rig");
    std::fs::copy(&built.rig, &rig).context("cannot copy the rig")?;
    let image = guest.dir().join("guest.igvm");
    table.digest = run::make_image(&built, &guest, &image)?;
    let stage = Stage {
        plan,
        qemu,
        guest: &guest,
        rig,
        image,
        digest: &table.digest,
        show: plan.show && single,
    };

    let step = Step::new(format!("playing {} scenarios", readings.len()));
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let played = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.min(readings.len()) {
            scope.spawn(|| {
                while let Some(reading) = readings.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let one = stage.play(reading);
                    let done = done.fetch_add(1, Ordering::SeqCst) + 1;
                    step.line(&format!("  {}", row(&one)));
                    for wrong in &one.wrong {
                        step.line(&format!("      {wrong}"));
                    }
                    step.say(&format!("{done} of {}", readings.len()));
                    lock(&played).push(one);
                }
            });
        }
    });
    let mut played = played.into_inner().unwrap_or_else(|e| e.into_inner());
    played.sort_by(|a: &Played, b| a.name.cmp(&b.name));
    let bad: Vec<_> = played
        .iter()
        .filter(|one| !one.ok)
        .map(|one| one.name.clone())
        .collect();
    step.done(&format!("{} as they should", played.len() - bad.len()));
    table.played = played;
    if !bad.is_empty() {
        bail!("not as it should be: {}", bad.join(", "));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn said(left: &Left) -> String {
    format!("{} is played in process only ({})", left.name, left.why)
}

/// Reads a file or all of a folder; every mistake in any of them is told.
fn read(path: &Path) -> Result<Vec<Reading>> {
    let mut files = Vec::new();
    if path.is_dir() {
        let entries = std::fs::read_dir(path)
            .with_context(|| format!("cannot read the folder {}", path.display()))?;
        for entry in entries {
            let file = entry.context("cannot read the folder")?.path();
            if file.extension().is_some_and(|e| e == EXTENSION) {
                files.push(file);
            }
        }
        files.sort();
        if files.is_empty() {
            bail!("there is no file *.{EXTENSION} in {}", path.display());
        }
    } else {
        files.push(path.to_owned());
    }
    let mut mistakes = Vec::new();
    let mut readings = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let stem = file.file_stem().unwrap_or_default();
        let name = stem.to_string_lossy().into_owned();
        match scenario::parse(&text) {
            // The name goes through QEMU's options and DHCP.
            Ok(_) if !name.bytes().all(is_plain) || name.len() > 60 => mistakes.push(format!(
                "{}: the name may have 60 letters, digits and '-'",
                file.display()
            )),
            Ok(scenario) => readings.push(Reading {
                name,
                file,
                scenario,
            }),
            Err(error) => mistakes.push(format!("{}:{error}", file.display())),
        }
    }
    if !mistakes.is_empty() {
        bail!("{}", mistakes.join("\n"));
    }
    Ok(readings)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// What all machines share.
struct Stage<'a> {
    plan: &'a Plan,
    qemu: PathBuf,
    guest: &'a TestGuest,
    rig: PathBuf,
    image: PathBuf,
    digest: &'a str,
    show: bool,
}

impl Stage<'_> {
    fn play(&self, reading: &Reading) -> Played {
        let mut report = Report::new("paravisor");
        report.memory_mib = self.plan.memory;
        report.guest_kernel = self.guest.name.clone();
        report.guest_command_line = self.guest.append.clone();
        report.digest_tool = Some(self.digest.to_owned());
        let mut played = Played {
            name: reading.name.clone(),
            about: reading.scenario.about.clone(),
            ok: false,
            wrong: Vec::new(),
            expected: expected(&reading.scenario),
            named: Vec::new(),
            guest: Guest::Absent.name(),
            alive: None,
            outcome: String::new(),
            fetches: 0,
            seconds: 0.0,
            report,
        };
        match self.boot(reading) {
            Ok((ran, fetches)) => {
                played.fetches = fetches;
                judge(&mut played, reading, &ran);
            }
            Err(error) => played.wrong.push(format!("{error:#}")),
        }
        played.ok = played.wrong.is_empty();
        played.report.ok = played.ok;
        played.report.error = (!played.ok).then(|| played.wrong.join("; "));
        played
    }

    fn boot(&self, reading: &Reading) -> Result<(Ran, u32)> {
        let plan = self.plan;
        let server = self.guest.server.as_ref().context("no web server")?;
        let fetches = server.expect(&reading.name);
        let watched = fetches.clone();
        let mut append = format!(
            "memory={}M limit={} digest={} scenario",
            plan.memory,
            plan.timeout.as_secs(),
            self.digest
        );
        if plan.trace.is_some() {
            append.push_str(" trace");
        }
        if plan.vps > 1 {
            append = format!("{append} vps={}", plan.vps);
        }
        if !plan.rig_append.is_empty() {
            append = format!("{append} {}", plan.rig_append);
        }
        let ran = machine::boot(&Boot {
            qemu: self.qemu.clone(),
            kernel: self.rig.clone(),
            initrd: Some(self.image.clone()),
            append,
            memory: plan.memory + run::RIG_MEMORY,
            trace: plan.trace.clone(),
            rig: true,
            timeout: plan.timeout + run::GRACE,
            show: self.show,
            extras: Extras {
                files: vec![(SCENARIO_FILE, reading.file.clone())],
                boot_file: Some(reading.name.clone()),
                nic: Nic::default(),
                cpus: plan.vps,
                on_soak: None,
                on_mark: Some(Box::new(move |mark| {
                    if mark == SCENARIO_OVER {
                        watched.scenario_over();
                    }
                })),
            },
        })?;
        Ok((ran, fetches.whole()))
    }
}

/// What the run showed, against what the scenario and every run should show.
fn judge(played: &mut Played, reading: &Reading, ran: &Ran) {
    let report = &mut played.report;
    report.fill(ran, crate::http::Served::default());
    played.seconds = ran.seconds;
    played.outcome = report.outcome.clone();
    let mut named: Vec<String> = report.violations.keys().cloned().collect();
    named.extend(report.audit.iter().map(|entry| entry.rule.clone()));
    named.sort();
    named.dedup();
    played.named = named;

    let guest = state(report);
    played.guest = guest.name();
    let lines = report.counts.get("rig").and_then(|c| c.get(SCENARIO_LINE));
    let seen = Observed {
        rules: played.named.clone(),
        guest,
        outcome: report.outcome.clone(),
        private_refused: report.private_accesses_refused,
        happened: lines
            .into_iter()
            .flatten()
            .filter_map(|(line, times)| Some((line.parse().ok()?, *times)))
            .collect(),
    };
    let mut wrong: Vec<String> = scenario::judge(&reading.scenario, &seen)
        .into_iter()
        .map(|(line, what)| format!("{}:{line}: {what}", reading.file.display()))
        .collect();
    // What went wrong beyond the scenario: no end, or one that must never be.
    if ran.timed_out || ran.records.outcome.is_none() {
        let end = run::judge_end(ran);
        wrong.extend(end.err().map(|error| format!("{error:#}")));
    } else if !played.ok && fatal(&report.outcome) {
        wrong.push(format!("{} ({})", report.outcome, report.outcome_message));
    }
    let loaded = report.digest_rig.is_some() || !fatal(&report.outcome);
    if loaded && report.digest_rig != report.digest_tool {
        wrong.push("the image that was loaded is not the one that was measured".to_owned());
    }
    if guest != Guest::Absent {
        let story = &report.guest;
        let well = story.sees.get("kernel-warnings").is_some_and(|n| n == "0");
        let alive = story.end.is_some() && well;
        played.alive = Some(alive);
        if !alive {
            wrong.push("the guest's kernel was not alive and well at the end".to_owned());
        }
        wrong.extend(story.errors.iter().map(|e| format!("the guest said: {e}")));
    }
    played.wrong = wrong;
}

/// Outcomes that no host may bring about.
fn fatal(outcome: &str) -> bool {
    let never = [
        Outcome::Panic,
        Outcome::UnknownExit,
        Outcome::TripleFault,
        Outcome::VmKilled,
        Outcome::PrivateAccess,
        Outcome::RigFailure,
        Outcome::ImageRejected,
    ];
    never.iter().any(|one| one.name() == outcome)
}

/// How the guest stands at the end, by its own words and the paravisor's counters.
fn state(report: &Report) -> Guest {
    if report.guest.init.is_none() && !report.boot.contains_key("guest-start") {
        return Guest::Absent;
    }
    let works = report
        .guest
        .story
        .iter()
        .any(|(_, what)| what == "fetch ok enough");
    let counted = |name: &str| {
        let paravisor = report.counts.get("paravisor");
        let counter = paravisor.and_then(|c| c.get(name)?.get(""));
        counter.copied().unwrap_or(0)
    };
    let losses = report.guest.sees.get("link-losses");
    let losses = losses.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    match (works, counted("nic_restart") + losses) {
        (true, 0) => Guest::Up,
        (true, _) => Guest::Back,
        (false, _) => Guest::Lost,
    }
}

fn expected(scenario: &Scenario) -> Vec<String> {
    let rules = scenario
        .expect
        .iter()
        .filter_map(|(_, expect)| match expect {
            Expect::Rule(any) => Some(any.join(" or ")),
            _ => None,
        });
    rules.collect()
}

fn dash(text: String) -> String {
    if text.is_empty() {
        "—".to_owned()
    } else {
        text
    }
}

/// A line of the table.
fn row(one: &Played) -> String {
    format!(
        "{} {:<36} {:<16} {:<24} {:<10} {:<12} {:<6} {:>5.1}",
        if one.ok { "✓" } else { "✗" },
        one.name,
        dash(one.expected.join(", ")),
        dash(one.named.join(" ")),
        one.guest,
        one.outcome,
        match one.alive {
            Some(true) => "alive",
            Some(false) => "dead",
            None => "—",
        },
        one.seconds
    )
}

impl Table {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!(
            "{} {:<36} {:<16} {:<24} {:<10} {:<12} {:<6} {:>5}\n",
            " ", "scenario", "rules expected", "rules named", "link", "outcome", "guest", "s"
        );
        for one in &self.played {
            let _ = writeln!(out, "{}", row(one));
            for wrong in &one.wrong {
                let _ = writeln!(out, "      {wrong}");
            }
        }
        for left in &self.in_process_only {
            let _ = writeln!(out, "- {}", said(left));
        }
        let good = self.played.iter().filter(|one| one.ok).count();
        let _ = writeln!(
            out,
            "{good} of {} as they should be, {:.0} s with {} at a time, on {}",
            self.played.len(),
            self.seconds,
            self.jobs,
            self.machine
        );
        out
    }

    /// For `docs/scenarios.md`.
    pub fn markdown(&self) -> String {
        let mut out = String::from(
            "| scenario | rules expected | rules named | link | outcome | guest's kernel | s |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for one in &self.played {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {:.1} |",
                one.name,
                dash(one.expected.join(", ")),
                dash(one.named.join(" ")),
                if one.ok { one.guest } else { "NOT AS EXPECTED" },
                one.outcome,
                match one.alive {
                    Some(true) => "alive",
                    Some(false) => "dead",
                    None => "not started",
                },
                one.seconds
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(story: &[&str], restarts: u64, losses: &str) -> Report {
        let mut report = Report::new("paravisor");
        report.guest.init = Some(1.0);
        report.guest.story = story.iter().map(|s| (2.0, (*s).to_owned())).collect();
        let losses = ("link-losses".to_owned(), losses.to_owned());
        report.guest.sees.extend([losses]);
        let counts = report.counts.entry("paravisor".to_owned()).or_default();
        let restart = counts.entry("nic_restart".to_owned()).or_default();
        restart.insert(String::new(), restarts);
        report
    }

    #[test]
    fn the_guests_state_is_told_by_its_fetches_and_its_losses() {
        let good = ["link up", "fetch ok more", "fetch ok enough"];
        assert_eq!(state(&report(&good, 0, "0")), Guest::Up);
        assert_eq!(state(&report(&good, 1, "0")), Guest::Back);
        assert_eq!(state(&report(&good, 0, "2")), Guest::Back);
        assert_eq!(state(&report(&good[..2], 0, "0")), Guest::Lost);
        assert_eq!(state(&Report::new("paravisor")), Guest::Absent);
    }

    #[test]
    fn a_folder_is_read_whole_and_every_mistake_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert!(read(dir.path()).is_err());
        put("note.txt", "no scenario");
        let good = "about x\nwhen 1st signal do drop\nexpect guest up\n";
        put("b.scenario", good);
        put("a.scenario", good);
        let names = |dir: &Path| read(dir).map(|r| r.into_iter().map(|r| r.name).collect());
        let found: Result<Vec<String>> = names(dir.path());
        assert_eq!(found.unwrap(), ["a", "b"]);
        put(
            "c.scenario",
            "about x\nwhen 1st signal do jump\nexpect guest up\n",
        );
        put("d,e.scenario", good);
        let error = read(dir.path()).err().unwrap().to_string();
        assert!(error.contains("c.scenario:2:20:"), "{error}");
        assert!(error.contains("d,e.scenario: the name"), "{error}");
    }
}
