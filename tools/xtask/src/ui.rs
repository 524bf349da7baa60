//! What a person sees while waiting: one line per step, a spinner on a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A step that takes time. On a terminal it is a spinner with the seconds so far;
/// elsewhere (CI, a pipe) it is one line at the start and one at the end.
pub struct Step {
    bar: Option<ProgressBar>,
    what: String,
    started: Instant,
    finished: bool,
}

impl Step {
    /// Shows that `what` has begun.
    pub fn new(what: impl Into<String>) -> Step {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("  … {what}");
        }
        Step {
            bar,
            what,
            started: Instant::now(),
            finished: false,
        }
    }

    /// Replaces the text beside the spinner, for steps with a life of their own.
    pub fn say(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {what}", self.what));
        }
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// Ends the step; `result` is what came out of it (may be empty).
    pub fn done(mut self, result: &str) {
        self.finished = true;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let colon = if result.is_empty() { "" } else { ": " };
        let seconds = self.started.elapsed().as_secs_f64();
        eprintln!("  ✓ {}{colon}{result} ({seconds:.1} s)", self.what);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("  ✗ {}", self.what);
    }
}

/// `12.3 MiB`, `812 KiB`, `17 B`.
pub fn bytes(n: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match n {
        n if n >= MIB => format!("{:.1} MiB", n as f64 / MIB as f64),
        n if n >= KIB => format!("{:.1} KiB", n as f64 / KIB as f64),
        n => format!("{n} B"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_has_a_unit() {
        assert_eq!(super::bytes(17), "17 B");
        assert_eq!(super::bytes(1536), "1.5 KiB");
        assert_eq!(super::bytes(8 << 20), "8.0 MiB");
    }
}
