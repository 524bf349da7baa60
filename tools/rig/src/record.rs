//! The rig's lines on the record channel, and the VM's bytes for it.

use crate::metal::{self, clock::Clock, serial};
use abi::record::{MAX_LINE, Outcome};
use core::fmt::{self, Write};
use spin::Mutex;

/// One line at a time, whichever core it comes from.
static OUT: Mutex<()> = Mutex::new(());
/// Tries to get at the channel. A core that ends the run while another writes must not
/// wait for ever.
const PATIENCE: u32 = 10_000_000;

/// Sends a line.
fn whole(line: &[u8]) {
    let _out = (0..PATIENCE).find_map(|_| {
        core::hint::spin_loop();
        OUT.try_lock()
    });
    serial::record(line);
    serial::record(b"\n");
}

/// A line under construction; what does not fit is cut.
struct Line {
    bytes: [u8; MAX_LINE + 1],
    len: usize,
}

impl Line {
    fn new(kind: &str) -> Line {
        let mut line = Line {
            bytes: [0; MAX_LINE + 1],
            len: 0,
        };
        line.raw("{\"from\":\"rig\",\"kind\":\"");
        line.raw(kind);
        line.raw("\"");
        line
    }

    fn byte(&mut self, byte: u8, keep: usize) {
        if self.len < MAX_LINE - keep {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    fn raw(&mut self, text: &str) {
        for b in text.bytes() {
            self.byte(b, 0);
        }
    }

    fn text(&mut self, member: &str, value: fmt::Arguments<'_>) -> &mut Line {
        self.raw(",\"");
        self.raw(member);
        self.raw("\":\"");
        // Room for the closing quote and brace.
        let _ = Escaped(self).write_fmt(value);
        self.raw("\"");
        self
    }

    fn number(&mut self, member: &str, value: u64) -> &mut Line {
        self.raw(",\"");
        self.raw(member);
        self.raw("\":");
        let _ = Plain(self).write_fmt(format_args!("{value}"));
        self
    }

    fn send(&mut self) {
        self.raw("}");
        whole(&self.bytes[..self.len]);
    }
}

struct Plain<'a>(&'a mut Line);

impl Write for Plain<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.raw(s);
        Ok(())
    }
}

struct Escaped<'a>(&'a mut Line);

impl Write for Escaped<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for b in s.bytes() {
            let b = match b {
                b'"' | b'\\' => b'\'',
                0x20..=0x7e => b,
                _ => b'?',
            };
            self.0.byte(b, 2);
        }
        Ok(())
    }
}

/// Bytes in hex.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A log line.
pub fn log(level: &str, message: fmt::Arguments<'_>) {
    Line::new("log")
        .text("level", format_args!("{level}"))
        .text("msg", message)
        .send();
}

/// A counter.
pub fn count(name: &str, key: fmt::Arguments<'_>, value: u64) {
    Line::new("count")
        .text("name", format_args!("{name}"))
        .text("key", key)
        .number("value", value)
        .send();
}

/// A string.
pub fn text(name: &str, value: fmt::Arguments<'_>) {
    Line::new("text")
        .text("name", format_args!("{name}"))
        .text("value", value)
        .send();
}

/// A point in time.
pub fn mark(clock: &Clock, name: &str) {
    mark_at(clock.micros(), name);
}

/// A point in time, in microseconds since the start.
pub fn mark_at(micros: u64, name: &str) {
    Line::new("mark")
        .text("name", format_args!("{name}"))
        .number("us", micros)
        .send();
}

/// The last line.
pub fn outcome(outcome: Outcome, message: fmt::Arguments<'_>) -> ! {
    Line::new("outcome")
        .text("name", format_args!("{}", outcome.name()))
        .text("msg", message)
        .send();
    metal::exit(outcome as u8)
}

/// Lines of the VM, kept until they are whole so that they do not mix with ours.
pub struct Guest {
    bytes: [u8; MAX_LINE],
    len: usize,
}

impl Guest {
    /// Nothing yet.
    pub const fn new() -> Guest {
        Guest {
            bytes: [0; MAX_LINE],
            len: 0,
        }
    }

    /// One byte of the VM.
    pub fn byte(&mut self, byte: u8) {
        if byte == b'\n' {
            self.flush();
        } else if self.len < MAX_LINE {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    /// Sends what there is.
    pub fn flush(&mut self) {
        if self.len != 0 {
            whole(&self.bytes[..self.len]);
            self.len = 0;
        }
    }
}
