//! The table: what criterion has written, side by side.

use std::path::{Path, PathBuf};

/// The three ways, as criterion files them.
pub const WAYS: [&str; 3] = ["validated", "unchecked", "memcpy"];

struct Row {
    name: &'static str,
    /// Bytes that one call works off.
    bytes: usize,
    /// Messages among them.
    messages: u32,
}

/// What was measured in this run.
pub struct Table {
    home: PathBuf,
    rows: Vec<Row>,
}

impl Table {
    /// For figures that lie below `home`.
    pub fn new(home: PathBuf) -> Table {
        Table {
            home,
            rows: Vec::new(),
        }
    }

    /// One more row.
    pub fn add(&mut self, name: &'static str, bytes: usize, messages: u32) {
        self.rows.push(Row {
            name,
            bytes,
            messages,
        });
    }

    /// Prints it, and writes it where `UNDERCROFT_BENCH_REPORT` says. Prints
    /// nothing if nothing was measured (a test run, a filter).
    pub fn print(&self) {
        let mut report = Vec::new();
        for row in &self.rows {
            let [Some(judged), Some(read), Some(copied)] =
                WAYS.map(|way| fastest(&self.home, row, way))
            else {
                continue;
            };
            if report.is_empty() {
                println!(
                    "\n{:<28} {:>6} {:>10} {:>10} {:>8} {:>8} {:>8}",
                    "ns per message", "bytes", WAYS[0], WAYS[1], WAYS[2], "/unch.", "/memcpy"
                );
            }
            println!(
                "{:<28} {:>6} {judged:>10.1} {read:>10.1} {copied:>8.1} {:>8.2} {:>8.2}",
                row.name,
                row.bytes / row.messages as usize,
                judged / read,
                judged / copied
            );
            report.push(serde_json::json!({
                "message": row.name,
                "bytes": row.bytes / row.messages as usize,
                "validated_ns": judged,
                "unchecked_ns": read,
                "memcpy_ns": copied,
            }));
        }
        if let Some(file) = std::env::var_os("UNDERCROFT_BENCH_REPORT") {
            let text = format!("{:#}\n", serde_json::Value::from(report));
            if let Err(error) = std::fs::write(&file, text) {
                eprintln!("cannot write {}: {error}", Path::new(&file).display());
                std::process::exit(1);
            }
        }
    }
}

/// The fastest of criterion's samples for one message, in ns: other work on the
/// machine makes a sample slower, never faster. Only figures of this run count.
fn fastest(home: &Path, row: &Row, way: &str) -> Option<f64> {
    let file = home.join(row.name).join(way).join("new/sample.json");
    let text = std::fs::read_to_string(file).ok()?;
    let sample: serde_json::Value = serde_json::from_str(&text).ok()?;
    let numbers = |name: &str| sample[name].as_array().cloned().unwrap_or_default();
    let calls = numbers("times").into_iter().zip(numbers("iters"));
    calls
        .filter_map(|(time, calls)| Some(time.as_f64()? / calls.as_f64()?))
        .min_by(f64::total_cmp)
        .map(|call| call / f64::from(row.messages))
}
