//! The counters of a run, as records (names: `abi::record` and the tools that
//! read them).

use crate::account::Account;
use crate::record::Line;
use crate::run::Stats;
use crate::uplink::{Totals, Uplink};
use memory::{Backing, Purpose, SharedPool};
use platform::Exit;
use validate::{Layer, Rule};

/// Shared pages, by what they are for.
pub type SharedPages = [(Purpose, u64); Purpose::ALL.len()];

/// What `main` and the loop have counted.
pub struct Summary<'a, B: Backing, const N: usize> {
    /// The loop.
    pub stats: &'a Stats,
    /// The uplink with everything below it.
    pub uplink: &'a Uplink<B, N>,
    /// Hypercalls by code.
    pub hypercalls: &'a [(u16, u64)],
    /// Frames, losses and memory.
    pub account: &'a Account,
    /// Interrupts on vectors that nobody asked for (SYN-19).
    pub foreign_interrupts: u64,
}

/// Shared pages by purpose: those of the pool that are in use or lost, and `ghcb`
/// pages outside of it.
pub fn shared_pages<B: Backing, const N: usize>(pool: &SharedPool<B, N>, ghcb: u64) -> SharedPages {
    Purpose::ALL.map(|purpose| {
        let pages = pool.used(purpose).saturating_add(pool.leaked(purpose)) as u64;
        let own = if purpose == Purpose::Ghcb { ghcb } else { 0 };
        (purpose, pages.saturating_add(own))
    })
}

impl<B: Backing, const N: usize> Summary<'_, B, N> {
    /// Hands every line to `emit`. Zeros are told where a reader compares, left
    /// out elsewhere.
    pub fn emit(&self, mut emit: impl FnMut(&Line)) {
        for (name, count) in Exit::NAMES.iter().zip(self.stats.exits) {
            if count != 0 {
                emit(&Line::count("guest_exit", format_args!("{name}"), count));
            }
        }
        for (code, count) in self.hypercalls {
            emit(&Line::count("hypercall", format_args!("{code:#x}"), *count));
        }
        let totals: Totals = self.uplink.totals();
        // Of one channel the sum says all.
        if totals.lanes.len() > 1 {
            for (lane, frames) in (0..u64::BITS).zip(&totals.lanes) {
                for (way, count) in [("rx", frames.rx), ("tx", frames.tx)] {
                    emit(&Line::count(
                        "lane_frame",
                        format_args!("{lane}.{way}"),
                        count,
                    ));
                }
            }
        }
        for layer in Layer::ALL {
            let count = totals.validation.messages(layer);
            if count != 0 {
                emit(&Line::count(
                    "message_judged",
                    format_args!("{}", layer.name()),
                    count,
                ));
            }
        }
        for (rule, count) in totals.validation.violations() {
            emit(&Line::count(
                "violation",
                format_args!("{rule}"),
                count.into(),
            ));
        }
        for (rule, count) in [
            (Rule::SYN_19, self.foreign_interrupts),
            (Rule::SYN_34, self.stats.early_timers),
        ] {
            if count != 0 {
                emit(&Line::count("violation", format_args!("{rule}"), count));
            }
        }
        emit(&Line::count("sint", format_args!(""), self.stats.sints));
        emit(&Line::count("kick", format_args!(""), self.stats.kicks));
        for (name, key, value) in self.account.rows() {
            emit(&Line::count(name, format_args!("{key}"), *value));
        }
    }
}
