//! What a guest under load fetches and sends: one block of random bytes, turned by
//! another number of steps each time, so that stale bytes are wrong bytes. The guest
//! turns its copy in the same way (`guest/soak.sh`).

use std::io::Read;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::http::hex;

/// Bytes of a block.
pub const BLOCK: usize = 2 << 20;
/// Bytes of a step.
pub const STEP: usize = 64 << 10;
/// Steps until it is as it was.
pub const STEPS: usize = BLOCK / STEP;

/// The block.
pub struct Blocks<'a>(&'a [u8]);

impl<'a> Blocks<'a> {
    /// The beginning of `file`.
    pub fn of(file: &'a [u8]) -> Blocks<'a> {
        Blocks(file.get(..BLOCK).unwrap_or(file))
    }

    /// The number behind `prefix`.
    pub fn number(path: &str, prefix: &str) -> Option<u32> {
        path.strip_prefix(prefix)?.parse().ok()
    }

    /// The block with this number, in two parts.
    pub fn turned(&self, number: u32) -> [&'a [u8]; 2] {
        let at = number as usize % STEPS * STEP;
        let (first, second) = self.0.split_at(at.min(self.0.len()));
        [second, first]
    }

    /// SHA-256 of each turn.
    pub fn sums(&self) -> Vec<String> {
        let sum = |number| {
            let [first, second] = self.turned(number);
            hex(&Sha256::new()
                .chain_update(first)
                .chain_update(second)
                .finalize())
        };
        (0..STEPS as u32).map(sum).collect()
    }

    /// What is wrong with a block that came as `number`, if anything is.
    pub fn compare(
        &self,
        number: u32,
        length: u64,
        from: &mut impl Read,
        mut step: impl FnMut(),
    ) -> std::io::Result<Option<String>> {
        let [first, second] = self.turned(number);
        if length != (first.len() + second.len()) as u64 {
            return Ok(Some(format!("{length} bytes were announced")));
        }
        let mut buffer = vec![0; STEP];
        let mut at = 0;
        for part in [first, second].into_iter().flat_map(|p| p.chunks(STEP)) {
            let room = buffer.get_mut(..part.len()).unwrap_or_default();
            if let Err(error) = from.read_exact(room) {
                return Ok(Some(format!("it ended after byte {at}: {error}")));
            }
            if room != part {
                let same = room.iter().zip(part).take_while(|(a, b)| a == b).count();
                return Ok(Some(format!("byte {} is wrong", at + same)));
            }
            at += part.len();
            step();
        }
        Ok(None)
    }
}

/// How steady one direction is.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    last: Option<Instant>,
    /// Longest time between two steps.
    pub pause: Duration,
}

impl Pace {
    /// Another step is through.
    pub fn step(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.pause = self.pause.max(now - last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_told_from_its_other_turns_and_from_bad_ones() {
        let bytes: Vec<u8> = (0..BLOCK).map(|n| (n / 7 + n / STEP * 13) as u8).collect();
        let blocks = Blocks::of(&bytes);
        let judge = |number, sent: &[u8]| {
            let length = sent.len() as u64;
            blocks.compare(number, length, &mut &*sent, || ()).unwrap()
        };
        let third = blocks.turned(3).concat();
        assert_eq!(judge(3, &third), None);
        assert_eq!(judge(3 + STEPS as u32, &third), None);
        assert!(judge(4, &third).is_some());
        let mut bad = third.clone();
        bad[100_000] ^= 1;
        assert_eq!(judge(3, &bad).unwrap(), "byte 100000 is wrong");
        assert!(judge(3, &third[1..]).unwrap().contains("announced"));
        let mut steps = 0;
        let cut = blocks
            .compare(3, BLOCK as u64, &mut &third[..BLOCK - 1], || steps += 1)
            .unwrap();
        assert!(cut.unwrap().starts_with("it ended after byte 2031616"));
        assert_eq!(steps, STEPS - 1);
        let sums = blocks.sums();
        assert_eq!(sums[3], hex(&Sha256::digest(&third)));
        assert_eq!(sums.len(), STEPS);
        assert_eq!(Blocks::number("/down/17", "/down/"), Some(17));
        assert_eq!(Blocks::number("/down/x", "/down/"), None);
    }
}
