//! Outstanding requests of one channel (PKT-13 to PKT-18, PKT-24).
//!
//! The id on the wire is `lane << 56 | counter << 9 | index`: the counter starts at a random
//! number and grows with each request, so an id is never reused while the host
//! may remember it, says nothing about memory, and is compared whole.

use crate::limits::{REQUESTS, REQUESTS_BESIDE, TRANSMIT_DEADLINE};
use crate::transmit::Sections;
use alloc::vec;
use alloc::vec::Vec;
use validate::nvsp::Awaited;
use validate::{Rule, Violation};

const INDEX_BITS: u32 = REQUESTS.trailing_zeros();
const LANE_SHIFT: u32 = 56;
const LANE_MASK: u64 = (1 << LANE_SHIFT) - 1;
const INDEX_MASK: u64 = REQUESTS as u64 - 1;
const _: () = assert!(REQUESTS.is_power_of_two());
const _: () = assert!(REQUESTS > validate::nvsp::MAX_SECTIONS as usize + 8);

/// A request that waits for its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// What completes it.
    pub awaited: Awaited,
    /// The send sections that it holds (NVS-22).
    pub sections: Option<Sections>,
    /// RNDIS messages in it.
    pub messages: u16,
    /// When it was sent.
    pub sent: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Id of the last request here, 0 before the first.
    id: u64,
    request: Option<Request>,
}

/// The table.
pub(crate) struct Requests {
    /// A power of two, and at most [`REQUESTS`].
    entries: Vec<Entry>,
    /// Where the search for a free entry starts.
    next: usize,
    counter: u64,
    /// First byte of all ids.
    lane: u8,
    outstanding: usize,
}

impl Requests {
    /// An empty table whose ids start at `seed`. Those of each of a card's channels
    /// begin with another byte, so that none is known on another (PKT-18).
    pub fn new(seed: u64, lane: u16) -> Requests {
        Requests::with_room(seed, lane, REQUESTS)
    }

    /// The same for a channel that has so many sections to send from: each of its
    /// requests holds one or more.
    pub fn for_sections(seed: u64, lane: u16, sections: usize) -> Requests {
        let room = sections.saturating_add(REQUESTS_BESIDE);
        let room = room.checked_next_power_of_two().unwrap_or(REQUESTS);
        Requests::with_room(seed, lane, room.min(REQUESTS))
    }

    fn with_room(seed: u64, lane: u16, room: usize) -> Requests {
        let [first, ..] = seed.to_be_bytes();
        let empty = Entry {
            id: 0,
            request: None,
        };
        Requests {
            entries: vec![empty; room],
            next: 0,
            counter: seed,
            lane: first.wrapping_add(lane as u8),
            outstanding: 0,
        }
    }

    /// Requests that wait.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether another one can be entered.
    pub fn has_room(&self) -> bool {
        self.outstanding < self.entries.len()
    }

    /// Enters a request and gives its id, which is never 0.
    pub fn issue(&mut self, request: Request) -> Option<u64> {
        let mask = self.entries.len().wrapping_sub(1);
        for step in 0..self.entries.len() {
            let index = self.next.wrapping_add(step) & mask;
            let entry = self.entries.get_mut(index)?;
            if entry.request.is_some() {
                continue;
            }
            self.counter = self.counter.wrapping_add(1);
            let lane = u64::from(self.lane).wrapping_shl(LANE_SHIFT);
            let in_lane =
                |counter: u64| lane | (counter.wrapping_shl(INDEX_BITS) & LANE_MASK) | index as u64;
            let mut id = in_lane(self.counter);
            if id == 0 {
                id = in_lane(1);
            }
            *entry = Entry {
                id,
                request: Some(request),
            };
            self.next = index.wrapping_add(1);
            self.outstanding = self.outstanding.saturating_add(1);
            return Some(id);
        }
        None
    }

    /// Takes the request that a completion names. Each can be taken once.
    pub fn retire(&mut self, id: u64) -> Result<Request, Violation> {
        if id == 0 {
            return Err(Violation::new(Rule::PKT_14, 8, id));
        }
        // The mask bounds the index for speculation too.
        let Some(entry) = self.entries.get_mut((id & INDEX_MASK) as usize) else {
            return Err(Violation::new(Rule::PKT_13, 8, id));
        };
        if entry.id != id {
            return Err(Violation::new(Rule::PKT_13, 8, id));
        }
        match entry.request.take() {
            Some(request) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                Ok(request)
            }
            None => Err(Violation::new(Rule::PKT_15, 8, id)),
        }
    }

    /// Undoes [`issue`](Self::issue) for a packet that did not leave.
    pub fn cancel(&mut self, id: u64) {
        let _ = self.retire(id);
    }

    /// Whether all requests are younger than the deadline (PKT-24).
    pub fn check_age(&self, now: u64) -> Result<(), Violation> {
        let oldest = self
            .entries
            .iter()
            .filter_map(|entry| entry.request)
            .map(|r| r.sent)
            .min();
        match oldest.map(|sent| now.saturating_sub(sent)) {
            Some(age) if age > TRANSMIT_DEADLINE => Err(Violation::new(Rule::PKT_24, 0, age)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sent: u64) -> Request {
        Request {
            awaited: Awaited::Rndis,
            sections: Some(Sections::one(3)),
            messages: 1,
            sent,
        }
    }

    fn rule<T: core::fmt::Debug>(result: Result<T, Violation>) -> Rule {
        result.unwrap_err().rule
    }

    #[test]
    fn pkt_13_id_that_was_never_given_out() {
        let mut table = Requests::new(0x1234, 0);
        let id = table.issue(request(0)).unwrap();
        for stray in [0xFFFF_8880_0000_1000, id ^ (1 << 40), id + 1, 1, u64::MAX] {
            assert_eq!(rule(table.retire(stray)), Rule::PKT_13, "{stray:#x}");
        }
        assert_eq!(table.retire(id), Ok(request(0)));
    }

    #[test]
    fn a_channel_with_few_sections_has_a_small_table() {
        let mut table = Requests::for_sections(5, 63, 4);
        assert!(table.entries.len() < 32);
        let ids: Vec<_> = core::iter::from_fn(|| table.issue(request(0))).collect();
        assert_eq!(ids.len(), table.entries.len());
        assert!(!table.has_room());
        // An index behind its end is one that was never given out.
        let behind = ids[0] & !INDEX_MASK | INDEX_MASK;
        assert_eq!(rule(table.retire(behind)), Rule::PKT_13);
        for id in ids {
            assert_eq!(table.retire(id), Ok(request(0)));
        }
        assert_eq!(table.outstanding(), 0);
        assert_eq!(Requests::for_sections(5, 1, 9000).entries.len(), REQUESTS);
    }

    #[test]
    fn pkt_14_id_zero() {
        assert_eq!(rule(Requests::new(0, 0).retire(0)), Rule::PKT_14);
        // Even a counter that wraps gives no zero.
        let mut table = Requests::new(u64::MAX >> (64 - LANE_SHIFT + INDEX_BITS), 0);
        assert_ne!(table.issue(request(0)), Some(0));
    }

    #[test]
    fn pkt_15_completion_twice() {
        let mut table = Requests::new(9, 0);
        let id = table.issue(request(0)).unwrap();
        assert!(table.retire(id).is_ok());
        assert_eq!(rule(table.retire(id)), Rule::PKT_15);
        assert_eq!(table.outstanding(), 0);
    }

    #[test]
    fn pkt_17_ids_are_not_reused() {
        let mut table = Requests::new(77, 0);
        let mut last = 0;
        for _ in 0..10_000 {
            let id = table.issue(request(0)).unwrap();
            assert_ne!(id, last);
            table.retire(id).unwrap();
            last = id;
        }
        let other = Requests::new(78, 0).issue(request(0)).unwrap();
        assert_ne!(Some(other), Requests::new(77, 0).issue(request(0)));
    }

    /// PKT-18: each channel has its own table, with numbers of its own.
    #[test]
    fn pkt_18_id_of_another_channel() {
        let (mut one, mut other) = (Requests::new(5, 0), Requests::new(5, 1));
        let id = one.issue(request(0)).unwrap();
        let own = other.issue(request(0)).unwrap();
        assert_eq!(rule(other.retire(id)), Rule::PKT_13, "PKT-18");
        // Nothing of the channel's own was touched.
        assert_eq!((one.outstanding(), other.outstanding()), (1, 1));
        assert!(other.retire(own).is_ok() && one.retire(id).is_ok());
    }

    #[test]
    fn the_table_fills_and_empties() {
        let mut table = Requests::new(1, 0);
        let ids: [u64; REQUESTS] = core::array::from_fn(|_| table.issue(request(0)).unwrap());
        assert_eq!(table.issue(request(0)), None);
        for id in ids {
            table.retire(id).unwrap();
        }
        assert_eq!(table.outstanding(), 0);
        assert!(table.issue(request(0)).is_some());
    }

    #[test]
    fn pkt_24_oldest_request() {
        let mut table = Requests::new(1, 0);
        let old = table.issue(request(100)).unwrap();
        table.issue(request(TRANSMIT_DEADLINE)).unwrap();
        assert!(table.check_age(100 + TRANSMIT_DEADLINE).is_ok());
        assert_eq!(rule(table.check_age(101 + TRANSMIT_DEADLINE)), Rule::PKT_24);
        table.retire(old).unwrap();
        assert!(table.check_age(101 + TRANSMIT_DEADLINE).is_ok());
    }
}
