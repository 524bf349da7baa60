//! The way out: the journal as the `log` crate's sink, and the last words of a
//! run that ends.
//!
//! `unsafe` for taking the processor a second time: whoever ends the run does not
//! return to whoever else had it.
#![allow(unsafe_code)]

use super::memory;
use super::percpu::this;
use abi::record::{Outcome, RECORD_PORT};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use paravisor_core::audit::{Audit, Finding};
use paravisor_core::journal::Journal;
use paravisor_core::record::Line;
use paravisor_core::time::Clock;
use platform::Platform;
use platform::snp::{Hardware, Machine as _, terminate, write_last_words};
use spin::{Mutex, Once};

static AUDIT: Mutex<Audit> = Mutex::new(Audit::new());
static JOURNAL: Mutex<Journal> = Mutex::new(Journal::new());
/// Which VP ends the run: its index and 1.
static ENDING: AtomicU32 = AtomicU32::new(0);
static CLOCK: Once<Clock> = Once::new();
static SINK: Sink = Sink;

struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warn",
            log::Level::Info => "info",
            log::Level::Debug | log::Level::Trace => "debug",
        };
        let line = Line::log(level, *record.args());
        // Whatever a room has to say may have been caused by a neighbour.
        JOURNAL.lock().push_limited(&line, now_ns());
    }

    fn flush(&self) {}
}

/// Gives the journal its memory and makes it the sink of `log`.
pub fn open() {
    JOURNAL.lock().open();
    AUDIT.lock().open();
    if log::set_logger(&SINK).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// From now on this VP can write ports: its GHCB is the page with this number.
pub fn speak(ghcb_pfn: u64) {
    this().ghcb_pfn.store(ghcb_pfn, Ordering::SeqCst);
}

/// The clock for marks and rates, once it is known.
pub fn set_clock(clock: Clock) {
    CLOCK.call_once(|| clock);
}

/// Nanoseconds since the clock was set, 0 before.
pub fn now_ns() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.ns(super::tsc()))
}

/// Works on the audit.
pub fn audit<T>(act: impl FnOnce(&mut Audit) -> T) -> T {
    act(&mut AUDIT.lock())
}

/// Puts findings into the audit, with the time.
pub fn found(findings: impl IntoIterator<Item = Finding>) {
    let time = Clock::audit_units(now_ns());
    let mut audit = AUDIT.lock();
    for finding in findings {
        audit.add(time, finding);
    }
}

/// Queues a record.
pub fn record(line: &Line) {
    JOURNAL.lock().push(line);
}

/// Queues a mark with the time.
pub fn mark(name: &str) {
    record(&Line::mark(name, now_ns() / 1000));
}

/// Writes queued bytes to the port, at most `budget`. Whether nothing is left.
pub fn flush<P: Platform>(platform: &mut P, budget: usize) -> bool {
    let mut left = budget;
    let mut buffer = [0; 64];
    while left > 0 {
        let part = left.min(buffer.len());
        let piece = buffer.get_mut(..part).unwrap_or(&mut []);
        let n = JOURNAL.lock().take(piece);
        if n == 0 {
            return true;
        }
        for byte in piece.iter().take(n) {
            // A record channel that fails is no reason to stop.
            let _ = platform.write_port(RECORD_PORT, *byte);
        }
        left = left.saturating_sub(n);
    }
    JOURNAL.lock().is_empty()
}

/// Records that were lost because the queue was full.
pub fn lost() -> u64 {
    JOURNAL.lock().lost()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: no handler may run while the last words are written.
    unsafe { core::arch::asm!("cli", options(nomem, nostack)) };
    match info.location() {
        Some(at) => end(
            Outcome::Panic,
            format_args!("panic at {}:{}: {}", at.file(), at.line(), info.message()),
        ),
        None => end(Outcome::Panic, format_args!("panic: {}", info.message())),
    }
}

/// Ends the run: what is queued, the outcome, termination.
pub fn end(outcome: Outcome, message: fmt::Arguments<'_>) -> ! {
    let own = this();
    // SAFETY: nothing of this VP's runs after this; interrupts stay off (every caller
    // has them off, or is a handler). The word is this VP's.
    let mut hardware = unsafe { Hardware::new(&own.page_in_msr) };
    let me = u32::from(own.index).wrapping_add(1);
    let ending = ENDING.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst);
    if ending.is_err_and(|other| other != me) {
        // Another VP is at its last words and ends the VM after them.
        loop {
            hardware.wait();
        }
    }
    let ghcb = own.ghcb_pfn.load(Ordering::SeqCst);
    if ending.is_err() || ghcb == 0 {
        terminate(&mut hardware, outcome);
    }
    let line = Line::outcome(outcome.name(), message);
    let mut say = |bytes: &[u8]| {
        if let Some(page) = memory::shared_page(ghcb) {
            let _ = write_last_words(&mut hardware, page, RECORD_PORT, bytes);
        }
    };
    // The lock may be held by the code that an exception has stopped.
    if let Some(mut journal) = JOURNAL.try_lock() {
        let mut buffer = [0; 256];
        loop {
            let n = journal.take(&mut buffer);
            if n == 0 {
                break;
            }
            say(buffer.get(..n).unwrap_or(&[]));
        }
    } else {
        say(b"\n");
    }
    // Bounded: the audit has a fixed number of places.
    if let Some(audit) = AUDIT.try_lock() {
        for entry in audit.iter() {
            say(entry.line().as_bytes());
            say(b"\n");
        }
        if audit.overwritten() != 0 {
            let line = Line::count("audit_overwritten", format_args!(""), audit.overwritten());
            say(line.as_bytes());
            say(b"\n");
        }
    }
    say(line.as_bytes());
    say(b"\n");
    terminate(&mut hardware, outcome)
}
