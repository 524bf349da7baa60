//! `cargo xtask bench speed`: runs the bench of the data path and keeps what it says
//! as text, JSON and plot.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;

use super::plot;
use crate::{firmware, paths, process};

/// What `bench speed` takes.
#[derive(Args, Default)]
pub struct SpeedArgs {
    /// Only paths whose name contains this
    pub filter: Option<String>,
    /// Folder for table, JSON and plot; default: bench in the target directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// A line of the bench's report.
#[derive(Deserialize)]
pub struct Row {
    /// What the frame's way is called.
    pub path: String,
    /// The fastest call, a frame.
    pub ns: f64,
    /// A plain copy of as many bytes.
    pub memcpy_ns: f64,
}

/// Where figures are kept.
pub fn folder(chosen: Option<&Path>) -> Result<PathBuf> {
    let folder = match chosen {
        Some(chosen) => std::path::absolute(chosen)?,
        None => paths::target().join("bench"),
    };
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// The bench is a program of its own, which prints the table.
pub fn speed(args: &SpeedArgs) -> Result<Vec<Row>> {
    let folder = folder(args.out.as_deref())?;
    let report = folder.join("speed.json");
    let mut command = firmware::cargo();
    command.args([
        "bench",
        "-p",
        "undercroft-benches",
        "--bench",
        "speed",
        "--",
    ]);
    command.args(&args.filter);
    command.env("UNDERCROFT_BENCH_REPORT", &report);
    let mut table = String::new();
    let mut begun = false;
    process::shown_by_line(&mut command, |line| {
        begun |= line.starts_with("fastest call");
        if begun {
            table.push_str(line);
            table.push('\n');
        }
    })?;
    let file = folder.join("speed.txt");
    std::fs::write(&file, table).with_context(|| format!("cannot write {}", file.display()))?;
    let text = std::fs::read_to_string(&report)
        .with_context(|| format!("cannot read {}", report.display()))?;
    let rows: Vec<Row> = serde_json::from_str(&text).context("the bench's report is damaged")?;
    let bars: Vec<plot::Bar> = rows
        .iter()
        .map(|row| plot::Bar {
            name: row.path.clone(),
            values: [row.ns, row.memcpy_ns],
        })
        .collect();
    let picture = folder.join("speed.svg");
    plot::bars(&picture, "ns a frame", ["path", "memcpy"], &bars)?;
    println!(
        "kept in {}: speed.txt, speed.json, speed.svg",
        folder.display()
    );
    Ok(rows)
}
