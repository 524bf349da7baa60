//! When the rings of a channel get a turn: at the host's events, unless such events have
//! brought nothing for too long (SYN-18), and when something else asks for one.

use crate::run::Polled;
use validate::Violation;
use vmbus::Attention;

/// The turns of one VP's rings.
#[derive(Default)]
pub(crate) struct Turns {
    /// When they are looked at next, while events bring nothing.
    next: Option<u64>,
    /// What the last look at them has left to do.
    left: Polled,
}

impl Turns {
    /// The host has signalled; what the channel makes of it. An error: the channel is
    /// dead, and whoever uses it notices in its turn.
    pub(crate) fn on_event(&mut self, attention: Result<Attention, Violation>) {
        self.next = match attention {
            Ok(Attention::At(next)) => Some(next),
            Ok(Attention::Now) | Err(_) => None,
        };
    }

    /// Whether the rings rest at `now`, and until when; `asked`: there is work for them,
    /// whatever the host's events say. `None`: they get their turn.
    pub(crate) fn rest(&mut self, asked: bool, now: u64) -> Option<Polled> {
        let asked =
            asked || self.left.more || self.left.deadline.is_some_and(|deadline| deadline <= now);
        let next = self.next.take().filter(|next| now < *next && !asked)?;
        self.next = Some(next);
        let deadlines = [self.left.deadline, self.next];
        Some(Polled {
            more: false,
            deadline: deadlines.into_iter().flatten().min(),
        })
    }

    /// They had their turn, which has left this to do.
    pub(crate) fn had(&mut self, left: Polled) -> Polled {
        self.left = left;
        left
    }
}
