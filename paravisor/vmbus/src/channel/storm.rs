//! Events that bring nothing (SYN-18, RNG-30).
//!
//! A host may raise a channel's event flag as often as it likes. While behind
//! the events something moves in the rings, each is attended to at once. After
//! [`SPURIOUS_EVENTS`] about nothing the channel is looked at by the clock only,
//! once per [`STORM_PERIOD`], until events are rare again. A storm that lasts
//! resets the channel.

use crate::limits::{SPURIOUS_EVENTS, STORM_PERIOD, STORM_PERIODS};
use validate::{Rule, Violation};

/// When a channel whose event flag was set is to be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Attention {
    /// Now.
    Now,
    /// Not for this event: by the clock, at this time.
    At(u64),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Events in a row without progress.
    Calm { spurious: u32 },
    /// Looked at by the clock.
    Storm {
        /// Next look.
        next: u64,
        /// Events since the last one.
        events: u32,
        /// Looks in a row that have found nothing.
        dry: u32,
    },
}

/// What was noticed about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing new.
    Attend(Attention),
    /// From here on the clock decides.
    Throttled(Attention),
    /// The storm has lasted too long.
    Reset(Violation),
}

/// Accounts for the events of one channel.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    state: State,
    /// How far the rings were at the last look.
    seen: (u64, u64),
}

impl Watch {
    pub(super) fn new() -> Watch {
        Watch {
            state: State::Calm { spurious: 0 },
            seen: (0, 0),
        }
    }

    /// The event flag was set. `progress` tells how far the rings are; it is asked
    /// for only if the answer matters, so a storm costs no look at the rings.
    pub(super) fn event(
        &mut self,
        now: u64,
        progress: impl FnOnce() -> Result<(u64, u64), Violation>,
    ) -> Result<Verdict, Violation> {
        if let State::Storm { next, events, .. } = &mut self.state
            && now < *next
        {
            *events = events.saturating_add(1);
            return Ok(Verdict::Attend(Attention::At(*next)));
        }
        let progress = progress()?;
        let moved = core::mem::replace(&mut self.seen, progress) != progress;
        let next = now.saturating_add(STORM_PERIOD);
        let (state, verdict) = match self.state {
            State::Calm { .. } if moved => {
                (State::Calm { spurious: 0 }, Verdict::Attend(Attention::Now))
            }
            State::Calm { spurious } if spurious.saturating_add(1) < SPURIOUS_EVENTS => (
                State::Calm {
                    spurious: spurious.saturating_add(1),
                },
                Verdict::Attend(Attention::Now),
            ),
            State::Calm { .. } => (
                State::Storm {
                    next,
                    events: 0,
                    dry: 0,
                },
                Verdict::Throttled(Attention::At(next)),
            ),
            // Few events in the last period: it is over.
            State::Storm { events, .. } if events < SPURIOUS_EVENTS => {
                (State::Calm { spurious: 0 }, Verdict::Attend(Attention::Now))
            }
            State::Storm { events, dry, .. } => {
                let dry = if moved { 0 } else { dry.saturating_add(1) };
                if dry >= STORM_PERIODS {
                    return Ok(Verdict::Reset(Violation::new(Rule::SYN_18, 0, events)));
                }
                (
                    State::Storm {
                        next,
                        events: 0,
                        dry,
                    },
                    Verdict::Attend(Attention::Now),
                )
            }
        };
        self.state = state;
        Ok(verdict)
    }
}
