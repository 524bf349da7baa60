//! Cards that are taken back and offered anew, at every moment.

use super::*;
use alloc::collections::{BTreeMap, BTreeSet};

/// As [`Run::offered`], with the boot-time set complete.
fn sealed(late_offers: LateOffers) -> (Run, ChannelId) {
    let (mut run, channel) = Run::offered();
    run.client.config.late_offers = late_offers;
    run.tell(&words(4, &[]));
    assert_eq!(run.event(), Event::OffersDelivered);
    (run, channel)
}

/// Takes the card at this relid back, which nobody uses.
fn take_back(run: &mut Run, relid: u32) {
    run.tell(&words(2, &[relid]));
    assert!(matches!(run.event(), Event::Rescinded { .. }));
    assert!(matches!(run.event(), Event::Released { .. }));
    run.sent(13);
}

/// An offer that is refused under this rule; its relid goes back.
fn refused(run: &mut Run, relid: u32, instance: Guid, rule: Rule) {
    let before = run.count(rule);
    run.tell(offer(relid, instance).as_bytes());
    assert_eq!(run.count(rule), before + 1, "{rule}");
    assert_eq!(word(&run.sent(13), 8), relid);
    run.silent();
}

const OTHER: Guid = Guid([9; 16]);

#[test]
fn ctl_29_a_card_that_was_taken_back_may_return() {
    let (mut run, first) = sealed(LateOffers::Returning);
    for relid in 8..12 {
        take_back(&mut run, relid - 1);
        let channel = run.card(relid);
        assert_ne!(channel, first);
        assert_eq!(run.client.on_offer(), Some(channel));
    }
    assert_eq!(run.client.counters().total(), 0);
    // The first is on offer once only, and while it is there it cannot come again.
    run.tell(offer(30, NIC).as_bytes());
    assert_eq!(run.failed(), Rule::CTL_24);
}

#[test]
fn ctl_29_no_other_card_after_the_boot_time_set() {
    let (mut run, _) = sealed(LateOffers::Returning);
    refused(&mut run, 8, OTHER, Rule::CTL_29);
    take_back(&mut run, 7);
    refused(&mut run, 7, OTHER, Rule::CTL_29);
    // The same instance in another class is another device.
    let mut disk = offer(7, NIC);
    disk.interface = class::SCSI;
    run.tell(disk.as_bytes());
    assert_eq!(run.count(Rule::SYS_18), 1);
    run.sent(13);
    run.tell(offer(7, NIC).as_bytes());
    assert!(matches!(run.event(), Event::Offered { .. }));
}

#[test]
fn ctl_29_the_configuration_decides() {
    let (mut run, _) = sealed(LateOffers::Nothing);
    take_back(&mut run, 7);
    refused(&mut run, 7, NIC, Rule::CTL_29);
    let (mut run, _) = sealed(LateOffers::Anything);
    run.tell(offer(8, OTHER).as_bytes());
    assert!(matches!(run.event(), Event::Offered { .. }));
    refused(&mut run, 9, Guid([8; 16]), Rule::SYS_14);
}

/// What counts is the set at the end of the boot: a card that goes before and
/// returns after it belongs to it, one that was replaced does not.
#[test]
fn ctl_29_a_card_that_goes_before_the_seal() {
    let mut run = Run::connected();
    run.client.config.nics = 1;
    let late = |cards: &[Guid]| {
        let mut run = Run {
            client: run.client.clone(),
            now: run.now,
        };
        for card in cards {
            run.tell(offer(7, *card).as_bytes());
            assert!(matches!(run.event(), Event::Offered { .. }));
            take_back(&mut run, 7);
        }
        run.tell(&words(4, &[]));
        assert_eq!(run.event(), Event::OffersDelivered);
        run
    };
    let mut one = late(&[NIC]);
    one.tell(offer(7, NIC).as_bytes());
    assert!(matches!(one.event(), Event::Offered { .. }));
    let mut two = late(&[NIC, OTHER]);
    refused(&mut two, 7, NIC, Rule::CTL_29);
    two.tell(offer(7, OTHER).as_bytes());
    assert!(matches!(two.event(), Event::Offered { .. }));
    refused(&mut late(&[]), 7, NIC, Rule::CTL_29);
}

#[test]
fn ctl_28_cards_come_back_so_often_in_an_hour() {
    let (mut run, _) = sealed(LateOffers::Returning);
    for _ in 0..2 {
        for _ in 0..LATE_OFFERS {
            take_back(&mut run, 7);
            run.tell(offer(7, NIC).as_bytes());
            assert!(matches!(run.event(), Event::Offered { .. }));
        }
        take_back(&mut run, 7);
        refused(&mut run, 7, NIC, Rule::CTL_28);
        run.now += OFFERS_INTERVAL - 1;
        refused(&mut run, 7, NIC, Rule::CTL_28);
        // A neighbour: the hour is over.
        run.now += 1;
        run.tell(offer(7, NIC).as_bytes());
        assert!(matches!(run.event(), Event::Offered { .. }));
        run.now += OFFERS_INTERVAL;
    }
}

/// A channel whose memory the host keeps is lost, its card is not.
#[test]
fn ctl_43_a_lost_channel_is_never_released_but_its_card_may_return() {
    let (mut run, channel, gpadl) = Run::open();
    run.tell(&words(4, &[]));
    run.event();
    run.tell(&words(2, &[7]));
    assert_eq!(run.event(), Event::Rescinded { channel });
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
    run.sent(11);
    run.wait(REQUEST_DEADLINE);
    run.client.poll(run.now);
    assert_eq!(run.event(), Event::MemoryLeaked { gpadl });
    assert_eq!(run.event(), Event::Lost { channel });
    // CTL_43: no RELID_RELEASED while an answer is out.
    run.silent();
    run.tell(offer(8, NIC).as_bytes());
    assert!(matches!(run.event(), Event::Offered { channel: new, .. } if new != channel));
}

/// An honest host, an owner and the pages between them, in small steps.
struct Race {
    run: Run,
    /// Answers of the host that are under way, oldest first.
    answers: Vec<Vec<u8>>,
    /// Relids that the host may not use: offered and not released.
    relids: BTreeSet<u32>,
    rescinded: BTreeSet<u32>,
    /// First page of each GPADL that the host may use.
    lent: BTreeMap<u32, u64>,
    next_page: u64,
    /// The owner's channel, and whether it has its buffers.
    using: Option<ChannelId>,
    buffers: usize,
    opened: u32,
    /// Once it is open with all its buffers the owner closes it so many times.
    closes: u32,
}

impl Race {
    fn new(closes: u32) -> Race {
        let mut run = Run::connected();
        run.client.config.nics = 1;
        let mut race = Race {
            run,
            answers: Vec::new(),
            relids: BTreeSet::new(),
            rescinded: BTreeSet::new(),
            lent: BTreeMap::new(),
            next_page: 0x100,
            using: None,
            buffers: 0,
            opened: 0,
            closes,
        };
        race.offer(7);
        race.answers.push(words(4, &[]));
        race
    }

    fn offer(&mut self, relid: u32) {
        assert!(self.relids.insert(relid), "in use");
        self.answers.push(offer(relid, NIC).as_bytes().to_vec());
    }

    fn rescind(&mut self, relid: u32) {
        self.rescinded.insert(relid);
        self.answers.push(words(2, &[relid]));
    }

    /// One step of one party; `false`: nobody has anything to do.
    fn step(&mut self) -> bool {
        if let Some(event) = self.run.client.next_event() {
            self.owner(event);
            return true;
        }
        if let Some(Action::PostMessage(post)) = self.run.client.poll(self.run.now) {
            self.run
                .client
                .on_post_result(status::SUCCESS, self.run.now);
            self.host(post.payload());
            return true;
        }
        if self.answers.is_empty() {
            return false;
        }
        let answer = self.answers.remove(0);
        self.run.tell(&answer);
        true
    }

    fn owner(&mut self, event: Event) {
        let now = self.run.now;
        match event {
            Event::Offered { .. } | Event::Closed { .. } | Event::Released { .. } => {
                if let Event::Closed { channel } | Event::Released { channel } = event
                    && self.using == Some(channel)
                {
                    self.using = None;
                }
                if self.using.is_none()
                    && let Some(channel) = self.run.client.on_offer()
                {
                    self.using = Some(channel);
                    self.buffers = 0;
                    let page = self.page();
                    let memory = PlainShared::new(4, page);
                    let client = &mut self.run.client;
                    let ring = client.open(channel, &memory, 2, 0, now).unwrap();
                    self.lent.insert(ring.number(), page);
                }
            }
            Event::Opened { channel, .. } => {
                assert_eq!(self.using, Some(channel));
                self.opened += 1;
                for _ in 0..2 {
                    // More than one message each.
                    let page = self.page();
                    let memory = PlainShared::new(40, page);
                    // Refused if the rescind is already known.
                    let client = &mut self.run.client;
                    if let Ok(buffer) = client.create_gpadl(channel, &memory, now) {
                        self.lent.insert(buffer.number(), page);
                    }
                }
            }
            Event::GpadlCreated { .. } => {
                self.buffers += 1;
                if self.buffers == 2 && self.closes > 0 {
                    self.closes -= 1;
                    self.run.client.close(self.using.unwrap(), now).unwrap();
                }
            }
            Event::Rescinded { channel } => {
                // Refused if it is being closed, or was never opened.
                let _ = self.run.client.close(channel, now);
            }
            Event::MemoryReleased { gpadl } => {
                let page = self.lent.remove(&gpadl.number());
                assert!(page.is_some(), "given back twice");
            }
            Event::OffersDelivered => {}
            other => panic!("{other:?}"),
        }
    }

    fn page(&mut self) -> u64 {
        self.next_page += 64;
        self.next_page
    }

    fn host(&mut self, said: &[u8]) {
        let (kind, relid) = (word(said, 0), word(said, 8));
        if kind != 9 {
            assert!(self.relids.contains(&relid), "{kind} about a free relid");
        }
        match kind {
            5 => {
                assert!(self.lent.contains_key(&word(said, 16)), "a ring of nobody");
                if !self.rescinded.contains(&relid) {
                    self.answers.push(words(6, &[relid, word(said, 12), 0]));
                }
            }
            8 if word(said, 20) == 4 * 4096 => {
                self.answers.push(words(10, &[relid, word(said, 12), 0]));
            }
            8 => {}
            9 => {
                // The second and last message of a buffer. Its relid is the one in use.
                let gpadl = word(said, 12);
                let entry = self.run.client.table.gpadl_mut(gpadl).unwrap();
                let relid = entry.relid.number();
                self.answers.push(words(10, &[relid, gpadl, 0]));
            }
            11 => {
                let gpadl = word(said, 12);
                assert!(self.lent.contains_key(&gpadl), "torn down twice");
                self.answers.push(words(12, &[gpadl]));
            }
            7 => {}
            13 => {
                // Once, after the rescind, and with nothing of it outstanding.
                assert!(self.rescinded.contains(&relid), "CTL_43");
                assert!(self.relids.remove(&relid), "CTL_43");
                let mut gpadls = self.run.client.table.gpadls.iter();
                assert!(gpadls.all(|gpadl| gpadl.relid.number() != relid), "SYS_13");
            }
            other => panic!("the client said {other}"),
        }
    }
}

/// The card is taken back at each step of its life, offered, being opened, open,
/// being closed, and offered anew at each step after that, under another relid or,
/// as soon as it is free, under the same. In the end the card is open once, with
/// its ring and its two buffers; every other page came back, once; and no word of
/// the honest host was refused.
#[test]
fn ctl_29_ctl_40_ctl_43_ctl_44_sys_13_rescind_and_offer_at_every_step() {
    for closes in 0..2_u32 {
        for same_relid in [false, true] {
            let mut from = 0;
            loop {
                let mut length = 0;
                for gap in 0..200 {
                    let mut race = Race::new(closes);
                    let mut steps = 0;
                    while steps < from && race.step() {
                        steps += 1;
                    }
                    if steps < from {
                        break;
                    }
                    race.rescind(7);
                    steps = 0;
                    while steps < gap && race.step() {
                        steps += 1;
                    }
                    let quiet = steps < gap;
                    if same_relid {
                        while race.relids.contains(&7) {
                            assert!(race.step(), "CTL_43: never released");
                        }
                    }
                    race.rescinded.retain(|relid| race.relids.contains(relid));
                    race.offer(if same_relid { 7 } else { 8 });
                    while race.step() {}
                    let what = (closes, same_relid, from, gap);
                    let counters = race.run.client.counters();
                    assert_eq!(counters.total(), 0, "{what:?} {:?}", rules(&race.run));
                    assert_eq!(race.lent.len(), 3, "{what:?} SYS_13: pages are lost");
                    assert_eq!(race.relids.len(), 1, "{what:?} CTL_43");
                    assert!(race.opened >= 1, "{what:?}");
                    let state = race.run.client.table.channels.last().unwrap().state;
                    assert_eq!(state, State::Open, "{what:?} CTL_40");
                    length += 1;
                    if quiet {
                        break;
                    }
                }
                if length == 0 {
                    break;
                }
                from += 1;
            }
            // All steps of a life were among them.
            assert!(from > 15 + 15 * closes, "{closes}: {from}");
        }
    }
}

fn rules(run: &Run) -> Vec<(Rule, u32)> {
    run.client.counters().violations().collect()
}
