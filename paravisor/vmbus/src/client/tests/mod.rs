//! The control plane against a scripted host.

mod channels;
mod moves;
mod returns;
mod rules;
mod structural;
mod subs;
mod sweep;
mod unheard;

use super::*;
use crate::limits::*;
use crate::synic::{EventFlags, FlagSet};
use abi::hyperv::status;
use abi::vmbus::*;
use alloc::vec;
use alloc::vec::Vec;
use memory::SharedMemory;
use memory::doubles::PlainShared;
use zerocopy::{FromZeros, IntoBytes};

const NIC: Guid = Guid([0xa; 16]);

/// Client and script. The clock stands unless a test moves it.
struct Run {
    client: Client,
    now: u64,
}

fn slot_of(bytes: &[u8]) -> [u8; 256] {
    let mut slot = [0; 256];
    slot[0] = 1;
    slot[4] = bytes.len() as u8;
    slot[16..16 + bytes.len()].copy_from_slice(bytes);
    slot
}

fn words(kind: u32, rest: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    rest.iter()
        .for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn offer(relid: u32, instance: Guid) -> OfferChannel {
    let mut offer = OfferChannel::new_zeroed();
    offer.header.message_type = 1.into();
    offer.interface = class::NIC;
    offer.instance = instance;
    offer.relid = relid.into();
    offer.is_dedicated = 1.into();
    offer.connection_id = (relid + 0x2000).into();
    offer
}

impl Run {
    fn new(config: Config) -> Run {
        let mut run = Run {
            client: Client::new(config),
            now: 1000,
        };
        run.client.start(run.now).unwrap();
        run
    }

    /// Negotiated 5.3 in plain mode, all offers requested.
    fn connected() -> Run {
        let mut config = Config::new(Target::PLAIN);
        config.nics = 2;
        let mut run = Run::new(config);
        run.sent(14);
        run.tell(&words(15, &[0, 0]));
        run.sent(14);
        run.tell(&words(15, &[1, 4]));
        run.sent(3);
        assert!(matches!(run.event(), Event::Connected { .. }));
        run
    }

    /// As above, with one card at relid 7.
    fn offered() -> (Run, ChannelId) {
        let mut run = Run::connected();
        let channel = run.card(7);
        (run, channel)
    }

    /// As above, open; the GPADL of the rings.
    fn open() -> (Run, ChannelId, GpadlId) {
        let (mut run, channel) = Run::offered();
        let (gpadl, open) = run.opening(channel, 32, 0);
        run.answer_open(&open);
        assert!(matches!(run.event(), Event::Opened { .. }));
        (run, channel, gpadl)
    }

    /// The host offers a card.
    fn card(&mut self, relid: u32) -> ChannelId {
        self.tell(offer(relid, NIC).as_bytes());
        let Event::Offered { channel, instance } = self.event() else {
            panic!()
        };
        assert_eq!(instance, NIC);
        channel
    }

    /// Opens a channel with rings from page `pfn` on, up to the OPENCHANNEL that the host
    /// is to answer.
    fn opening(&mut self, channel: ChannelId, pfn: u64, vp: u32) -> (GpadlId, Vec<u8>) {
        let memory = PlainShared::new(4, pfn);
        let gpadl = self.client.open(channel, &memory, 2, vp, self.now).unwrap();
        let relid = word(&self.sent(8), 8);
        self.tell(&words(10, &[relid, gpadl.number(), 0]));
        (gpadl, self.sent(5))
    }

    /// The host's answer to an OPENCHANNEL: yes.
    fn answer_open(&mut self, open: &[u8]) {
        self.tell(&words(6, &[word(open, 8), word(open, 12), 0]));
    }

    /// The host's answer to the last teardown of a channel that was taken back.
    fn lets_go(&mut self, channel: ChannelId, gpadl: GpadlId) {
        self.tell(&words(12, &[gpadl.number()]));
        assert_eq!(self.event(), Event::MemoryReleased { gpadl });
        assert_eq!(self.event(), Event::Released { channel });
        self.sent(13);
    }

    fn tell(&mut self, bytes: &[u8]) {
        self.client.on_message(&slot_of(bytes), self.now);
    }

    /// The next message, accepted by the host, which must be of this type.
    fn sent(&mut self, kind: u32) -> Vec<u8> {
        let Some(Action::PostMessage(post)) = self.client.poll(self.now) else {
            panic!("nothing sent instead of {kind}");
        };
        assert!(self.client.poll(self.now).is_none(), "one at a time");
        self.client.on_post_result(status::SUCCESS, self.now);
        let bytes = post.payload();
        assert_eq!(word(bytes, 0), kind);
        assert_eq!(word(bytes, 4), 0);
        assert!(
            post.padded()[bytes.len()..].iter().all(|b| *b == 0),
            "SYN-25"
        );
        bytes.to_vec()
    }

    /// The next message, for which the host has no room; it is tried again later.
    fn refused(&mut self, kind: u32) {
        let Some(Action::PostMessage(post)) = self.client.poll(self.now) else {
            panic!("nothing sent instead of {kind}");
        };
        assert_eq!(word(post.payload(), 0), kind);
        self.client
            .on_post_result(status::INSUFFICIENT_BUFFERS, self.now);
        assert!(self.client.poll(self.now).is_none(), "a pause");
        self.now += POST_PAUSE_MAX;
    }

    fn silent(&mut self) {
        assert!(self.client.poll(self.now).is_none());
        assert_eq!(self.client.next_event(), None);
    }

    fn event(&mut self) -> Event {
        self.client.next_event().unwrap()
    }

    fn failed(&mut self) -> Rule {
        loop {
            match self.event() {
                Event::Failed { violation } => return violation.rule,
                Event::MemoryLeaked { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn count(&self, rule: Rule) -> u32 {
        self.client.counters().of(rule)
    }

    /// Lets time pass; the client must have asked to be called by then.
    fn wait(&mut self, time: u64) {
        self.now += time;
        assert!(
            self.client
                .deadline()
                .is_some_and(|deadline| deadline <= self.now)
        );
    }
}

fn flags(bytes: &[(usize, u8)]) -> FlagSet {
    let page = PlainShared::new(1, 0);
    for (at, value) in bytes {
        page.copy_out(512 + at, &[*value]).unwrap();
    }
    EventFlags::new(2).take(&page, 2047)
}

#[test]
fn contact_says_what_the_target_says() {
    for (target, connection, features) in
        [(Target::PLAIN, 4, 0), (Target::REDIRECTED, 0x0080_0074, 3)]
    {
        let mut run = Run::new(Config::new(target));
        let Some(Action::PostMessage(post)) = run.client.poll(0) else {
            panic!()
        };
        assert_eq!(post.connection_id(), connection);
        let bytes = post.payload();
        assert_eq!(bytes.len(), 40);
        assert_eq!(word(bytes, 8), 0x6_0000);
        assert_eq!((word(bytes, 12), word(bytes, 16)), (0, 2)); // VP 0, SINT 2, VTL 0
        assert_eq!(word(bytes, 20), features);
        assert_eq!(bytes[24..], [0; 16]); // SYN-32: no monitor pages
    }
}

#[test]
fn ctl_12_newest_first_and_never_below_5_2() {
    let mut run = Run::new(Config::new(Target::REDIRECTED));
    for (version, features) in [(0x6_0000, 3), (0x5_0003, 0), (0x5_0002, 0)] {
        let contact = run.sent(14);
        assert_eq!((word(&contact, 8), word(&contact, 20)), (version, features));
        run.tell(&words(15, &[0, 0]));
    }
    assert_eq!(run.failed(), Rule::CTL_12);
    run.silent();
}

#[test]
fn ctl_12_a_configuration_cannot_go_below_either() {
    let mut config = Config::new(Target::PLAIN);
    config.versions = &[Version::V5_2, Version::V4_0];
    let mut run = Run::new(config);
    run.sent(14);
    run.tell(&words(15, &[0, 0]));
    assert_eq!(run.failed(), Rule::CTL_12);
}

#[test]
fn ctl_13_no_answer_ends_the_attempt() {
    let mut run = Run::new(Config::new(Target::PLAIN));
    run.sent(14);
    run.now += CONTACT_DEADLINE - 1;
    run.silent();
    run.wait(1);
    assert!(run.client.poll(run.now).is_none());
    assert_eq!(run.failed(), Rule::CTL_13);
    // The late answer changes nothing.
    run.tell(&words(15, &[1, 4, 0]));
    run.silent();
    assert_eq!(run.count(Rule::CTL_08), 1);
}

#[test]
fn ctl_08_a_second_version_response() {
    let mut run = Run::connected();
    run.tell(&words(15, &[1, 4]));
    run.silent();
    assert_eq!(run.count(Rule::CTL_08), 1);
}

#[test]
fn ctl_14_extra_features_are_fatal() {
    let mut run = Run::new(Config::new(Target::REDIRECTED));
    run.sent(14);
    run.tell(&words(15, &[1, 4, u32::MAX]));
    assert_eq!(run.failed(), Rule::CTL_14);
}

#[test]
fn ctl_31_offers_without_an_end() {
    let (mut run, _) = Run::offered();
    run.wait(OFFERS_DEADLINE);
    run.client.poll(run.now);
    assert_eq!(run.failed(), Rule::CTL_31);
}

#[test]
fn ctl_18_other_classes_are_released() {
    let mut run = Run::connected();
    let mut kvp = offer(3, NIC);
    kvp.interface = class::KVP;
    run.tell(kvp.as_bytes());
    assert_eq!(word(&run.sent(13), 8), 3);
    run.silent();
    // The relid is free: a rescind is unknown, a new offer welcome.
    run.tell(&words(2, &[3]));
    assert_eq!(run.count(Rule::CTL_38), 1);
    run.tell(offer(3, NIC).as_bytes());
    assert!(matches!(run.event(), Event::Offered { .. }));
}

#[test]
fn ctl_23_relid_in_use_ends_the_connection() {
    let (mut run, _, _) = Run::open();
    run.tell(offer(7, Guid([9; 16])).as_bytes());
    assert_eq!(run.failed(), Rule::CTL_23);
    run.silent();
}

#[test]
fn ctl_28_a_flood_of_offers_ends() {
    let mut run = Run::connected();
    run.tell(&words(4, &[]));
    assert_eq!(run.event(), Event::OffersDelivered);
    let mut other = offer(9, NIC);
    other.interface = class::VSS;
    let offers = |run: &mut Run, count: usize| {
        for _ in 0..count {
            run.tell(other.as_bytes());
            while run.client.poll(run.now).is_some() {
                run.client.on_post_result(status::SUCCESS, run.now);
            }
        }
    };
    // A neighbour: as many as the limit in an hour, and again in the next.
    offers(&mut run, 1);
    run.now += OFFERS_INTERVAL / 2;
    offers(&mut run, REFUSED_OFFERS - 1);
    run.now += OFFERS_INTERVAL / 2;
    offers(&mut run, 1);
    run.now += OFFERS_INTERVAL / 2;
    offers(&mut run, REFUSED_OFFERS - 1);
    assert_eq!(run.client.failure, None);
    // One more, although the first of them is long past.
    run.now += OFFERS_INTERVAL / 2 - 1;
    offers(&mut run, 1);
    assert_eq!(run.failed(), Rule::CTL_28);
    run.tell(offer(9, NIC).as_bytes());
    run.silent();
}

#[test]
fn sys_14_one_card_is_configured() {
    let mut run = Run::connected();
    for relid in 1..=3 {
        run.tell(offer(relid, Guid([relid as u8; 16])).as_bytes());
    }
    assert!(matches!(run.event(), Event::Offered { .. }));
    assert!(matches!(run.event(), Event::Offered { .. }));
    assert_eq!(run.count(Rule::SYS_14), 1);
}

#[test]
fn syn_15_and_16_flags_without_an_open_channel() {
    let (mut run, channel) = Run::offered();
    let set = flags(&[(0, 0x81), (249, 0x80)]); // 0, 7, 1999
    assert_eq!(run.client.on_event_flags(&set).count(), 0);
    assert_eq!(run.count(Rule::SYN_14), 1);
    assert_eq!(run.count(Rule::SYN_16), 1);
    assert_eq!(run.count(Rule::SYN_15), 1);
    let (mut open, _, _) = Run::open();
    assert_eq!(open.client.highest_flag(), 7);
    assert_eq!(
        open.client.on_event_flags(&set).collect::<Vec<_>>(),
        [channel]
    );
}

#[test]
fn syn_23_posts_are_tried_again_for_a_while() {
    let mut run = Run::connected();
    let mut kvp = offer(3, NIC);
    kvp.interface = class::KVP;
    run.tell(kvp.as_bytes());
    let mut tries = 0;
    let start = run.now;
    while run.client.next_event().is_none() {
        if let Some(Action::PostMessage(post)) = run.client.poll(run.now) {
            assert_eq!(word(post.payload(), 0), 13);
            tries += 1;
            run.client
                .on_post_result(status::INVALID_CONNECTION_ID, run.now);
        } else {
            run.now = run.client.deadline().unwrap();
        }
    }
    assert_eq!(tries, POST_TRIES);
    assert!(run.now - start < OFFERS_DEADLINE);
    assert_eq!(run.count(Rule::SYN_23), 1);

    let mut run = Run::new(Config::new(Target::PLAIN));
    run.client.poll(0);
    run.client.on_post_result(0xbeef, 0);
    assert_eq!(run.failed(), Rule::SYN_23);
}

#[test]
fn ctl_53_and_54_unload() {
    let (mut run, _, gpadl) = Run::open();
    run.tell(&words(17, &[]));
    assert_eq!(run.count(Rule::CTL_53), 1);
    run.silent();
    run.client.unload(run.now).unwrap();
    run.sent(16);
    run.tell(&words(17, &[]));
    assert_eq!(run.event(), Event::MemoryReleased { gpadl });
    assert_eq!(run.event(), Event::Unloaded { answered: true });

    let (mut run, _, gpadl) = Run::open();
    run.client.unload(run.now).unwrap();
    run.sent(16);
    run.wait(UNLOAD_DEADLINE);
    run.client.poll(run.now);
    assert_eq!(run.event(), Event::MemoryLeaked { gpadl });
    assert_eq!(run.event(), Event::Unloaded { answered: false });
    assert_eq!(run.count(Rule::CTL_54), 1);
}

/// A card that comes and goes makes news faster than the owner fetches them.
#[test]
fn ctl_59_news_that_nobody_fetches() {
    let mut run = Run::connected();
    let mut told = 0;
    while run.count(Rule::CTL_59) == 0 {
        assert!(told <= 2 * MAX_QUEUED_EVENTS, "no end");
        run.tell(offer(7, NIC).as_bytes());
        run.tell(&words(2, &[7]));
        // The host takes what we answer.
        while let Some(Action::PostMessage(_)) = run.client.poll(run.now) {
            run.client.on_post_result(status::SUCCESS, run.now);
        }
        told += 1;
    }
    let mut last = None;
    let mut events = 0;
    while let Some(event) = run.client.next_event() {
        events += 1;
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::Failed { violation }) if violation.rule == Rule::CTL_59));
    assert!(events <= MAX_QUEUED_EVENTS + 2, "{events}");

    // A neighbour: the same coming and going with an owner that listens.
    let mut run = Run::connected();
    for _ in 0..=MAX_QUEUED_EVENTS {
        run.tell(offer(7, NIC).as_bytes());
        run.tell(&words(2, &[7]));
        assert!(matches!(run.event(), Event::Offered { .. }));
        while run.client.next_event().is_some() {}
        while let Some(Action::PostMessage(_)) = run.client.poll(run.now) {
            run.client.on_post_result(status::SUCCESS, run.now);
        }
    }
    assert_eq!(run.count(Rule::CTL_59), 0);
}

/// The queue of posts has an end of its own ("CTL-59"), behind the limits of channels
/// and of refused offers.
#[test]
fn ctl_59_answers_that_the_host_does_not_take() {
    let mut outbox = Outbox::default();
    for relid in 0..MAX_QUEUED_POSTS as u32 {
        assert_eq!(outbox.push(Request::Release { relid }), Ok(()));
    }
    let refused = outbox.push(Request::Release { relid: 7 });
    assert_eq!(
        refused.map_err(|violation| violation.rule),
        Err(Rule::CTL_59)
    );
}

#[test]
fn ctl_60_refused_messages_leave_nothing_behind() {
    let (mut run, channel, gpadl) = Run::open();
    let bad: [Vec<u8>; 12] = [
        words(0, &[]),
        words(5, &[7; 40]),
        words(1, &[7]),
        words(2, &[9]),
        words(4, &[]),
        words(6, &[7, 1, 0]),
        words(10, &[7, gpadl.number(), 0]),
        words(12, &[gpadl.number()]),
        words(17, &[]),
        words(20, &[1]),
        words(24, &[7, 0]),
        words(28, &[]),
    ];
    for message in &bad {
        run.tell(message);
    }
    assert_eq!(run.event(), Event::OffersDelivered); // the one that was legal
    run.silent();
    let refused: u32 = run
        .client
        .counters()
        .violations()
        .map(|(_, count)| count)
        .sum();
    assert_eq!(refused, 11);
    assert_eq!(run.client.counters().messages(Layer::Control), 5 + 12);
    run.client.close(channel, run.now).unwrap();
    run.sent(7);
}

#[test]
fn random_messages_neither_panic_nor_pile_up() {
    let mut state = 11_u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    for _ in 0..300 {
        let (mut run, channel, _) = Run::open();
        for step in 0..100 {
            let mut bytes = vec![0; 8 + (next() % 233) as usize];
            for byte in &mut bytes {
                *byte = next() as u8 & [0, 1, 7, 15, 255][(next() % 5) as usize];
            }
            bytes[..4].copy_from_slice(&(next() % 30).to_le_bytes());
            run.tell(&bytes);
            run.now += u64::from(next() % 1000) * MILLISECOND;
            while let Some(Action::PostMessage(_)) = run.client.poll(run.now) {
                run.client.on_post_result(0, run.now);
            }
            if step % 40 == 39 {
                let _ = run.client.close(channel, run.now);
            }
            while run.client.next_event().is_some() {}
        }
    }
}
