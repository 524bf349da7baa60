//! Fuzzing: one body per target, the same for cargo-fuzz (`tests/fuzz/libfuzzer`)
//! and for plain `cargo test`, which replays the committed seeds.
//!
//! A body gets bytes, plays them against the real code and panics when one of
//! its invariants does not hold. It returns a digest of everything that it saw:
//! verdicts, events, counters. [`replay`] runs it twice and compares, so that a
//! verdict which depends on anything but the input is a finding too.
//!
//! Nothing in an input is special: what is not long enough reads as zeros.
#![forbid(unsafe_code)]

mod digest;
mod input;
pub mod memory;
pub mod seeds;
mod targets;
mod vp;

pub use digest::Digest;
pub use input::Input;

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: of the libFuzzer program, of the folder of its seeds.
    pub name: &'static str,
    /// What is fuzzed.
    pub about: &'static str,
    /// Plays one input.
    pub body: fn(&[u8]) -> u64,
    /// Pseudo-random inputs that a plain test plays, at some milliseconds each
    /// in an unoptimised build.
    pub rounds: u32,
}

/// All targets, from the wire to the guest.
pub const TARGETS: &[Target] = &targets::ALL;

/// The target with this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Longest input that is played; the rest is cut.
pub const MAX_INPUT: usize = 4096;

/// Plays `data` twice: the same bytes must end the same way.
pub fn replay(target: &Target, data: &[u8]) -> u64 {
    let data = data.get(..MAX_INPUT).unwrap_or(data);
    let first = (target.body)(data);
    let second = (target.body)(data);
    assert_eq!(
        first, second,
        "{}: two runs of one input differ",
        target.name
    );
    first
}

/// What a libFuzzer program calls for each input. One input in sixteen is played
/// twice.
pub fn fuzz(name: &str, data: &[u8]) {
    let Some(target) = target(name) else {
        panic!("no target {name}");
    };
    let mut digest = Digest::new();
    digest.bytes(data);
    if digest.value().is_multiple_of(16) {
        replay(target, data);
    } else {
        (target.body)(data.get(..MAX_INPUT).unwrap_or(data));
    }
}
