//! What the audit says of one host message, and the totals.

use abi::nvsp;
use abi::rndis::{self, ppi};
use abi::vmbus::{MessageHeader, PacketDescriptor};
use serde::Serialize;
use std::collections::BTreeMap;
use validate::{Layer, Violation};

/// A broken rule.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The rule's id.
    pub rule: &'static str,
    /// Where the field lies, from the start of the message.
    pub offset: u32,
    /// What stood there.
    pub value: u64,
    /// What the paravisor does then.
    pub reaction: &'static str,
    /// What the rule says.
    pub statement: &'static str,
}

impl Finding {
    /// From what `validate` says.
    pub fn new(violation: Violation) -> Finding {
        Finding {
            rule: violation.rule.id(),
            offset: violation.offset,
            value: violation.value,
            reaction: violation.rule.reaction().name(),
            statement: validate::Rule::declarations()
                .find(|d| d.rule == violation.rule)
                .map_or("", |d| d.statement),
        }
    }

    /// How many of `bytes` from `offset` on make up the value: the offending ones. Of
    /// something whose value is a count (bytes that are left, elements that were
    /// seen), its header.
    pub fn width(&self, bytes: &[u8]) -> usize {
        let field = bytes.get(self.offset as usize..).unwrap_or_default();
        let holds =
            |width: &usize| field.get(..*width).map(super::file::little) == Some(self.value);
        let width = match self.rule {
            // A whole register.
            "SYN-20" | "SYN-22" | "SYN-26" | "SYN-28" => 8,
            "RND-20" => ppi::HEADER_SIZE,
            _ => [4, 2, 8, 1]
                .into_iter()
                .find(holds)
                .unwrap_or_else(|| self.header()),
        };
        width.min(field.len())
    }

    /// Bytes of the header of what starts at `offset`.
    fn header(&self) -> usize {
        match (self.rule, self.rule.get(..3), self.offset) {
            ("RND-16", ..) => ppi::HEADER_SIZE,
            (_, Some("CTL" | "GPD"), 0) => size_of::<MessageHeader>(),
            (_, Some("PKT" | "RNG"), 0) => size_of::<PacketDescriptor>(),
            (_, Some("NVS"), 0) => size_of::<nvsp::Header>(),
            (_, Some("RND"), 0) => size_of::<rndis::Header>(),
            _ => 1,
        }
    }
}

/// One host message and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Record that made it visible to the guest.
    pub record: u64,
    /// Where that record starts in the file.
    pub file_offset: u64,
    /// Reference time, 100 ns.
    pub time: u64,
    /// Layer whose rules judged it.
    pub layer: &'static str,
    /// Relid of the channel; 0 for the connection.
    pub channel: u32,
    /// What it is.
    pub what: String,
    /// Accepted, or accepted with a note, or refused.
    pub accepted: bool,
    /// The broken rule, if there is one. With `accepted` it was only counted, or
    /// the value was replaced by a safe one.
    pub finding: Option<Finding>,
    /// The message.
    #[serde(serialize_with = "hex")]
    pub bytes: Vec<u8>,
}

fn hex<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&crate::error::hex(bytes))
}

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Host to guest.
    In,
    /// Guest to host.
    Out,
}

/// An Ethernet frame that passed.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Reference time, 100 ns.
    pub time: u64,
    /// Which way.
    pub way: Way,
    /// From the destination address on, without check sequence.
    pub bytes: Vec<u8>,
}

/// What an audit has found.
#[derive(Debug, Default, Serialize)]
pub struct Audit {
    /// Who wrote the trace.
    pub creator: String,
    /// Records read.
    pub records: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Reference time of the first and of the last record, 100 ns.
    pub first_time: u64,
    /// See `first_time`.
    pub last_time: u64,
    /// Messages judged by layer, as the paravisor counts them.
    pub judged: BTreeMap<&'static str, u64>,
    /// Of these: written by the host, but not taken by the guest when the trace
    /// ended.
    pub not_taken: BTreeMap<&'static str, u64>,
    /// Other things that were looked at: event flags, indices, hypercall results.
    pub looked_at: BTreeMap<&'static str, u64>,
    /// Broken rules with their counts.
    pub violations: BTreeMap<&'static str, u64>,
    /// Messages that were not judged because the paravisor had given up their
    /// channel or the connection.
    pub unheard: u64,
    /// Accesses to private pages that were refused.
    pub private_refused: u64,
    /// Records that the recorder had no room for.
    pub dropped: u64,
    /// What is wrong with the file.
    pub broken: Option<super::file::Broken>,
    /// What was worth saying about messages: all of them, or the violations.
    pub messages: Vec<Verdict>,
    /// Messages by layer and time, for the timeline: (time, layer, violated).
    #[serde(skip)]
    pub timeline: Vec<(u64, &'static str, bool)>,
    /// Frames, if they were asked for.
    #[serde(skip)]
    pub frames: Vec<Frame>,
    /// Whether `messages` has the accepted ones too.
    #[serde(skip)]
    pub(super) keep_all: bool,
    /// Whether frames are kept.
    #[serde(skip)]
    pub(super) keep_frames: bool,
}

impl Audit {
    /// Whether nothing is wrong: neither with the messages nor with the file.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.broken.is_none() && self.dropped == 0
    }

    /// One more message was judged in `layer`, with the paravisor's count.
    pub(super) fn count(&mut self, layer: Layer) {
        *self.judged.entry(layer.name()).or_default() += 1;
    }

    pub(super) fn look(&mut self, what: &'static str) {
        *self.looked_at.entry(what).or_default() += 1;
    }

    pub(super) fn say(&mut self, verdict: Verdict) {
        let violated = verdict.finding.is_some();
        if let Some(finding) = &verdict.finding {
            *self.violations.entry(finding.rule).or_default() += 1;
        }
        self.timeline.push((verdict.time, verdict.layer, violated));
        if violated || self.keep_all {
            self.messages.push(verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use validate::Rule;

    fn width(rule: Rule, offset: usize, value: u64, bytes: &[u8]) -> usize {
        Finding::new(Violation::new(rule, offset, value)).width(bytes)
    }

    #[test]
    fn the_offending_bytes_are_marked() {
        let mut bytes = [0; 64];
        bytes[8..12].copy_from_slice(&0x77_u32.to_le_bytes());
        bytes[12] = 1;
        // A field, by its value; of a register all of it, zeros too.
        assert_eq!(width(Rule::CTL_22, 8, 0x77, &bytes), 4);
        assert_eq!(width(Rule::CTL_22, 12, 1, &bytes), 4);
        assert_eq!(width(Rule::SYN_20, 0, 0x5000, &0x5000_u64.to_le_bytes()), 8);
        assert_eq!(width(Rule::SYN_22, 0, 0, &[0; 8]), 8);
        // A count: the header of what was counted, as far as there is one.
        assert_eq!(width(Rule::RND_20, 44, 17, &bytes), 12);
        assert_eq!(width(Rule::RND_16, 56, 9, &bytes), 8);
        assert_eq!(width(Rule::RND_02, 0, 7, &bytes[..7]), 7);
        assert_eq!(width(Rule::RND_02, 0, 13, &bytes[..13]), 8);
        assert_eq!(width(Rule::CTL_02, 0, 64, &bytes), 8);
        assert_eq!(width(Rule::NVS_01, 0, 3, &bytes), 4);
        assert_eq!(width(Rule::PKT_04, 0, 0xffff_ffff, &bytes), 16);
        // Something computed, in the middle; nothing at all.
        assert_eq!(width(Rule::RND_07, 16, 0x1234, &bytes), 1);
        assert_eq!(width(Rule::RND_07, 64, 0x1234, &bytes), 0);
        assert_eq!(width(Rule::RND_07, 65, 0x1234, &bytes), 0);
    }
}
