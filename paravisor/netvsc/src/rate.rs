//! What the host may ask for in a row: budgets per interval, and link events
//! that the guest sees at its own pace.

use crate::limits::{LINK_INTERVAL, NETWORK_CHANGE_INTERVAL, RATE_INTERVAL};

/// So many per [`RATE_INTERVAL`].
pub(crate) struct Budget {
    limit: u32,
    left: u32,
    renewed: u64,
}

impl Budget {
    pub const fn new(limit: u32) -> Budget {
        Budget {
            limit,
            left: limit,
            renewed: 0,
        }
    }

    /// Whether there is one more in this interval.
    pub fn take(&mut self, now: u64) -> bool {
        if now.saturating_sub(self.renewed) >= RATE_INTERVAL {
            self.left = self.limit;
            self.renewed = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// The link as the host tells it and as the guest was told (RND-55, RND-56).
/// Two bits and two times, however many events come.
pub(crate) struct Link {
    up: bool,
    told: bool,
    may_tell: u64,
    network_changed: bool,
    may_tell_network: u64,
}

impl Link {
    /// Both sides know of a link that is down.
    pub const fn new() -> Link {
        Link {
            up: false,
            told: false,
            may_tell: 0,
            network_changed: false,
            may_tell_network: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        self.up
    }

    /// The host says that the link is up or down. `false`: it takes back a
    /// change that the guest was not told of yet.
    pub fn hear(&mut self, up: bool) -> bool {
        let takes_back = self.up != self.told && up == self.told;
        self.up = up;
        !takes_back
    }

    /// The host says that the network changed. `false`: one such report is
    /// under way or was made within the interval.
    pub fn hear_network(&mut self, now: u64) -> bool {
        let taken = !self.network_changed && now >= self.may_tell_network;
        self.network_changed |= taken;
        taken
    }

    /// What the guest is to be told now.
    pub fn tell(&mut self, now: u64) -> Option<bool> {
        if self.up == self.told || now < self.may_tell {
            return None;
        }
        self.told = self.up;
        self.may_tell = now.saturating_add(LINK_INTERVAL);
        Some(self.up)
    }

    /// Whether the guest is to be told of a changed network now.
    pub fn tell_network(&mut self, now: u64) -> bool {
        let tell = core::mem::take(&mut self.network_changed);
        if tell {
            self.may_tell_network = now.saturating_add(NETWORK_CHANGE_INTERVAL);
        }
        tell
    }

    /// When something that is held back may be told.
    pub fn deadline(&self) -> Option<u64> {
        (self.up != self.told).then_some(self.may_tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvs_47_budget_per_interval() {
        let mut budget = Budget::new(3);
        assert_eq!((0..5).filter(|_| budget.take(RATE_INTERVAL)).count(), 3);
        assert!(!budget.take(2 * RATE_INTERVAL - 1));
        assert!(budget.take(2 * RATE_INTERVAL));
    }

    #[test]
    fn rnd_55_a_million_flaps_are_few_events() {
        let mut link = Link::new();
        let mut told = 0;
        for now in 0..1_000_000u64 {
            link.hear(now % 2 == 0);
            told += u32::from(link.tell(now * 10).is_some());
        }
        // 10^7 ticks are one second.
        assert!((1..=6).contains(&told), "{told}");
        // What remains is told in the end.
        link.hear(true);
        let last = link.tell(u64::MAX / 2);
        assert!(link.told && (last.is_none() || last == Some(true)));
        assert_eq!(link.deadline(), None);
    }

    #[test]
    fn rnd_55_change_that_is_taken_back() {
        let mut link = Link::new();
        assert!(link.hear(true));
        assert_eq!(link.tell(1), Some(true));
        assert!(link.hear(false));
        assert_eq!(link.tell(2), None);
        assert_eq!(link.deadline(), Some(1 + LINK_INTERVAL));
        assert!(!link.hear(true));
        assert_eq!(
            (link.tell(1 + LINK_INTERVAL), link.deadline()),
            (None, None)
        );
    }

    #[test]
    fn rnd_56_network_changes() {
        let mut link = Link::new();
        assert!(link.hear_network(0));
        assert!(link.tell_network(0));
        assert!(!link.hear_network(10));
        assert!(!link.tell_network(10));
        assert!(link.hear_network(NETWORK_CHANGE_INTERVAL));
        assert!(link.tell_network(NETWORK_CHANGE_INTERVAL));
    }
}
