//! Whether a guest under load fared as it should: contents, frames, memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::blocks::{BLOCK, STEPS};
use super::hops::{self, Hop, Reader, Values};
use super::told::{Moment, Told};
use crate::nic::Nic;
use crate::records::Counters;
use crate::ui::bytes;

/// Seconds of load after which memory must not grow any more. A run that is shorter
/// than twice this is judged from its first beat on.
const WARM: u64 = 60;
/// Longest time in which no 64 KiB come through, each way: a direction that takes longer
/// stands still. An emulated machine that shares its processor needs some seconds.
const STANDSTILL: Duration = Duration::from_secs(60);
/// What the guest's kernel may use more than at the first look, in KiB: its caches and
/// queues come and go with the load. One lost buffer for each frame would be a hundred
/// times as much in a minute.
const GUEST_SLACK: u64 = 16 << 10;
/// What is as it was after [`WARM`] seconds, to the byte and to the page.
const FLAT: [&str; 2] = ["heap_used.", "heap_peak."];
const FLAT_PAGES: &str = "shared_page.";

/// All that was seen.
pub struct Evidence<'a> {
    /// The guest's card.
    pub nic: Nic,
    /// Virtual processors.
    pub vps: u32,
    /// What the guest said.
    pub told: &'a Told,
    /// Sums of the turns of the block.
    pub sums: &'a [String],
    /// What the server made of each block that came.
    pub came: &'a BTreeMap<u32, Option<String>>,
    /// How steady each direction was: to the guest, and from it.
    pub pauses: [Duration; 2],
    /// The rig's counters under load, with seconds since the start of QEMU.
    pub beats: &'a [(f64, Counters)],
    /// The rig's counters at the end.
    pub host: &'a Counters,
    /// The paravisor's at the end.
    pub paravisor: &'a Counters,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// Seconds of load by the guest's clock.
    pub seconds: u64,
    /// Blocks of 2 MiB that the guest fetched with the right sum.
    pub blocks_down: u64,
    /// Blocks that the server got right.
    pub blocks_up: u64,
    /// Longest time in seconds without 64 KiB to the guest, and from it.
    pub pauses: [f64; 2],
    /// Pings sent and answered.
    pub pings: (u64, u64),
    /// Frames at each hop, at the end.
    pub hops: Vec<Hop>,
    /// The guest's and the paravisor's counters under load.
    pub beats: Vec<Moment>,
    /// The same at rest after it.
    pub end: Moment,
    /// What is not as it should be.
    pub wrong: Vec<String>,
}

/// `name.key` for each.
pub fn flat(counters: &Counters) -> Values {
    let rows = counters.iter().flat_map(|(name, keys)| {
        keys.iter()
            .map(move |(key, n)| (format!("{name}.{key}"), *n))
    });
    rows.collect()
}

/// Judges.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let told = evidence.told;
    let mut verdict = Verdict {
        pauses: evidence.pauses.map(|pause| pause.as_secs_f64()),
        pings: told.ping.unwrap_or_default(),
        beats: told.beats.clone(),
        end: told.end.clone().unwrap_or_default(),
        ..Verdict::default()
    };
    verdict.seconds = verdict.end.seconds;
    contents(evidence, &mut verdict);
    if told.end.is_none() {
        verdict
            .wrong
            .push("the guest told no counters at rest".to_owned());
        return verdict;
    }
    if told.beats.is_empty() {
        verdict
            .wrong
            .push("the guest told no counters under load".to_owned());
    }
    frames(evidence, &mut verdict);
    under_load(evidence, &mut verdict);
    memory(&mut verdict);
    verdict
}

fn contents(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let told = evidence.told;
    for (number, sum) in &told.downs {
        match evidence.sums.get(*number as usize % STEPS) {
            Some(right) if right == sum => verdict.blocks_down += 1,
            _ => verdict.wrong.push(format!(
                "block {number} to the guest came with a wrong sum ({sum})"
            )),
        }
    }
    for (number, answer) in &told.ups {
        match evidence.came.get(number) {
            Some(None) if answer == "ok" => verdict.blocks_up += 1,
            Some(None) => verdict.wrong.push(format!(
                "block {number} from the guest was right, and the guest heard {answer:?}"
            )),
            Some(Some(wrong)) => verdict
                .wrong
                .push(format!("block {number} from the guest: {wrong}")),
            None => verdict
                .wrong
                .push(format!("block {number} from the guest never came")),
        }
    }
    for (what, seen, said) in [
        ("fetched", told.downs.len(), told.downs_in_all),
        ("sent", told.ups.len(), told.ups_in_all),
    ] {
        if said != u32::try_from(seen).ok() || seen == 0 {
            verdict.wrong.push(match said {
                Some(said) => format!("the guest told of {seen} blocks of {said} that it {what}"),
                None => format!("the guest never came to the end of the blocks that it {what}"),
            });
        }
    }
    match told.ping {
        Some((sent, back)) if sent == back && sent != 0 => {}
        Some((sent, back)) => verdict
            .wrong
            .push(format!("of {sent} pings {back} came back")),
        None => verdict.wrong.push("the guest told of no pings".to_owned()),
    }
}

/// Nothing is lost without a count, at any hop.
fn frames(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let (host, paravisor) = (flat(evidence.host), flat(evidence.paravisor));
    let mut host = Reader::new("the rig", &host);
    let mut paravisor = Reader::new("the paravisor", &paravisor);
    let mut moment = Reader::new("the guest", &verdict.end.values);
    let parts = [
        hops::in_host(&mut host),
        hops::across_the_rings(&mut paravisor, &mut host),
        hops::in_paravisor(&mut paravisor),
        hops::in_guest(evidence.nic, &mut moment, &mut host),
    ];
    for name in ["rx_errors", "tx_errors", "tx_dropped"] {
        let count = moment.get(&format!("after.{name}"));
        if count != 0 {
            verdict
                .wrong
                .push(format!("the guest's kernel counts {count} {name}"));
        }
    }
    // Segments that were joined have one header.
    let given = host.get("frame_bytes.rx");
    let given = given.saturating_sub(host.get("offload.bytes-saved"));
    if paravisor.get("frame_bytes.rx") != given {
        verdict.wrong.push(format!(
            "the host gave {} bytes, the paravisor took {}",
            given,
            paravisor.get("frame_bytes.rx")
        ));
    }
    for (name, what) in [
        ("netvsc.tx_errors", "answers of the host with an error"),
        ("nic_restart.", "restarts of the NIC"),
        ("device.nic_broken", "stops of the device"),
        ("record_lost.", "records that were lost"),
        ("rules_broken.", "rules that an honest host broke"),
    ] {
        let count = paravisor.get(name);
        if count != 0 {
            verdict.wrong.push(format!("{what}: {count}"));
        }
    }
    let kinds = evidence.host.get("guest_error").into_iter().flatten();
    let errors: Vec<_> = kinds.map(|(kind, n)| format!("{kind} {n}")).collect();
    if !errors.is_empty() {
        verdict
            .wrong
            .push(format!("the host found faults: {}", errors.join(", ")));
    }
    let missing = [host.missing, paravisor.missing, moment.missing].concat();
    let mut all: Vec<Hop> = parts.concat();
    verdict.wrong.extend(missing);
    verdict.wrong.extend(all.iter().filter_map(Hop::wrong));
    // In the order in which a frame takes them.
    let order = [
        "card of the rig →",
        "host, joined → rings",
        "rings →",
        "netvsc → relay",
        "relay → device",
        "device → guest",
        "guest's",
        "device → relay",
        "relay → netvsc",
        "netvsc → messages",
        "messages",
        "host → card",
    ];
    all.sort_by_key(|hop| order.iter().position(|begin| hop.name.starts_with(begin)));
    verdict.hops = all;
}

/// Both directions moved all the time, and every part's own accounts were right.
fn under_load(evidence: &Evidence<'_>, verdict: &mut Verdict) {
    let mut wrong = Vec::new();
    for (what, pause) in ["to", "from"].into_iter().zip(evidence.pauses) {
        if pause > STANDSTILL {
            wrong.push(format!(
                "for {:.0} s nothing came through {what} the guest",
                pause.as_secs_f64()
            ));
        }
    }
    // With several VPs frames go on while the counters are read.
    let exact = evidence.vps == 1;
    for beat in verdict.beats.iter().filter(|_| exact) {
        let mut reader = Reader::new("the paravisor", &beat.values);
        let hops = hops::in_paravisor(&mut reader);
        let found = hops.iter().filter_map(Hop::wrong).chain(reader.missing);
        wrong.extend(found.map(|what| format!("after {} s of load, {what}", beat.seconds)));
    }
    for (seconds, counters) in evidence.beats {
        let values = flat(counters);
        let mut reader = Reader::new("the rig", &values);
        let hops = hops::in_host(&mut reader);
        let found = hops.iter().filter_map(Hop::wrong).chain(reader.missing);
        wrong.extend(found.map(|what| format!("{seconds:.0} s after the start, {what}")));
    }
    if evidence.beats.is_empty() {
        wrong.push("the rig told no counters under load".to_owned());
    }
    verdict.wrong.extend(wrong);
}

/// The beat from which on memory must stay as it is.
fn base(beats: &[Moment], seconds: u64) -> Option<&Moment> {
    let from = if seconds >= 2 * WARM { WARM } else { 0 };
    beats.iter().find(|beat| beat.seconds >= from)
}

fn memory(verdict: &mut Verdict) {
    let Some(first) = base(&verdict.beats, verdict.seconds) else {
        return;
    };
    let mut wrong = Vec::new();
    let later = verdict.beats.iter().chain([&verdict.end]);
    for moment in later.filter(|moment| moment.seconds > first.seconds) {
        let mut names: Vec<&str> = FLAT.to_vec();
        let pages = first.values.keys().chain(moment.values.keys());
        names.extend(
            pages
                .filter(|n| n.starts_with(FLAT_PAGES))
                .map(String::as_str),
        );
        names.sort();
        names.dedup();
        for name in names {
            let values = [first, moment].map(|at| at.values.get(name).copied());
            if let [Some(was), Some(is)] = values
                && was == is
            {
                continue;
            }
            let [was, is] =
                values.map(|value| value.map_or("nothing".to_owned(), |n| n.to_string()));
            wrong.push(format!(
                "the paravisor's {} was {was} after {} s of load and {is} after {} s",
                name.trim_end_matches('.'),
                first.seconds,
                moment.seconds
            ));
        }
        let (was, is) = (guest_used(first), guest_used(moment));
        if is > was + GUEST_SLACK {
            wrong.push(format!(
                "the guest used {was} KiB after {} s of load and {is} KiB after {} s",
                first.seconds, moment.seconds
            ));
        }
    }
    verdict.wrong.extend(wrong);
}

/// KiB that the guest could not use for something else.
pub fn guest_used(moment: &Moment) -> u64 {
    moment
        .get("memory.MemTotal")
        .saturating_sub(moment.get("memory.MemAvailable"))
}

/// Counted losses of the paravisor and its devices.
pub fn lost(moment: &Moment) -> u64 {
    let lost = moment.values.iter().filter(|(name, _)| {
        let ours = ["relay.", "device.", "netvsc."]
            .iter()
            .any(|p| name.starts_with(p));
        ours && ["dropped", "refused", "not_ready"]
            .iter()
            .any(|w| name.contains(w))
    });
    lost.map(|(_, n)| n).sum()
}

impl Verdict {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let rate = |blocks: u64| {
            let mib = (blocks * BLOCK as u64) as f64 / (1 << 20) as f64;
            format!(
                "{blocks} blocks of 2 MiB, all right; {:.1} MiB/s",
                mib / self.seconds.max(1) as f64
            )
        };
        let _ = writeln!(out, "  {:<24} {} s", "under load", self.seconds);
        let _ = writeln!(out, "  {:<24} {}", "to the guest", rate(self.blocks_down));
        let _ = writeln!(out, "  {:<24} {}", "from the guest", rate(self.blocks_up));
        let (sent, back) = self.pings;
        let _ = writeln!(out, "  {:<24} {back} of {sent}", "pings answered");
        let [down, up] = self.pauses;
        let _ = writeln!(
            out,
            "  {:<24} {down:.1} s to the guest, {up:.1} s from it",
            "longest without 64 KiB"
        );
        let (first, end) = (base(&self.beats, self.seconds), &self.end);
        if let Some(first) = first {
            for (name, key) in [
                ("heap in use", "heap_used."),
                ("heap at most", "heap_peak."),
            ] {
                let _ = writeln!(
                    out,
                    "  {name:<24} {} bytes after {} s, {} at the end",
                    first.get(key),
                    first.seconds,
                    end.get(key)
                );
            }
            let pages = |moment: &Moment| -> u64 {
                let pages = moment.values.iter();
                pages
                    .filter(|(n, _)| n.starts_with(FLAT_PAGES))
                    .map(|(_, n)| n)
                    .sum()
            };
            let _ = writeln!(
                out,
                "  {:<24} {} after {} s, {} at the end",
                "shared pages",
                pages(first),
                first.seconds,
                pages(end)
            );
            let _ = writeln!(
                out,
                "  {:<24} {} KiB after {} s, {} KiB at the end",
                "memory of the guest",
                guest_used(first),
                first.seconds,
                guest_used(end)
            );
        }
        let mut way = "";
        for hop in &self.hops {
            if way != hop.way {
                way = hop.way;
                let _ = writeln!(
                    out,
                    "\n  {way:<30} {:>12} {:>12} {:>8} {:>8} {:>11}",
                    "given", "taken", "dropped", "waiting", "unaccounted"
                );
            }
            let lost: u64 = hop.lost.values().sum();
            let _ = writeln!(
                out,
                "  {:<30} {:>12} {:>12} {lost:>8} {:>8} {:>11}",
                hop.name,
                hop.given,
                hop.taken,
                hop.waiting,
                hop.unaccounted()
            );
            for (reason, n) in &hop.lost {
                let _ = writeln!(out, "    {n} by {reason}");
            }
        }
        out
    }
}

/// A beat in a line.
pub fn beat_line(beat: &Moment, before: Option<&Moment>) -> String {
    let way = |name: &str| {
        let all = beat.get(name);
        let (old, since) = before.map_or((0, 0), |b| (b.get(name), b.seconds));
        let rate = all.saturating_sub(old) / beat.seconds.saturating_sub(since).max(1);
        format!("{} ({}/s)", bytes(all), bytes(rate))
    };
    format!(
        "{:>2}:{:02}  down {}  up {}  dropped {}  heap {}  guest {}",
        beat.seconds / 60,
        beat.seconds % 60,
        way("after.rx_bytes"),
        way("after.tx_bytes"),
        lost(beat),
        beat.get("heap_used."),
        bytes(guest_used(beat) << 10),
    )
}
