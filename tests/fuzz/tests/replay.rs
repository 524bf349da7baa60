//! Every target over its committed seeds, over changed seeds and over
//! pseudo-random inputs. A longer look: `UNDERCROFT_FUZZ_ROUNDS=100000 cargo test
//! --release -p undercroft-fuzz`, or `cargo xtask fuzz`.

use std::fs;
use std::path::{Path, PathBuf};
use undercroft_fuzz::{TARGETS, Target, replay, target};

fn seeds(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let bytes = fs::read(&file).unwrap();
            (file, bytes)
        })
        .collect()
}

/// Plays one input; a failure names it, as bytes that can be made a seed.
fn play(target: &Target, what: &str, data: &[u8]) {
    let result = std::panic::catch_unwind(|| replay(target, data));
    if let Err(panic) = result {
        let file = std::env::temp_dir().join(format!("undercroft-fuzz-{}", target.name));
        fs::write(&file, data).unwrap();
        eprintln!("{}: {what} fails; input in {}", target.name, file.display());
        std::panic::resume_unwind(panic);
    }
}

/// A generator of which a seed gives the same numbers for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }
}

/// A seed with some bytes changed, cut or doubled, or an input of its own.
fn random(dice: &mut Dice, seeds: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut data = match seeds.get(dice.roll(seeds.len() + 1)) {
        Some((_, bytes)) => bytes.clone(),
        None => (0..dice.roll(400)).map(|_| dice.roll(256) as u8).collect(),
    };
    for _ in 0..dice.roll(6) {
        let at = dice.roll(data.len());
        match dice.roll(5) {
            0 => data.truncate(at),
            1 => data.insert(at, dice.roll(256) as u8),
            2 if at < data.len() => drop(data.remove(at)),
            3 => {
                let part = data[at..(at + dice.roll(32)).min(data.len())].to_vec();
                let to = dice.roll(data.len());
                data.splice(to..to, part);
            }
            _ if at < data.len() => data[at] = dice.roll(256) as u8,
            _ => {}
        }
    }
    data
}

fn run(name: &str) {
    let target = target(name).unwrap();
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (file, bytes) in &seeds {
        play(target, &file.display().to_string(), bytes);
    }
    let rounds = std::env::var("UNDERCROFT_FUZZ_ROUNDS").ok();
    let rounds = rounds.and_then(|n| n.parse().ok()).unwrap_or(target.rounds);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..rounds {
        let data = random(&mut dice, &seeds);
        play(target, &format!("round {round}"), &data);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*
        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($name)),*];
            let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(known, here);
            for name in known {
                let program = format!("libfuzzer/fuzz_targets/{name}.rs");
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
                let text = fs::read_to_string(&file).unwrap();
                assert!(text.contains(&format!("\"{name}\"")), "{}", file.display());
            }
        }
    };
}

targets!(synic control ring packet nvsp rndis nic client ghcb virtio e1000e pci_mmio decode params);
