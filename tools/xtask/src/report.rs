//! What a run was and what came out: the summary for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use abi::record::Outcome;
use serde::Serialize;

use crate::guest::marks::Marks;
use crate::http::Served;
use crate::machine::Ran;
use crate::records::Audit;
use crate::soak::Verdict;
use crate::ui::bytes;

/// Said in every report: nothing here ran on SEV hardware.
pub const MACHINE: &str = "QEMU TCG (an emulator; no SEV hardware)";

/// The outcome of a run that ended before QEMU was there.
const NOT_STARTED: &str = "not-started";

type Table = BTreeMap<String, u64>;

/// Everything about one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What the run ran on.
    pub machine: &'static str,
    /// `paravisor`, `plain` or `enlightened`.
    pub mode: &'static str,
    /// Whether everything was as it should be.
    pub ok: bool,
    /// If not: why, in a sentence.
    pub error: Option<String>,
    /// One of `abi::record::Outcome`'s names; `not-started`, `timeout` or `unknown`.
    pub outcome: String,
    /// What its sender said about it.
    pub outcome_message: String,
    /// Faults that were asked for.
    pub faults: Vec<String>,
    /// The guest's kernel.
    pub guest_kernel: String,
    /// The guest's command line.
    pub guest_command_line: String,
    /// The VM's memory.
    pub memory_mib: u32,
    /// Launch digest by `undercroft measure`.
    pub digest_tool: Option<String>,
    /// Launch digest by the rig, computed while loading.
    pub digest_rig: Option<String>,
    /// Seconds from the start of QEMU to its end.
    pub seconds: f64,
    /// The guest's story; times in seconds from the start of QEMU.
    pub guest: Marks,
    /// What the web server saw.
    pub served: Served,
    /// How the guest fared under load, if it was.
    pub soak: Option<Verdict>,
    /// Seconds from the start of QEMU at which rig and paravisor passed a point.
    pub boot: BTreeMap<String, f64>,
    /// VMBus, NVSP and NIC: versions and address.
    pub texts: BTreeMap<String, String>,
    /// Frames from (`rx`) and to (`tx`) the host.
    pub frames: Table,
    /// The same in bytes.
    pub frame_bytes: Table,
    /// Guest exits by reason.
    pub guest_exits: Table,
    /// Hypercalls by code.
    pub hypercalls: Table,
    /// Signals to the host, `sent` and `needed`.
    pub host_signals: Table,
    /// Host messages judged, by layer.
    pub messages_judged: Table,
    /// Broken rules by id.
    pub violations: Table,
    /// The audit: how each of them was broken, when, and how often.
    pub audit: Vec<Audit>,
    /// Pages shared with the host at the end, by purpose.
    pub shared_pages: Table,
    /// Times the host's side was refused a private page (must be zero).
    pub private_accesses_refused: u64,
    /// Every counter as it was told, by sender.
    pub counts: BTreeMap<String, crate::records::Counters>,
    /// Log lines of rig and paravisor.
    pub log: Vec<String>,
    /// QEMU's exit status.
    pub qemu_status: Option<i32>,
}

impl Report {
    /// A report on nothing yet.
    pub fn new(mode: &'static str) -> Report {
        Report {
            machine: MACHINE,
            mode,
            outcome: NOT_STARTED.to_owned(),
            ..Report::default()
        }
    }

    /// Takes over what a run left.
    pub fn fill(&mut self, ran: &Ran, served: Served) {
        let records = &ran.records;
        self.seconds = ran.seconds;
        self.guest = ran.marks.clone();
        self.served = served;
        self.boot = records.marks.clone();
        self.texts = records.texts.clone();
        self.digest_rig = self
            .texts
            .remove("digest")
            .map(|hex| hex.to_ascii_lowercase());
        self.frames = records.counter("frame");
        self.frame_bytes = records.counter("frame_bytes");
        self.guest_exits = records.counter("guest_exit");
        self.hypercalls = records.counter("hypercall");
        self.host_signals = records.counter("host_signal");
        // The host is the one to know which signals it needed.
        let seen = records.counter("channel_signal_in");
        if let (Some(needed), Some(vain)) = (seen.get("needed"), seen.get("not-needed")) {
            self.host_signals.insert("needed".to_owned(), *needed);
            self.host_signals
                .entry("sent".to_owned())
                .or_insert(needed + vain);
        }
        self.messages_judged = records.counter("message_judged");
        self.violations = records.counter("violation");
        self.violations.retain(|_, times| *times > 0);
        // A run that ends before the guest starts tells its audit, but no counters.
        if self.violations.is_empty() {
            for entry in &records.audit {
                *self.violations.entry(entry.rule.clone()).or_default() += entry.times;
            }
        }
        self.audit = records.audit.clone();
        self.shared_pages = records.counter("shared_page");
        self.private_accesses_refused = records.count("private_access_refused", "");
        self.counts = records.counts.clone();
        self.log = records.log.clone();
        self.qemu_status = ran.status;
        (self.outcome, self.outcome_message) = match &records.outcome {
            Some(end) => (end.name.clone(), format!("{}: {}", end.from, end.msg)),
            None if self.mode == "plain" && ran.status == Some(0) => {
                (Outcome::PowerOff.name().to_owned(), String::new())
            }
            None if ran.timed_out => ("timeout".to_owned(), String::new()),
            None => ("unknown".to_owned(), ran.complaint.trim().to_owned()),
        };
    }

    /// Whether there was a run to report on.
    pub fn started(&self) -> bool {
        self.outcome != NOT_STARTED
    }

    /// What Linux's Hyper-V drivers said, where the guest has them.
    fn hyperv_lines(&self) -> Vec<String> {
        if self.mode != "enlightened" {
            return Vec::new();
        }
        let lines = self.guest.sees.iter();
        lines
            .filter(|(name, _)| name.starts_with("hyperv-"))
            .map(|(_, line)| line.clone())
            .collect()
    }

    /// The summary table.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            if !value.is_empty() {
                let _ = writeln!(out, "  {name:<24} {value}");
            }
        };
        row("machine", self.machine.to_owned());
        row("guest kernel", self.guest_kernel.clone());
        row(
            "outcome",
            format!("{} {}", self.outcome, bracketed(&self.outcome_message)),
        );
        row("seconds to init", seconds(self.guest.init));
        row("seconds to lease", seconds(self.guest.lease));
        row("seconds to file", seconds(self.guest.fetched));
        row("seconds to upload", seconds(self.guest.uploaded));
        row("seconds to end", format!("{:.2}", self.seconds));
        row("address", self.guest.address.clone().unwrap_or_default());
        row(
            "file",
            transfer(self.guest.fetch_ok, self.guest.fetch_seconds, "down"),
        );
        row(
            "upload",
            transfer(self.guest.upload_ok, self.guest.upload_seconds, "up"),
        );
        for line in self.hyperv_lines() {
            row("the driver says", line);
        }
        if self.mode == "enlightened" {
            row("hypercalls", counts(&self.hypercalls));
            row("guest exits", counts(&self.guest_exits));
        }
        if self.mode == "paravisor" {
            row(
                "digest by the tool",
                self.digest_tool.clone().unwrap_or_default(),
            );
            row(
                "digest by the rig",
                self.digest_rig.clone().unwrap_or_default(),
            );
            row("host", table(&self.texts));
            let kib = |key| bytes(self.frame_bytes.get(key).copied().unwrap_or_default());
            let frames = |key| self.frames.get(key).copied().unwrap_or_default();
            row(
                "frames to the guest",
                format!("{} ({})", frames("rx"), kib("rx")),
            );
            row(
                "frames from the guest",
                format!("{} ({})", frames("tx"), kib("tx")),
            );
            row("guest exits", counts(&self.guest_exits));
            row("hypercalls", counts(&self.hypercalls));
            row("host signals", table(&self.host_signals));
            row("host messages judged", counts(&self.messages_judged));
            row(
                "rules broken by the host",
                none_if_empty(table(&self.violations)),
            );
            for entry in self.audit.iter().take(AUDIT_SHOWN) {
                row("audit", audited(entry));
            }
            if self.audit.len() > AUDIT_SHOWN {
                let more = self.audit.len() - AUDIT_SHOWN;
                row("audit", format!("and {more} more (--report FILE has all)"));
            }
            row("shared pages at the end", counts(&self.shared_pages));
            row(
                "private pages refused",
                self.private_accesses_refused.to_string(),
            );
        }
        let sees: BTreeMap<_, _> = self
            .guest
            .sees
            .iter()
            .filter(|(name, _)| SHOWN.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        row("the guest sees", table(&sees));
        out
    }
}

/// What a reader wants to know of the guest's view; the rest is in the JSON.
const SHOWN: [&str; 4] = [
    "nic-driver",
    "hypervisor-detected",
    "vmbus-driver",
    "memory-encryption",
];

/// Audit records that the summary shows.
const AUDIT_SHOWN: usize = 12;

fn audited(entry: &Audit) -> String {
    let at = entry.time as f64 / 1e7;
    let channel = match entry.channel {
        Some(channel) => format!(" on channel {channel}"),
        None => String::new(),
    };
    format!(
        "{} {}×{channel}, first at {at:.3} s: {:#x} at offset {} ({})",
        entry.rule, entry.times, entry.value, entry.offset, entry.reaction
    )
}

fn seconds(at: Option<f64>) -> String {
    at.map(|at| format!("{at:.2}")).unwrap_or_default()
}

fn bracketed(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("({text})")
    }
}

fn none_if_empty(text: String) -> String {
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}

fn transfer(ok: Option<bool>, took: Option<f64>, way: &str) -> String {
    match (ok, took) {
        (Some(true), Some(took)) => {
            let rate = crate::http::FILE_SIZE as f64 / (1 << 20) as f64 / took.max(0.01);
            format!("8 MiB {way} in {took:.2} s ({rate:.1} MiB/s by the guest's clock), sum right")
        }
        (Some(false), _) => "sum WRONG".to_owned(),
        _ => String::new(),
    }
}

fn table<V: std::fmt::Display>(table: &BTreeMap<String, V>) -> String {
    table
        .iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn counts(table: &Table) -> String {
    let total: u64 = table.values().sum();
    let mut rows: Vec<_> = table.iter().collect();
    rows.sort_by_key(|(_, value)| std::cmp::Reverse(**value));
    if rows.is_empty() {
        return String::new();
    }
    let parts: Vec<_> = rows
        .iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    format!("{total} ({})", parts.join(", "))
}
