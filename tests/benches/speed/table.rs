//! The table of what was measured.

use crate::path::Times;

struct Row {
    name: String,
    bytes: usize,
    times: Times,
}

/// What was measured in this run.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// One more row.
    pub fn add(&mut self, name: String, bytes: usize, times: Times) {
        self.rows.push(Row { name, bytes, times });
    }

    /// Prints it, and writes it where `UNDERCROFT_BENCH_REPORT` says. Prints
    /// nothing if nothing was measured.
    pub fn print(&self) {
        if !self.rows.is_empty() {
            println!(
                "\n{:<34} {:>10} {:>10} {:>10} {:>10}",
                "fastest call", "ns/frame", "memcpy ns", "of memcpy", "million/s"
            );
        }
        for row in &self.rows {
            let Times { path, copy } = row.times;
            println!(
                "{:<34} {path:>10.1} {copy:>10.1} {:>10.2} {:>10.1}",
                row.name,
                copy / path,
                1000.0 / path
            );
        }
        if let Some(file) = std::env::var_os("UNDERCROFT_BENCH_REPORT") {
            let rows = self.rows.iter().map(|row| {
                serde_json::json!({
                    "path": row.name,
                    "bytes": row.bytes,
                    "ns": row.times.path,
                    "memcpy_ns": row.times.copy,
                })
            });
            let text = format!("{:#}\n", serde_json::Value::from_iter(rows));
            if let Err(error) = std::fs::write(&file, text) {
                eprintln!("cannot write {}: {error}", file.display());
                std::process::exit(1);
            }
        }
    }
}
