//! Every rule of the catalogue, by id.
//!
//! One table per prefix, each in its own file, declared with `rules!`. A rule
//! has a constant (`Rule::RND_16`) when code holds it, not before: a constant
//! that nobody uses would claim a protection that is not there. A rule that
//! this client has no use for, or that is refused on purpose, is declared with
//! the reason and has no constant.
//!
//! What the firmware needs, ids and reactions, is here. The texts are in
//! [`Declaration`]s, which only tools on the host ask for; the linker leaves
//! them out of the firmware.

mod ctl;
mod declare;
mod gpd;
mod ics;
mod nvs;
mod pkt;
mod rnd;
mod rng;
mod syn;
mod sys;

use declare::rules;
pub use declare::{Declaration, Standing};

/// Where a host byte is when the rule judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// SynIC slots, event flags, hypercall results.
    Synic,
    /// Channel messages.
    Control,
    /// GPADLs and the sharing of pages.
    Gpadl,
    /// Ring indices.
    Ring,
    /// Ring packets.
    Packet,
    /// NVSP messages.
    Nvsp,
    /// RNDIS messages.
    Rndis,
    /// Integration components.
    Ic,
    /// The whole system.
    System,
}

impl Layer {
    /// All layers, from the wire up.
    pub const ALL: [Layer; 9] = [
        Layer::Synic,
        Layer::Control,
        Layer::Gpadl,
        Layer::Ring,
        Layer::Packet,
        Layer::Nvsp,
        Layer::Rndis,
        Layer::Ic,
        Layer::System,
    ];

    /// Name in records and in the catalogue.
    pub const fn name(self) -> &'static str {
        match self {
            Layer::Synic => "synic",
            Layer::Control => "control",
            Layer::Gpadl => "gpadl",
            Layer::Ring => "ring",
            Layer::Packet => "packet",
            Layer::Nvsp => "nvsp",
            Layer::Rndis => "rndis",
            Layer::Ic => "ic",
            Layer::System => "system",
        }
    }
}

/// What a violation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// No change of state.
    Ignore,
    /// This message or packet is discarded and counted; the road stays open.
    Drop,
    /// A safe value is used instead.
    Clamp,
    /// The request, or the bring-up of the device, fails.
    Fail,
    /// Work is bounded: yield, poll on a timer, coalesce.
    Throttle,
    /// The pages concerned are never used again.
    Leak,
    /// The channel is declared dead.
    Reset,
    /// The VMBus connection ends.
    Fatal,
    /// A property of the construction; there is no single moment of reaction.
    Structural,
}

impl Reaction {
    /// Name in the catalogue.
    pub const fn name(self) -> &'static str {
        match self {
            Reaction::Ignore => "ignore",
            Reaction::Drop => "drop",
            Reaction::Clamp => "clamp",
            Reaction::Fail => "fail",
            Reaction::Throttle => "throttle",
            Reaction::Leak => "leak",
            Reaction::Reset => "reset",
            Reaction::Fatal => "fatal",
            Reaction::Structural => "structural",
        }
    }
}

/// A rule of the catalogue. The constants (`Rule::CTL_23`, …) are the rules
/// that code holds; no other value can be made outside this module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule(u16);

/// First parts of ids, with their layers and the ids that were given out.
const PREFIXES: [(Layer, &[u8; 3], u16); 9] = [
    (Layer::Synic, b"SYN", 34),
    (Layer::Control, b"CTL", 62),
    (Layer::Gpadl, b"GPD", 14),
    (Layer::Ring, b"RNG", 30),
    (Layer::Packet, b"PKT", 24),
    (Layer::Nvsp, b"NVS", 50),
    (Layer::Rndis, b"RND", 69),
    (Layer::Ic, b"ICS", 14),
    (Layer::System, b"SYS", 18),
];

/// One table per prefix; a new prefix is added here.
const TABLES: [&[Declaration]; 9] = [
    syn::TABLE,
    ctl::TABLE,
    gpd::TABLE,
    rng::TABLE,
    pkt::TABLE,
    nvs::TABLE,
    rnd::TABLE,
    ics::TABLE,
    sys::TABLE,
];

/// By index: what a violation leads to, for rules that code holds.
static REACTIONS: [Option<Reaction>; Rule::COUNT] = Rule::REACTIONS;
/// By index: `RND-16`.
static IDS: [[u8; 6]; Rule::COUNT] = Rule::IDS;

#[allow(
    clippy::indexing_slicing,
    reason = "indexing in `const` items fails the build, not the program"
)]
impl Rule {
    /// Number of ids that the catalogue has given out; [`Rule::index`] is below it.
    pub const COUNT: usize = {
        let mut sum = 0;
        let mut i = 0;
        while i < PREFIXES.len() {
            sum += PREFIXES[i].2 as usize;
            i += 1;
        }
        sum
    };

    const IDS: [[u8; 6]; Rule::COUNT] = {
        let mut ids = [[0; 6]; Rule::COUNT];
        let (mut at, mut i) = (0, 0);
        while i < PREFIXES.len() {
            let (_, letters, count) = PREFIXES[i];
            let mut n = 1;
            while n <= count {
                let (tens, ones) = (b'0' + (n / 10) as u8, b'0' + (n % 10) as u8);
                ids[at] = [letters[0], letters[1], letters[2], b'-', tens, ones];
                at += 1;
                n += 1;
            }
            i += 1;
        }
        ids
    };

    const REACTIONS: [Option<Reaction>; Rule::COUNT] = {
        let mut reactions = [None; Rule::COUNT];
        let mut i = 0;
        while i < TABLES.len() {
            let mut n = 0;
            while n < TABLES[i].len() {
                let declaration = &TABLES[i][n];
                reactions[declaration.rule.0 as usize] = declaration.standing.reaction();
                n += 1;
            }
            i += 1;
        }
        reactions
    };

    /// The rule that a table calls `RND_16`; fails the build for a name that is no id.
    const fn named(name: &str) -> Rule {
        let name = name.as_bytes();
        assert!(name.len() == 6 && name[3] == b'_');
        let mut at = 0;
        loop {
            // Names an id that was never given out.
            assert!(at < Rule::COUNT);
            let id = &Rule::IDS[at];
            let mut same = 0;
            while same < 6 && (same == 3 || id[same] == name[same]) {
                same = same.saturating_add(1);
            }
            if same == 6 {
                return Rule(at as u16);
            }
            at = at.saturating_add(1);
        }
    }
}

impl Rule {
    /// Number of this rule among all ids of the catalogue, for counters.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The id as the catalogue writes it: `RND-16`.
    pub fn id(self) -> &'static str {
        IDS.get(self.index())
            .and_then(|id| core::str::from_utf8(id).ok())
            .unwrap_or("???-??")
    }

    /// Where it is enforced.
    pub fn layer(self) -> Layer {
        let mut end = 0_u16;
        for (layer, _, count) in PREFIXES {
            end = end.saturating_add(count);
            if self.0 < end {
                return layer;
            }
        }
        Layer::System
    }

    /// What a violation leads to. A rule without a constant would end the
    /// connection; nobody can name one.
    pub fn reaction(self) -> Reaction {
        let reaction = REACTIONS.get(self.index()).copied().flatten();
        reaction.unwrap_or(Reaction::Fatal)
    }

    /// Every rule that code holds, in the catalogue's order.
    pub fn all() -> impl Iterator<Item = Rule> {
        (0..)
            .map(Rule)
            .zip(&REACTIONS)
            .filter_map(|(rule, reaction)| reaction.map(|_| rule))
    }

    /// The rule with this id, if code holds it.
    pub fn from_id(id: &str) -> Option<Rule> {
        Rule::all().find(|rule| rule.id() == id)
    }

    /// Every id that the catalogue has given out, declared or not, with its layer.
    pub fn ids() -> impl Iterator<Item = (&'static str, Layer)> {
        (0..)
            .map(Rule)
            .take(Rule::COUNT)
            .map(|rule| (rule.id(), rule.layer()))
    }

    /// What the tables say, in the catalogue's order: the texts. Not for the
    /// firmware, which has no use for them.
    pub fn declarations() -> impl Iterator<Item = &'static Declaration> {
        TABLES.iter().flat_map(|table| table.iter())
    }
}

impl core::fmt::Display for Rule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.id())
    }
}

impl core::fmt::Debug for Rule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_ordered_and_found_again() {
        let mut last = None;
        for d in Rule::declarations() {
            assert!(
                last < Some(d.rule.index()),
                "{} twice or out of order",
                d.rule
            );
            last = Some(d.rule.index());
            let held = d.standing.reaction().map(|_| d.rule);
            assert_eq!(Rule::from_id(d.rule.id()), held);
        }
        let held = Rule::declarations().filter(|d| d.standing.reaction().is_some());
        assert!(held.map(|d| d.rule).eq(Rule::all()));
        assert_eq!(Rule::SYN_01.index(), 0);
        assert_eq!(
            (Rule::RND_16.id(), Rule::RND_16.layer()),
            ("RND-16", Layer::Rndis)
        );
        assert_eq!(Rule::SYS_14.layer(), Layer::System);
        assert_eq!(Rule::RND_16.reaction(), Reaction::Drop);
    }

    #[test]
    fn every_declaration_has_all_its_texts() {
        for d in Rule::declarations() {
            for text in [d.statement, d.danger, d.example, d.source] {
                assert!(
                    !text.is_empty() && !text.ends_with('.'),
                    "{}: {text:?}",
                    d.rule
                );
            }
        }
    }

    #[test]
    fn every_file_declares_its_own_prefix() {
        for (table, (layer, ..)) in TABLES.iter().zip(PREFIXES) {
            assert!(table.iter().all(|d| d.rule.layer() == layer), "{layer:?}");
        }
    }

    #[test]
    fn the_catalogue_has_315_ids() {
        assert_eq!(Rule::COUNT, 315);
        let all: HashSet<&str> = Rule::ids().map(|(id, _)| id).collect();
        assert_eq!(all.len(), Rule::COUNT);
    }
}
