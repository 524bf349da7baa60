//! How fast frames go: each path through the paravisor's own code, natively and in
//! one thread, beside plain copies of the same bytes in the same run.
//!
//! `cargo xtask bench speed` runs it and keeps table and plot; `cargo xtask bench
//! count` lets callgrind count instructions instead. By hand: `cargo bench -p
//! undercroft-benches --bench speed`. With `UNDERCROFT_BENCH_REPORT` the figures go to
//! that file (JSON). With `UNDERCROFT_BENCH_COUNT=name:calls` one path runs so often
//! and nothing is timed; `UNDERCROFT_BENCH_COUNT=list` names the paths. Nothing is
//! asserted about time.

mod frames;
mod path;
mod ring;
mod table;
mod tcp;
mod world;

use criterion::Criterion;
use frames::Frames;
use path::Path;
use std::time::Duration;
use table::Table;

/// A path by its name, made when it is needed.
struct Maker {
    name: String,
    make: Box<dyn Fn() -> Box<dyn Path>>,
}

impl Maker {
    fn new<P: Path + 'static>(name: String, make: impl Fn() -> P + 'static) -> Maker {
        Maker {
            name,
            make: Box::new(move || Box::new(make())),
        }
    }
}

/// All paths.
fn paths() -> Vec<Maker> {
    let mut all = Vec::new();
    for size in [64, 1536] {
        for batch in [1, 16] {
            let name = format!("ring, {size} B, batch {batch}");
            all.push(Maker::new(name, move || ring::Ring::new(size, batch, 1)));
        }
    }
    for channels in [4, 16, 64] {
        let name = format!("ring, 64 B, batch 16, {channels} channels");
        all.push(Maker::new(name, move || ring::Ring::new(64, 16, channels)));
    }
    for len in [64, 1514, 9014] {
        let name = format!("receive, {len} B");
        all.push(Maker::new(name, move || Frames::receive(len, 1)));
    }
    let name = "receive, 1514 B, 48 a packet".to_owned();
    all.push(Maker::new(name, || Frames::receive(1514, 48)));
    // One frame, which the host has joined of 45 segments.
    let name = "receive, 65536 B".to_owned();
    all.push(Maker::new(name, || Frames::joined(65536)));
    for len in [64, 1514, 9014] {
        let name = format!("transmit, {len} B");
        all.push(Maker::new(name, move || Frames::transmit(len)));
    }
    // One frame, which the host cuts.
    let name = "transmit, 65536 B".to_owned();
    all.push(Maker::new(name, || Frames::segmented(65536)));
    all
}

fn main() {
    if let Ok(wanted) = std::env::var("UNDERCROFT_BENCH_COUNT") {
        return count(&wanted);
    }
    // Where cargo lets a bench write.
    let home = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("speed");
    let mut criterion = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .output_directory(&home)
        .configure_from_args();
    let mut table = Table::default();
    for Maker { name, make } in paths() {
        let mut path = make();
        if let Some(times) = path::time(&mut criterion, &name, path.as_mut()) {
            table.add(name, path.bytes(), times);
        }
    }
    criterion.final_summary();
    table.print();
}

fn count(wanted: &str) {
    if wanted == "list" {
        paths().iter().for_each(|path| println!("{}", path.name));
        return;
    }
    let parts = wanted.rsplit_once(':');
    let (name, calls) = parts.expect("UNDERCROFT_BENCH_COUNT is name:calls");
    let calls = calls.parse().expect("a number of calls");
    let found = paths().into_iter().find(|path| path.name == name);
    let found = found.unwrap_or_else(|| panic!("no path is called {name}"));
    let mut path = (found.make)();
    path::count(path.as_mut(), calls);
    println!("{}", path.frames() * calls);
}
