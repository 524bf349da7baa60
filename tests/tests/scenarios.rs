//! Every scenario in `tests/scenarios`, in process: the paravisor's uplink against
//! the fake host, over memory that changes after each first read.

#[path = "scenarios/world.rs"]
mod world;

use hostkit::scenario::{judge, parse};
use std::path::PathBuf;

fn files() -> Vec<PathBuf> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "scenario"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_scenario_ends_as_it_says() {
    let mut wrong = Vec::new();
    for file in files() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let scenario = match parse(&text) {
            Ok(scenario) => scenario,
            Err(error) => {
                wrong.push(format!("{}:{error}", file.display()));
                continue;
            }
        };
        let seen = world::play(&scenario);
        let complaints = judge(&scenario, &seen);
        println!(
            "{name:<36} {:<12} {:<10} {}",
            seen.outcome,
            seen.guest.name(),
            seen.rules.join(" ")
        );
        for (line, what) in complaints {
            wrong.push(format!("{}:{line}: {what}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The judge is no yes-man: the same run with other expectations fails.
#[test]
fn a_scenario_that_expects_something_else_fails() {
    let text = |expect: &str| {
        format!("about x\nwhen 1st rndis.packet do set data-offset 0\nexpect guest up\n{expect}\n")
    };
    let good = parse(&text("expect rule RND-06")).unwrap();
    let seen = world::play(&good);
    assert_eq!(judge(&good, &seen), []);
    for bad in [
        "expect rule RND-16",
        "expect no rule",
        "expect link lost",
        "expect outcome host-failure",
        "when 1st rndis.halt do drop",
    ] {
        let scenario = parse(&text(bad)).unwrap();
        assert!(
            !judge(&scenario, &world::play(&scenario)).is_empty(),
            "{bad}"
        );
    }
}
