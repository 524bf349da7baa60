//! The audit for the person at the console.

use super::verdict::{Audit, Verdict};
use std::fmt::Write;

/// Bytes of a message that are shown at most.
const SHOWN: usize = 64;

/// Summary and messages.
pub fn text(audit: &Audit) -> String {
    let mut out = String::new();
    for verdict in &audit.messages {
        message(&mut out, verdict);
    }
    if !audit.messages.is_empty() {
        out.push('\n');
    }
    let seconds = audit.last_time.saturating_sub(audit.first_time) as f64 / 1e7;
    let _ = writeln!(
        out,
        "trace by {}: {} records, {} bytes, {seconds:.3} s",
        if audit.creator.is_empty() {
            "nobody"
        } else {
            &audit.creator
        },
        audit.records,
        audit.file_bytes
    );
    row(&mut out, "messages judged", list(audit.judged.iter()));
    if !audit.not_taken.is_empty() {
        row(
            &mut out,
            "not taken by the guest",
            list(audit.not_taken.iter()),
        );
    }
    if !audit.looked_at.is_empty() {
        row(&mut out, "also looked at", list(audit.looked_at.iter()));
    }
    row(&mut out, "rules broken", list(audit.violations.iter()));
    if audit.unheard > 0 {
        let why = format!("{} (after the paravisor gave up)", audit.unheard);
        row(&mut out, "not judged", why);
    }
    if audit.private_refused > 0 {
        row(
            &mut out,
            "private pages refused",
            audit.private_refused.to_string(),
        );
    }
    if audit.dropped > 0 {
        let lost = format!(
            "{}: the recorder had no room, verdicts may be wrong",
            audit.dropped
        );
        row(&mut out, "records missing", lost);
    }
    if let Some(broken) = &audit.broken {
        let _ = writeln!(out, "the trace is broken {broken}");
    }
    out
}

fn row(out: &mut String, name: &str, value: String) {
    let _ = writeln!(out, "  {name:24} {value}");
}

fn list<'a>(entries: impl Iterator<Item = (&'a &'static str, &'a u64)>) -> String {
    let words: Vec<String> = entries.map(|(name, n)| format!("{name} {n}")).collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

fn message(out: &mut String, v: &Verdict) {
    let verdict = match &v.finding {
        None => "accepted".to_owned(),
        Some(f) => format!(
            "{} {} at {}: {:#x} ({})",
            if v.accepted { "noted" } else { "REFUSED" },
            f.rule,
            f.offset,
            f.value,
            f.reaction
        ),
    };
    let _ = writeln!(
        out,
        "#{} {:.4} s {} channel {} {}: {verdict}",
        v.record,
        v.time as f64 / 1e7,
        v.layer,
        v.channel,
        v.what
    );
    let Some(finding) = &v.finding else { return };
    let _ = writeln!(out, "    {}", finding.statement);
    let at = finding.offset as usize;
    let width = finding.width(&v.bytes);
    let start = at.saturating_sub(SHOWN / 2) & !15;
    for (i, line) in v
        .bytes
        .get(start..)
        .unwrap_or_default()
        .chunks(16)
        .take(SHOWN / 16)
        .enumerate()
    {
        let base = start + 16 * i;
        let _ = write!(out, "    {base:04x} ");
        for (j, byte) in line.iter().enumerate() {
            let marked = (at..at + width).contains(&(base + j));
            let _ = match marked {
                true => write!(out, "[{byte:02x}]"),
                false => write!(out, " {byte:02x} "),
            };
        }
        out.push('\n');
    }
}
