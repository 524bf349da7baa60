//! Every rule that the code enforces, by id.
//!
//! One table per prefix, each in its own file, declared with [`rules!`]. A rule
//! is declared when code enforces it, not before: a constant that nobody uses
//! would claim a protection that is not there.

mod ctl;
mod gpd;
mod nvs;
mod pkt;
mod rnd;
mod rng;
mod syn;
mod sys;

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

/// First part of a rule's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Prefix {
    Syn,
    Ctl,
    Gpd,
    Rng,
    Pkt,
    Nvs,
    Rnd,
    Ics,
    Sys,
}

impl Prefix {
    /// Prefixes with the number of rules that the catalogue has for each.
    const SIZES: [(Prefix, &'static [u8; 3], u16); 9] = [
        (Prefix::Syn, b"SYN", 34),
        (Prefix::Ctl, b"CTL", 62),
        (Prefix::Gpd, b"GPD", 14),
        (Prefix::Rng, b"RNG", 30),
        (Prefix::Pkt, b"PKT", 24),
        (Prefix::Nvs, b"NVS", 50),
        (Prefix::Rnd, b"RND", 69),
        (Prefix::Ics, b"ICS", 14),
        (Prefix::Sys, b"SYS", 18),
    ];

    /// Rules of the prefix with this position.
    const fn size(position: usize) -> usize {
        let mut rest: &[(Prefix, &[u8; 3], u16)] = &Prefix::SIZES;
        let mut skip = position;
        while let [(_, _, size), after @ ..] = rest {
            if skip == 0 {
                return *size as usize;
            }
            skip = skip.saturating_sub(1);
            rest = after;
        }
        0
    }

    /// Where rules of this prefix are enforced.
    pub const fn layer(self) -> Layer {
        match self {
            Prefix::Syn => Layer::Synic,
            Prefix::Ctl => Layer::Control,
            Prefix::Gpd => Layer::Gpadl,
            Prefix::Rng => Layer::Ring,
            Prefix::Pkt => Layer::Packet,
            Prefix::Nvs => Layer::Nvsp,
            Prefix::Rnd => Layer::Rndis,
            Prefix::Ics => Layer::Ic,
            Prefix::Sys => Layer::System,
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
/// that code enforces; no other value can be made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    prefix: Prefix,
    number: u8,
}

/// What a rule says.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// The rule.
    pub rule: Rule,
    /// What must hold.
    pub statement: &'static str,
    /// What happens if it does not.
    pub reaction: Reaction,
    /// Where the rule comes from: code, specification, or own reasoning.
    pub source: &'static str,
}

/// One table per prefix; a new prefix is added here.
const TABLES: [&[Declaration]; 8] = [
    syn::TABLE,
    ctl::TABLE,
    gpd::TABLE,
    rng::TABLE,
    pkt::TABLE,
    nvs::TABLE,
    rnd::TABLE,
    sys::TABLE,
];

// Indexing in `const` items fails the build, not the program.
#[allow(clippy::indexing_slicing)]
impl Rule {
    /// Number of ids that the catalogue has given out; [`Rule::index`] is below it.
    pub const COUNT: usize = {
        let mut sum = 0;
        let mut i = 0;
        while i < Prefix::SIZES.len() {
            sum += Prefix::SIZES[i].2 as usize;
            i += 1;
        }
        sum
    };

    const IDS: [[u8; 6]; Rule::COUNT] = {
        let mut ids = [[0; 6]; Rule::COUNT];
        let (mut at, mut i) = (0, 0);
        while i < Prefix::SIZES.len() {
            let (_, letters, count) = Prefix::SIZES[i];
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

    /// Checks at compile time that a constant's name, prefix and number agree.
    const fn declared(prefix: Prefix, number: u8, name: &str) -> Rule {
        let rule = Rule { prefix, number };
        let id = &Rule::IDS[rule.index()];
        let name = name.as_bytes();
        assert!(name.len() == id.len());
        let mut i = 0;
        while i < name.len() {
            assert!(name[i] == id[i] || (name[i] == b'_' && id[i] == b'-'));
            i = i.saturating_add(1);
        }
        rule
    }
}

impl Rule {
    /// Number of this rule among all ids of the catalogue, for counters.
    pub const fn index(self) -> usize {
        let mut base = 0_usize;
        let mut i = 0_usize;
        while i < self.prefix as usize && i < Prefix::SIZES.len() {
            base = base.saturating_add(Prefix::size(i));
            i = i.saturating_add(1);
        }
        base.saturating_add(self.number as usize).saturating_sub(1)
    }

    /// The id as the catalogue writes it: `RND-16`.
    pub fn id(self) -> &'static str {
        Rule::IDS
            .get(self.index())
            .and_then(|id| core::str::from_utf8(id).ok())
            .unwrap_or("???-??")
    }

    /// Where it is enforced.
    pub const fn layer(self) -> Layer {
        self.prefix.layer()
    }

    /// The table's entry.
    pub fn declaration(self) -> Option<&'static Declaration> {
        Rule::all().find(|d| d.rule == self)
    }

    /// What a violation leads to. Unknown rules end the connection; there are none.
    pub fn reaction(self) -> Reaction {
        self.declaration().map_or(Reaction::Fatal, |d| d.reaction)
    }

    /// Every declared rule, in the catalogue's order.
    pub fn all() -> impl Iterator<Item = &'static Declaration> {
        TABLES.iter().flat_map(|table| table.iter())
    }

    /// Every id that the catalogue has given out, declared or not, with its layer.
    pub fn ids() -> impl Iterator<Item = (&'static str, Layer)> {
        Prefix::SIZES
            .iter()
            .flat_map(|(prefix, _, size)| core::iter::repeat_n(prefix.layer(), *size as usize))
            .zip(&Rule::IDS)
            .map(|(layer, id)| (core::str::from_utf8(id).unwrap_or("???-??"), layer))
    }

    /// The rule with this id, if it is declared.
    pub fn from_id(id: &str) -> Option<Rule> {
        Rule::all().map(|d| d.rule).find(|r| r.id() == id)
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

/// Declares the rules of one prefix:
///
/// ```text
/// rules! { Syn
///     SYN_06 = 6, Drop, "payload_size <= 240", "Linux `__vmbus_on_msg_dpc`";
/// }
/// ```
///
/// gives `Rule::SYN_06` and a row of this module's `TABLE`. The constant's doc
/// comment is the statement.
macro_rules! rules {
    ($prefix:ident $($name:ident = $number:literal, $reaction:ident, $statement:literal, $source:literal;)*) => {
        #[allow(unused_imports)]
        use crate::rule::{Declaration, Prefix, Reaction, Rule};

        #[allow(dead_code)]
        const PREFIX: Prefix = Prefix::$prefix;

        impl Rule {
            $(
                #[doc = $statement]
                pub const $name: Rule = Rule::declared(PREFIX, $number, stringify!($name));
            )*
        }

        pub(super) const TABLE: &[Declaration] = &[$(Declaration {
            rule: Rule::$name,
            statement: $statement,
            reaction: Reaction::$reaction,
            source: $source,
        }),*];
    };
}
use rules;

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_ordered_and_found_again() {
        let mut seen = HashSet::new();
        let mut last = None;
        for d in Rule::all() {
            assert!(seen.insert(d.rule.id()), "{} twice", d.rule);
            assert!(last < Some(d.rule.index()), "{} out of order", d.rule);
            last = Some(d.rule.index());
            assert_eq!(Rule::from_id(d.rule.id()), Some(d.rule));
            assert!(!d.statement.is_empty() && !d.source.is_empty());
        }
    }

    #[test]
    fn the_catalogue_has_315_ids() {
        assert_eq!(Rule::COUNT, 315);
        let all: HashSet<&str> = Rule::ids().map(|(id, _)| id).collect();
        assert_eq!(all.len(), Rule::COUNT);
        for d in Rule::all() {
            assert!(Rule::ids().any(|own| own == (d.rule.id(), d.rule.layer())));
        }
    }
}
