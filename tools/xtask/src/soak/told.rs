//! What a guest under load says on its console (`guest/soak.sh`).

use std::collections::BTreeMap;

use serde::Serialize;

use super::hops::Values;

/// Counters of the guest's kernel and of the paravisor at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Moment {
    /// Seconds since the load began, by the guest's clock.
    pub seconds: u64,
    /// `before.*` and `after.*`: the kernel's counters of its interface, before and
    /// after the paravisor was asked; `memory.*`: its memory in KiB; the rest is the
    /// paravisor's.
    pub values: Values,
}

/// Everything that the guest said.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Sums of the blocks that it fetched, by number.
    pub downs: BTreeMap<u32, String>,
    /// How many it says it has fetched.
    pub downs_in_all: Option<u32>,
    /// The server's answers to blocks that it sent, by number.
    pub ups: BTreeMap<u32, String>,
    /// How many it says it has sent.
    pub ups_in_all: Option<u32>,
    /// Pings sent and answered.
    pub ping: Option<(u64, u64)>,
    /// Under load.
    pub beats: Vec<Moment>,
    /// At rest after it.
    pub end: Option<Moment>,
}

impl Moment {
    /// From `name=value` words.
    pub fn parse(words: &str) -> Moment {
        let pairs = words.split_whitespace().filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        let mut values: Values = pairs.collect();
        Moment {
            seconds: values.remove("seconds").unwrap_or_default(),
            values,
        }
    }

    /// A value, 0 if it was not told.
    pub fn get(&self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or_default()
    }
}

impl Told {
    /// From the lines, without what stands before `soak`.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Told {
        let mut told = Told::default();
        for line in lines {
            let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
            let two = || {
                let (number, word) = rest.split_once(' ')?;
                Some((number.parse().ok()?, word.to_owned()))
            };
            match what {
                "down" => told.downs.extend(two()),
                "downs" => told.downs_in_all = rest.parse().ok(),
                "up" => told.ups.extend(two()),
                "ups" => told.ups_in_all = rest.parse().ok(),
                "ping" => {
                    told.ping =
                        two().and_then(|(sent, back)| Some((sent.into(), back.parse().ok()?)));
                }
                "beat" => told.beats.push(Moment::parse(rest)),
                "end" => told.end = Some(Moment::parse(rest)),
                _ => {}
            }
        }
        told
    }
}
