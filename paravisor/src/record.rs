//! Lines of the record channel (see `abi::record`), and how many of them a
//! neighbour can cause.

use crate::audit::Entry;
use abi::record::MAX_LINE;
use core::fmt::{self, Write};

/// One line, cut at [`MAX_LINE`] but always closed.
pub struct Line {
    bytes: [u8; MAX_LINE],
    len: usize,
}

/// Room that is kept for `"}`.
const TAIL: usize = 2;

impl Line {
    fn new(kind: &str) -> Line {
        let mut line = Line {
            bytes: [0; MAX_LINE],
            len: 0,
        };
        line.raw("{\"from\":\"paravisor\",\"kind\":\"");
        line.raw(kind);
        line.raw("\"");
        line
    }

    fn push(&mut self, byte: u8, limit: usize) {
        if self.len < limit
            && let Some(slot) = self.bytes.get_mut(self.len)
        {
            *slot = byte;
            self.len = self.len.wrapping_add(1);
        }
    }

    fn raw(&mut self, text: &str) {
        for byte in text.bytes() {
            self.push(byte, MAX_LINE);
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.raw(",\"");
        self.raw(name);
        self.raw("\":");
        // Writing to a line cannot fail.
        let _ = write!(Raw(self), "{value}");
    }

    /// A string member: printable ASCII without quote and backslash, the rest
    /// as `?`; cut so that the line can be closed.
    fn text(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.raw(",\"");
        self.raw(name);
        self.raw("\":\"");
        let _ = Escaped(self).write_fmt(value);
        self.raw("\"");
    }

    fn close(mut self) -> Line {
        // A line that was cut inside of a string still ends as JSON.
        self.push(b'}', MAX_LINE);
        self
    }

    /// The line without a newline.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// `{"kind":"log"}`.
    pub fn log(level: &str, message: fmt::Arguments<'_>) -> Line {
        let mut line = Line::new("log");
        line.text("level", format_args!("{level}"));
        line.text("msg", message);
        line.close()
    }

    /// `{"kind":"mark"}`: something was reached after `us` microseconds.
    pub fn mark(name: &str, us: u64) -> Line {
        let mut line = Line::new("mark");
        line.number("us", us);
        line.text("name", format_args!("{name}"));
        line.close()
    }

    /// `{"kind":"count"}`.
    pub fn count(name: &str, key: fmt::Arguments<'_>, value: u64) -> Line {
        let mut line = Line::new("count");
        line.number("value", value);
        line.text("name", format_args!("{name}"));
        line.text("key", key);
        line.close()
    }

    /// `{"kind":"text"}`.
    pub fn text_value(name: &str, value: fmt::Arguments<'_>) -> Line {
        let mut line = Line::new("text");
        line.text("name", format_args!("{name}"));
        line.text("value", value);
        line.close()
    }

    /// `{"kind":"audit"}`: rules that were broken in one way.
    pub fn audit(entry: &Entry) -> Line {
        let finding = &entry.finding;
        let violation = &finding.violation;
        let mut line = Line::new("audit");
        line.number("seq", entry.number);
        line.number("time", entry.time);
        line.number("last", entry.last);
        line.number("times", finding.times.into());
        line.number("vp", finding.vp.into());
        match finding.channel {
            Some(channel) => line.number("channel", channel.into()),
            None => line.raw(",\"channel\":null"),
        }
        line.text("rule", format_args!("{}", violation.rule));
        line.number("offset", violation.offset.into());
        line.number("value", violation.value);
        line.text(
            "reaction",
            format_args!("{}", violation.rule.reaction().name()),
        );
        line.close()
    }

    /// `{"kind":"audit-end"}`: on the guest's audit port, behind a page of records.
    pub fn audit_end(next: u64, more: bool, overwritten: u64) -> Line {
        let mut line = Line::new("audit-end");
        line.number("next", next);
        line.number("more", more.into());
        line.number("overwritten", overwritten);
        line.close()
    }

    /// `{"kind":"counters-end"}`: behind a page of counters.
    pub fn counters_end(next: u64, more: bool) -> Line {
        let mut line = Line::new("counters-end");
        line.number("next", next);
        line.number("more", more.into());
        line.close()
    }

    /// Nothing but its newline.
    pub fn empty() -> Line {
        Line {
            bytes: [0; MAX_LINE],
            len: 0,
        }
    }

    /// `{"kind":"outcome"}`: the last line.
    pub fn outcome(name: &str, message: fmt::Arguments<'_>) -> Line {
        let mut line = Line::new("outcome");
        line.text("name", format_args!("{name}"));
        line.text("msg", message);
        line.close()
    }
}

/// Writes bytes as they are.
struct Raw<'a>(&'a mut Line);

impl Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.raw(text);
        Ok(())
    }
}

/// Writes the inside of a JSON string.
struct Escaped<'a>(&'a mut Line);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let limit = MAX_LINE.saturating_sub(TAIL);
        for c in text.chars() {
            let byte = match c {
                '"' | '\\' => b'\'',
                ' '..='~' => c as u8,
                _ => b'?',
            };
            self.0.push(byte, limit);
        }
        Ok(())
    }
}

/// How many lines may be written for what a neighbour does: a burst, then a rate.
/// The rest is counted and told with the next line that passes.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    tokens: u32,
    refilled: u64,
    suppressed: u64,
}

impl RateLimit {
    /// Lines at once.
    pub const BURST: u32 = 32;
    /// Nanoseconds per further line (one line costs some milliseconds of the
    /// emulated host, so ten per second stay below one part in ten of the time).
    pub const INTERVAL: u64 = 100_000_000;

    /// With a full burst.
    pub const fn new() -> RateLimit {
        RateLimit {
            tokens: Self::BURST,
            refilled: 0,
            suppressed: 0,
        }
    }

    /// Whether a line may pass at `now` (ns); if so, how many did not before it.
    pub fn pass(&mut self, now: u64) -> Option<u64> {
        let new = now
            .saturating_sub(self.refilled)
            .checked_div(Self::INTERVAL)
            .unwrap_or(0);
        if new > 0 {
            let new = u32::try_from(new).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(new).min(Self::BURST);
            self.refilled = now;
        }
        if self.tokens == 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.tokens = self.tokens.wrapping_sub(1);
        Some(core::mem::take(&mut self.suppressed))
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        RateLimit::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &Line) -> &str {
        core::str::from_utf8(line.as_bytes()).unwrap()
    }

    #[test]
    fn lines_are_json_objects() {
        assert_eq!(
            text(&Line::count("hypercall", format_args!("{:#x}", 0x5c), 3)),
            r#"{"from":"paravisor","kind":"count","value":3,"name":"hypercall","key":"0x5c"}"#
        );
        assert_eq!(
            text(&Line::mark("link-up", 12)),
            r#"{"from":"paravisor","kind":"mark","us":12,"name":"link-up"}"#
        );
        assert_eq!(
            text(&Line::outcome("power-off", format_args!("guest"))),
            r#"{"from":"paravisor","kind":"outcome","name":"power-off","msg":"guest"}"#
        );
    }

    #[test]
    fn quotes_and_control_characters_do_not_get_through() {
        let line = Line::log("warn", format_args!("a\"b\\c\nd\u{e9}"));
        assert!(text(&line).ends_with(r#""msg":"a'b'c?d?"}"#));
    }

    #[test]
    fn long_lines_are_cut_and_closed() {
        let long = "x".repeat(1000);
        let line = Line::log("info", format_args!("{long}"));
        assert_eq!(line.as_bytes().len(), MAX_LINE);
        assert!(text(&line).ends_with("xx\"}"));
    }

    #[test]
    fn floods_are_cut_to_the_rate() {
        let mut limit = RateLimit::new();
        let passed = (0..1000).filter(|_| limit.pass(0).is_some()).count();
        assert_eq!(passed, RateLimit::BURST as usize);
        assert_eq!(
            limit.pass(RateLimit::INTERVAL),
            Some(1000 - u64::from(RateLimit::BURST))
        );
        assert_eq!(limit.pass(RateLimit::INTERVAL), None);
    }
}
