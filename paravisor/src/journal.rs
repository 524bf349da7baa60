//! Records on their way out: lines wait in a fixed queue until the loop (or the
//! end of the run) writes them to the port.
//!
//! The queue is what makes logging possible anywhere: code that has no way to the
//! host, or holds the GHCB at the moment, still gets its line out later. What does
//! not fit is counted, never waited for.

use crate::record::{Line, RateLimit};
use alloc::boxed::Box;

/// Bytes of queued lines: some sixty lines.
const QUEUE: usize = 16 * 1024;

/// The queue.
pub struct Journal {
    bytes: Option<Box<[u8; QUEUE]>>,
    start: usize,
    len: usize,
    lost: u64,
    limit: RateLimit,
}

impl Journal {
    /// Without memory: every line is lost until [`Journal::open`].
    pub const fn new() -> Journal {
        Journal {
            bytes: None,
            start: 0,
            len: 0,
            lost: 0,
            limit: RateLimit::new(),
        }
    }

    /// Takes memory.
    pub fn open(&mut self) {
        self.bytes = Some(Box::new([0; QUEUE]));
    }

    /// Queues a line.
    pub fn push(&mut self, line: &Line) {
        let text = line.as_bytes();
        let need = text.len().saturating_add(1);
        let Some(bytes) = self
            .bytes
            .as_mut()
            .filter(|_| need <= QUEUE.saturating_sub(self.len))
        else {
            self.lost = self.lost.saturating_add(1);
            return;
        };
        for byte in text.iter().chain(b"\n") {
            let at = self.start.wrapping_add(self.len) % QUEUE;
            if let Some(slot) = bytes.get_mut(at) {
                *slot = *byte;
            }
            self.len = self.len.wrapping_add(1);
        }
    }

    /// Queues a line about something that a neighbour can cause, if the rate
    /// allows it at `now` (ns).
    pub fn push_limited(&mut self, line: &Line, now: u64) {
        match self.limit.pass(now) {
            Some(0) => self.push(line),
            Some(suppressed) => {
                self.push(&Line::count("log_suppressed", format_args!(""), suppressed));
                self.push(line);
            }
            None => {}
        }
    }

    /// Takes up to `buffer.len()` bytes; how many.
    pub fn take(&mut self, buffer: &mut [u8]) -> usize {
        let Some(bytes) = self.bytes.as_ref() else {
            return 0;
        };
        let count = buffer.len().min(self.len);
        for slot in buffer.iter_mut().take(count) {
            *slot = bytes.get(self.start).copied().unwrap_or(b'?');
            self.start = self.start.wrapping_add(1) % QUEUE;
        }
        self.len = self.len.saturating_sub(count);
        count
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lines that did not fit.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Default for Journal {
    fn default() -> Self {
        Journal::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_in_order_and_wrap() {
        let mut journal = Journal::new();
        journal.push(&Line::mark("lost", 0));
        assert_eq!(journal.lost(), 1);
        journal.open();
        for round in 0..1000 {
            let line = Line::mark("m", round);
            journal.push(&line);
            let mut buffer = [0; 100];
            let n = journal.take(&mut buffer);
            assert_eq!(buffer.get(..n.wrapping_sub(1)), Some(line.as_bytes()));
        }
        assert!(journal.is_empty());
    }

    #[test]
    fn sys_03_a_million_lines_that_a_neighbour_causes_are_few() {
        // "SYS-03": a second of lines, one each microsecond; nothing takes them away.
        let mut journal = Journal::new();
        journal.open();
        for now in 0..1_000_000u64 {
            journal.push_limited(&Line::log("warn", format_args!("x")), now * 1000);
        }
        let mut text = vec![0; QUEUE];
        let n = journal.take(&mut text);
        let lines = text[..n].iter().filter(|byte| **byte == b'\n').count();
        assert!((1..100).contains(&lines), "{lines}");
        assert_eq!(journal.lost(), 0);
    }

    #[test]
    fn full_queue_loses_whole_lines() {
        let mut journal = Journal::new();
        journal.open();
        for round in 0..1000 {
            journal.push(&Line::mark("m", round));
        }
        let mut text = vec![0; QUEUE];
        let n = journal.take(&mut text);
        assert!(n <= QUEUE && journal.lost() > 0);
        assert_eq!(text.get(n.wrapping_sub(2)..n), Some(&b"}\n"[..]));
    }
}
