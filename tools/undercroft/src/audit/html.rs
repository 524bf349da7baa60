//! The audit as one page: no script, nothing from elsewhere.

use super::verdict::{Audit, Verdict};
use std::fmt::Write;
use validate::{Layer, Rule};

/// Messages that are shown with their bytes.
const SHOWN: usize = 1000;
/// Bytes of a message that are shown.
const BYTES: usize = 512;
/// Steps of the timeline.
const STEPS: usize = 120;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8885;--bad:#c0262d;--soft:#8882}\
@media(prefers-color-scheme:dark){:root{--bad:#ff7b72}}\
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem}\
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}\
.wide{overflow-x:auto}table{border-collapse:collapse}\
td,th{text-align:left;vertical-align:top;padding:.25rem 1rem .25rem 0;border-bottom:1px solid var(--line)}\
td.n{text-align:right}svg{width:100%;height:auto}\
pre{background:var(--soft);padding:.6rem;overflow-x:auto;font-size:.85rem;line-height:1.4}\
mark{background:var(--bad);color:Canvas}.bad{color:var(--bad);font-weight:600}\
article{border-top:1px solid var(--line);padding:.6rem 0}article p,article h3{margin:.2rem 0}\
.ends{display:flex;justify-content:space-between;margin:0}h3{font-size:1rem}td:first-child{white-space:nowrap}dt{font-weight:600}dd{margin:0 0 .4rem}a{color:inherit}";

/// The page. `name` is the trace's.
pub fn html(audit: &Audit, name: &str) -> String {
    let mut out = String::new();
    let name = escaped(name);
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>\
         <title>Audit of {name}</title><style>{STYLE}</style></head><body>\n\
         <h1>Audit of {name}</h1>\n"
    );
    summary(&mut out, audit);
    timeline(&mut out, audit);
    rules(&mut out, audit);
    messages(&mut out, audit);
    out.push_str("</body></html>\n");
    out
}

fn summary(out: &mut String, audit: &Audit) {
    let verdict = match (&audit.broken, audit.dropped, audit.violations.is_empty()) {
        (Some(broken), _, _) => format!("The trace is broken {broken}."),
        (None, 1.., _) => format!(
            "{} records are missing; verdicts may be wrong.",
            audit.dropped
        ),
        (None, 0, true) => "Every message of the host kept every rule.".to_owned(),
        (None, 0, false) => format!(
            "Rules broken: {}. Times in all: {}.",
            audit.violations.len(),
            audit.violations.values().sum::<u64>()
        ),
    };
    let class = if audit.is_clean() { "good" } else { "bad" };
    let seconds = audit.last_time.saturating_sub(audit.first_time) as f64 / 1e7;
    let _ = writeln!(
        out,
        "<p class=\"{class}\">{}</p><p>Trace by {}: {} records, {} bytes, {seconds:.4} s. \
         Accesses to private pages that were refused: {}.</p>",
        escaped(&verdict),
        escaped(&audit.creator),
        audit.records,
        audit.file_bytes,
        audit.private_refused
    );
    out.push_str("<h2>Messages judged</h2><div class=\"wide\"><table><tr><th>layer</th><th>messages</th><th>not taken by the guest</th></tr>");
    for layer in Layer::ALL {
        if let Some(n) = audit.judged.get(layer.name()) {
            let left = audit.not_taken.get(layer.name()).copied().unwrap_or(0);
            let _ = write!(
                out,
                "<tr><td>{}</td><td class=\"n\">{n}</td><td class=\"n\">{left}</td></tr>",
                layer.name()
            );
        }
    }
    out.push_str("</table></div>\n");
    if !audit.looked_at.is_empty() {
        let looked = audit
            .looked_at
            .iter()
            .map(|(what, n)| format!("{what} {n}"));
        let _ = writeln!(
            out,
            "<p>Also looked at: {}.</p>",
            escaped(&looked.collect::<Vec<_>>().join(", "))
        );
    }
    if audit.unheard > 0 {
        let _ = writeln!(
            out,
            "<p>Not judged, because the paravisor had given up the channel or the connection: {}.</p>",
            audit.unheard
        );
    }
}

/// Messages over time as bars, broken rules as marks above them.
fn timeline(out: &mut String, audit: &Audit) {
    let span = audit.last_time.saturating_sub(audit.first_time).max(1);
    let mut bars = [(0_u64, false); STEPS];
    for (time, _, violated) in &audit.timeline {
        let at = u128::from(time.saturating_sub(audit.first_time)) * STEPS as u128;
        let at = (at / u128::from(span)) as usize;
        let bar = &mut bars[at.min(STEPS - 1)];
        bar.0 += 1;
        bar.1 |= violated;
    }
    let most = bars.iter().map(|(n, _)| *n).max().unwrap_or(0).max(1);
    let _ = write!(
        out,
        "<h2>Timeline</h2><svg viewBox=\"0 0 {} 132\" role=\"img\" aria-label=\"messages over time\">",
        STEPS * 6
    );
    for (i, (n, violated)) in bars.iter().enumerate() {
        let x = i * 6;
        if *n > 0 {
            let height = (*n as f64 / most as f64 * 100.0).max(1.0);
            let _ = write!(
                out,
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"5\" height=\"{height:.1}\" fill=\"currentColor\" opacity=\".55\"/>",
                130.0 - height
            );
        }
        if *violated {
            let _ = write!(
                out,
                "<circle cx=\"{}\" cy=\"15\" r=\"4\" fill=\"var(--bad)\"/>",
                x + 3
            );
        }
    }
    let _ = writeln!(
        out,
        "<line x1=\"0\" y1=\"131\" x2=\"{}\" y2=\"131\" stroke=\"var(--line)\"/></svg>\
         <p class=\"ends\"><span>0 s</span><span>{:.4} s</span></p>\
         <p>Bars: messages, {most} at most in a step of {:.4} s. Dots: a rule was broken.</p>",
        STEPS * 6,
        span as f64 / 1e7,
        span as f64 / 1e7 / STEPS as f64
    );
}

fn rules(out: &mut String, audit: &Audit) {
    if audit.violations.is_empty() {
        return;
    }
    out.push_str("<h2>Rules broken</h2><div class=\"wide\"><table><tr><th>rule</th><th>times</th><th>what must hold</th><th>reaction</th></tr>");
    let known = |id: &str| Rule::declarations().find(|d| d.rule.id() == id);
    for (id, n) in &audit.violations {
        let (statement, reaction) =
            known(id).map_or(("", ""), |d| (d.statement, d.rule.reaction().name()));
        let _ = write!(
            out,
            "<tr><td><a href=\"#{id}\">{id}</a></td><td class=\"n\">{n}</td><td>{}</td><td>{reaction}</td></tr>",
            escaped(statement)
        );
    }
    out.push_str("</table></div>\n");
    for id in audit.violations.keys() {
        let Some(d) = known(id) else { continue };
        let _ = writeln!(
            out,
            "<section id=\"{id}\"><h3>{id}: {}</h3><dl><dt>What goes wrong without it</dt><dd>{}</dd><dt>What a malicious host sends</dt><dd>{}</dd>\
             <dt>Source</dt><dd>{}</dd></dl></section>",
            escaped(d.statement),
            escaped(d.danger),
            escaped(d.example),
            escaped(d.source)
        );
    }
}

fn messages(out: &mut String, audit: &Audit) {
    let shown: Vec<&Verdict> = audit
        .messages
        .iter()
        .filter(|m| m.finding.is_some())
        .collect();
    if shown.is_empty() {
        return;
    }
    out.push_str("<h2>Messages that broke a rule</h2>\n");
    if shown.len() > SHOWN {
        let _ = writeln!(out, "<p>The first {SHOWN} of {}.</p>", shown.len());
    }
    for m in shown.into_iter().take(SHOWN) {
        let Some(f) = &m.finding else { continue };
        let _ = write!(
            out,
            "<article><h3><a href=\"#{0}\">{0}</a> in {1}</h3><p>{2:.4} s, record {3} at byte {4} of the trace, \
             layer {5}, channel {6}. Offset {7}: value {8:#x}. {9} (reaction: {10}).</p><pre>",
            f.rule,
            escaped(&m.what),
            m.time as f64 / 1e7,
            m.record,
            m.file_offset,
            m.layer,
            m.channel,
            f.offset,
            f.value,
            if m.accepted {
                "Counted only"
            } else {
                "Refused"
            },
            f.reaction
        );
        let at = f.offset as usize;
        let end = at + f.width(&m.bytes);
        for (i, line) in m.bytes.chunks(16).take(BYTES / 16).enumerate() {
            let _ = write!(out, "{:04x} ", 16 * i);
            for (j, byte) in line.iter().enumerate() {
                let _ = match (at..end).contains(&(16 * i + j)) {
                    true => write!(out, " <mark>{byte:02x}</mark>"),
                    false => write!(out, " {byte:02x}"),
                };
            }
            out.push('\n');
        }
        if m.bytes.len() > BYTES {
            let _ = writeln!(out, "… {} bytes in all", m.bytes.len());
        }
        out.push_str("</pre></article>\n");
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
