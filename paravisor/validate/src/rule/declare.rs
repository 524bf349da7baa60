//! How rules are declared, and what a declaration holds.

use super::{Reaction, Rule};

/// What the project has made of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Code judges and refuses, with this reaction.
    Enforced(Reaction),
    /// The construction holds it; there is no moment of refusal.
    Structural {
        /// Why no test can show it, if none can.
        untestable: Option<&'static str>,
    },
    /// The client has no use for what the rule speaks of, and another rule
    /// refuses it when the host tries.
    NotApplicable {
        /// That other rule.
        refused_by: Rule,
        /// Why the rule's case cannot come up.
        why: &'static str,
    },
    /// Not done on purpose.
    Rejected {
        /// The argument.
        why: &'static str,
    },
}

impl Standing {
    /// What a violation leads to, for rules that code holds.
    pub const fn reaction(self) -> Option<Reaction> {
        match self {
            Standing::Enforced(reaction) => Some(reaction),
            Standing::Structural { .. } => Some(Reaction::Structural),
            Standing::NotApplicable { .. } | Standing::Rejected { .. } => None,
        }
    }

    /// What a table says of a rule that code holds.
    pub(super) const fn held(reaction: Reaction, untestable: Option<&'static str>) -> Standing {
        match reaction {
            Reaction::Structural => Standing::Structural { untestable },
            other => {
                assert!(untestable.is_none(), "what refuses can be tested");
                Standing::Enforced(other)
            }
        }
    }
}

/// What a rule says, for people.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// The rule.
    pub rule: Rule,
    /// What the project has made of it.
    pub standing: Standing,
    /// What must hold.
    pub statement: &'static str,
    /// What goes wrong without it.
    pub danger: &'static str,
    /// What a malicious host would send.
    pub example: &'static str,
    /// Where the rule comes from: code, specification, or own reasoning.
    pub source: &'static str,
}

/// Declares the rules of one prefix. A rule that code holds:
///
/// ```text
/// rules! {
///     SYN_06 {
///         reaction: Drop,
///         statement: "payload_size is at most 240",
///         danger: "The reader runs past the slot into the memory behind it",
///         example: "A message with payload_size 255",
///         source: "Linux `__vmbus_on_msg_dpc`",
///     }
/// }
/// ```
///
/// gives `Rule::SYN_06` and a row of this module's `TABLE`. The constant's doc
/// comment is the statement. A property of the construction (`Structural`) that
/// no test can show says so after the reaction: `untestable: "why"`. Instead of
/// a reaction, and then without a constant:
///
/// ```text
///         not_applicable { refused_by: CTL_18, why: "Such a channel is never opened" },
///         rejected { why: "The argument" },
/// ```
///
/// `refused_by` is a rule with a constant, or the build fails.
macro_rules! rules {
    ($($name:ident { $($body:tt)* })*) => {
        #[allow(unused_imports)]
        use super::{Declaration, Reaction, Rule, Standing};

        impl Rule {
            $(rules! { @constant $name $($body)* })*
        }

        pub(super) const TABLE: &[Declaration] = &[$(rules! { @row $name $($body)* }),*];
    };
    (@constant $name:ident reaction: $reaction:ident, $(untestable: $why:literal,)?
        statement: $statement:literal, $($rest:tt)*) => {
        #[doc = $statement]
        pub const $name: Rule = Rule::named(stringify!($name));
    };
    (@constant $name:ident not_applicable $($rest:tt)*) => {};
    (@constant $name:ident rejected $($rest:tt)*) => {};
    (@row $name:ident reaction: $reaction:ident, $($rest:tt)*) => {
        rules! { @held $name $reaction [None] $($rest)* }
    };
    (@held $name:ident $reaction:ident [None] untestable: $why:literal, $($rest:tt)*) => {
        rules! { @held $name $reaction [Some($why)] $($rest)* }
    };
    (@held $name:ident $reaction:ident [$untestable:expr] $($rest:tt)*) => {
        rules! { @texts $name [Standing::held(Reaction::$reaction, $untestable)] $($rest)* }
    };
    (@row $name:ident not_applicable { refused_by: $by:ident, why: $why:literal $(,)? }, $($rest:tt)*) => {
        rules! { @texts $name [Standing::NotApplicable { refused_by: Rule::$by, why: $why }] $($rest)* }
    };
    (@row $name:ident rejected { why: $why:literal $(,)? }, $($rest:tt)*) => {
        rules! { @texts $name [Standing::Rejected { why: $why }] $($rest)* }
    };
    (@texts $name:ident [$standing:expr]
        statement: $statement:literal,
        danger: $danger:literal,
        example: $example:literal,
        source: $source:literal $(,)?) => {
        Declaration {
            rule: Rule::named(stringify!($name)),
            standing: $standing,
            statement: $statement,
            danger: $danger,
            example: $example,
            source: $source,
        }
    };
}
pub(super) use rules;
