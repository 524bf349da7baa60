//! The control plane: a live client, a host that answers what it was asked, says
//! what nobody asked, and changes words of both. The owner's calls come from the
//! input too.

use crate::memory::Arena;
use crate::{Digest, Input};
use abi::hyperv::{MESSAGE_SLOT, status};
use abi::vmbus::{Version, class};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use vmbus::limits::{MAX_QUEUED_EVENTS, SECOND};
use vmbus::synic::EventFlags;
use vmbus::{Action, ChannelId, Client, Config, Event, GpadlId, LateOffers, RequestError, Target};

const FIRST_PFN: u64 = 0x1_0000;
const PAGES: usize = 4096;

/// A request of the client that the host may answer.
#[derive(Clone, Copy, Debug)]
enum Heard {
    Contact,
    Offers,
    Gpadl { relid: u32, gpadl: u32 },
    Open { relid: u32, open_id: u32 },
    Teardown { gpadl: u32 },
    Move { relid: u32 },
    Unload,
}

struct World {
    client: Client,
    target: Target,
    arena: Rc<Arena>,
    next_page: usize,
    now: u64,
    /// Status of the next posts.
    status: u16,
    heard: VecDeque<Heard>,
    channels: Vec<ChannelId>,
    /// GPADLs whose memory is with the host.
    lent: BTreeMap<u32, GpadlId>,
    /// GPADLs of which the host has heard, if only a part.
    named: BTreeSet<u32>,
    /// GPADLs of which the host said that it has let go.
    let_go: BTreeSet<u32>,
    unload_answered: bool,
    over: bool,
    digest: Digest,
}

pub fn body(data: &[u8]) -> u64 {
    let mut input = Input::new(data);
    let flags = input.u8();
    let target = if flags & 1 == 0 {
        Target::REDIRECTED
    } else {
        Target::PLAIN
    };
    let config = Config {
        nics: 1 + usize::from(flags >> 1 & 3),
        late_offers: match flags >> 3 & 1 {
            0 => LateOffers::Returning,
            _ => LateOffers::Anything,
        },
        ..Config::new(target)
    };
    let mut world = World {
        client: Client::new(config),
        target,
        arena: Arena::new(PAGES, FIRST_PFN),
        next_page: 0,
        now: 1000,
        status: status::SUCCESS,
        heard: VecDeque::new(),
        channels: Vec::new(),
        lent: BTreeMap::new(),
        named: BTreeSet::new(),
        let_go: BTreeSet::new(),
        unload_answered: false,
        over: false,
        digest: Digest::new(),
    };
    if flags & 16 == 0 {
        world.client.start(world.now).expect("first start");
    }
    if flags & 32 == 0 {
        world.introduce();
    }
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        world.act(&mut input);
        world.settle();
    }
    world.finish();
    world.digest.violations(world.client.counters());
    world.digest.value()
}

impl World {
    /// The beginning, honestly: contact, one offer, all delivered.
    fn introduce(&mut self) {
        self.settle();
        let mut none = Input::new(&[]);
        self.answer(&mut none);
        self.settle();
        self.offer(&mut Input::new(&[5, 1]), false);
        self.answer(&mut none);
        self.settle();
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..=3 => self.answer(input),
            4 => {
                let mutate = input.flag();
                self.offer(input, mutate);
            }
            5 => {
                let (kind, relid) = (2, u32::from(input.u8()));
                let mut message = message(kind);
                message.extend(relid.to_le_bytes());
                self.say(message, input);
            }
            6 => {
                // Any message of any length.
                let kind = u32::from(input.u8() % 32);
                let mut message = message(kind);
                message.extend(input.run());
                message.truncate(240);
                self.say(message, input);
            }
            7 => {
                // Any slot.
                let mut slot = [0; MESSAGE_SLOT];
                let bytes = input.slice(MESSAGE_SLOT);
                slot[..bytes.len()].copy_from_slice(bytes);
                self.deliver(&slot);
            }
            8 => self.open(input),
            9 => self.lend(input),
            10 => {
                if let Some(id) = self.some_channel(input) {
                    let result = self.client.close(id, self.now);
                    self.digest.debug(&result);
                }
            }
            11 => self.now += u64::from(input.u8()) * SECOND / 8,
            12 => {
                self.status = match input.u8() % 4 {
                    0 => status::SUCCESS,
                    1 => status::INSUFFICIENT_BUFFERS,
                    2 => status::INVALID_CONNECTION_ID,
                    _ => input.u16(),
                };
            }
            13 => {
                let page = Arena::new(1, 0);
                let sint = usize::from(self.client.sint());
                page.poke(sint * 256, input.slice(32));
                let region = page.region(0, 1, &[]);
                let highest = self.client.highest_flag();
                let set = EventFlags::new(self.client.sint()).take(&region, highest);
                let signalled: Vec<_> = self.client.on_event_flags(&set).collect();
                assert!(signalled.len() <= vmbus::limits::MAX_CHANNELS);
                self.digest.debug(&signalled);
            }
            14 => match input.u8() % 8 {
                0 => self.client.seal(),
                1 => {
                    let result = self.client.unload(self.now);
                    self.digest.debug(&result);
                }
                2 => {
                    let result = self.client.start(self.now);
                    self.digest.debug(&result);
                }
                3 => {
                    if let Some(id) = self.some_channel(input) {
                        let count = u16::from(input.u8());
                        let result = self.client.expect_sub_channels(id, count, self.now);
                        self.digest.debug(&result);
                    }
                }
                4 => {
                    if let Some(id) = self.some_channel(input) {
                        self.client.granted_sub_channels(id, input.u8().into());
                    }
                }
                5 => {
                    if let Some(id) = self.some_channel(input) {
                        let vp = u32::from(input.u8() % 64);
                        let result = self.client.modify(id, vp, self.now);
                        self.digest.debug(&result);
                    }
                }
                6 => self.sub_channel(input),
                _ => {}
            },
            _ => self.now += u64::from(input.u16()),
        }
    }

    fn some_channel(&self, input: &mut Input<'_>) -> Option<ChannelId> {
        let at = input.below(self.channels.len().max(1));
        self.channels.get(at).copied()
    }

    /// Pages that nobody has had before.
    fn pages(&mut self, count: usize) -> crate::memory::Region {
        if self.next_page + count > PAGES {
            self.next_page = 0;
        }
        let region = self.arena.region(self.next_page, count, &[]);
        self.next_page += count;
        region
    }

    fn open(&mut self, input: &mut Input<'_>) {
        let Some(id) = self.some_channel(input) else {
            return;
        };
        let memory = self.pages(4);
        let result = self.client.open(id, &memory, 2, 0, self.now);
        self.lent(result);
    }

    fn lend(&mut self, input: &mut Input<'_>) {
        let Some(id) = self.some_channel(input) else {
            return;
        };
        let memory = self.pages(1 + usize::from(input.u8()) * 3);
        let result = self.client.create_gpadl(id, &memory, self.now);
        self.lent(result);
    }

    fn lent(&mut self, result: Result<GpadlId, RequestError>) {
        self.digest.debug(&result);
        if let Ok(gpadl) = result {
            self.let_go.remove(&gpadl.number());
            let before = self.lent.insert(gpadl.number(), gpadl);
            assert!(before.is_none(), "GPADL number in use given out again");
        }
    }

    /// Answers one of the requests that were heard, honestly or not.
    fn answer(&mut self, input: &mut Input<'_>) {
        if self.heard.is_empty() {
            return;
        }
        let which = input.below(self.heard.len());
        let heard = if input.u8().is_multiple_of(8) && which > 0 {
            self.heard.get(which).copied()
        } else {
            self.heard.remove(which)
        };
        let Some(heard) = heard else { return };
        let bad = u32::from(input.u8().is_multiple_of(8)) & u32::from(!input.is_empty());
        let words = |kind, words: &[u32]| {
            let mut message = message(kind);
            message.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            message
        };
        let said = match heard {
            Heard::Contact => {
                let features = if self.target.redirected { u32::MAX } else { 0 };
                let connection = self.target.message_connection;
                let supported = 1 - bad;
                // The answer to 6.0 has features, older ones have none.
                words(15, &[supported, connection, features & 0xff])
            }
            Heard::Offers => words(4, &[]),
            Heard::Gpadl { relid, gpadl } => words(10, &[relid, gpadl, bad]),
            Heard::Open { relid, open_id } => words(6, &[relid, open_id, bad]),
            Heard::Teardown { gpadl } => words(12, &[gpadl]),
            Heard::Move { relid } => words(24, &[relid, bad]),
            Heard::Unload => words(17, &[]),
        };
        self.say(said, input);
    }

    fn offer(&mut self, input: &mut Input<'_>, mutate: bool) {
        let relid = u32::from(input.u8());
        let instance = input.u8();
        let mut offer = message(1);
        offer.extend(match input.u8() {
            0..=191 => class::NIC.0,
            192..=223 => class::SCSI.0,
            _ => class::PCI.0,
        });
        offer.extend([instance; 16]);
        offer.resize(196, 0);
        offer[184..188].copy_from_slice(&relid.to_le_bytes());
        offer[190..192].copy_from_slice(&1_u16.to_le_bytes());
        offer[192..196].copy_from_slice(&(0x2000 | relid).to_le_bytes());
        if mutate {
            self.say(offer, input);
        } else {
            self.say(offer, &mut Input::new(&[]));
        }
    }

    /// A sub-channel of the card that the beginning has offered.
    fn sub_channel(&mut self, input: &mut Input<'_>) {
        let (relid, index) = (u32::from(input.u8()), u16::from(input.u8() % 66));
        let mut offer = message(1);
        offer.extend(class::NIC.0);
        offer.extend([1; 16]);
        offer.resize(196, 0);
        offer[180..182].copy_from_slice(&index.to_le_bytes());
        offer[184..188].copy_from_slice(&relid.to_le_bytes());
        offer[190..192].copy_from_slice(&1_u16.to_le_bytes());
        offer[192..196].copy_from_slice(&(0x2000 | relid).to_le_bytes());
        self.say(offer, &mut Input::new(&[]));
    }

    /// Puts a message into the slot, changed as the input says.
    fn say(&mut self, mut message: Vec<u8>, input: &mut Input<'_>) {
        let changes = input.u8();
        if changes >= 192 {
            for _ in 0..=changes & 1 {
                let at = input.below(message.len());
                match input.u8() % 4 {
                    0 => message.truncate(at.max(1)),
                    1 => message[at] = input.u8(),
                    _ => {
                        let word = input.word().to_le_bytes();
                        message[at & !3..]
                            .iter_mut()
                            .zip(word)
                            .for_each(|(to, from)| *to = from);
                    }
                }
            }
        }
        let mut slot = [0; MESSAGE_SLOT];
        slot[0] = 1;
        slot[4] = message.len() as u8;
        slot[16..16 + message.len()].copy_from_slice(&message);
        for _ in 0..if changes == 191 { 80 } else { 1 } {
            self.deliver(&slot);
        }
    }

    fn deliver(&mut self, slot: &[u8; MESSAGE_SLOT]) {
        let word = |at: usize| u32::from_le_bytes(slot[16 + at..20 + at].try_into().unwrap());
        match word(0) {
            10 if word(16) != 0 => drop(self.let_go.insert(word(12))),
            12 => drop(self.let_go.insert(word(8))),
            17 => self.unload_answered = true,
            _ => {}
        }
        self.client.on_message(slot, self.now);
    }

    /// Does what the client says and looks at what it tells.
    fn settle(&mut self) {
        let mut posts = 0;
        while let Some(Action::PostMessage(post)) = self.client.poll(self.now) {
            posts += 1;
            assert!(posts < 4096, "the client never stops talking");
            let (payload, padded) = (post.payload(), post.padded());
            assert!((8..=240).contains(&payload.len()) && padded.starts_with(payload));
            assert!(padded[payload.len()..].iter().all(|byte| *byte == 0));
            assert!(
                [1, 4, 0x80_0074].contains(&post.connection_id()),
                "{}",
                post.connection_id()
            );
            self.digest.bytes(payload);
            let status = self.status;
            if status == 0 {
                self.hear(payload);
            }
            self.client.on_post_result(status, self.now);
        }
        let mut events = 0;
        while let Some(event) = self.client.next_event() {
            events += 1;
            assert!(
                events <= 2 * MAX_QUEUED_EVENTS + 64,
                "the client never stops telling"
            );
            self.digest.debug(&event);
            self.told(event);
        }
        if let Some(version) = self.client.version() {
            assert!(version >= Version::V5_2);
        }
    }

    fn told(&mut self, event: Event) {
        let back = match event {
            Event::Offered { channel, .. } | Event::SubChannel { channel, .. } => {
                assert!(!self.channels.contains(&channel));
                self.channels.push(channel);
                assert!(self.channels.len() <= vmbus::limits::MAX_CHANNELS);
                None
            }
            Event::Released { channel } => {
                self.channels.retain(|id| *id != channel);
                None
            }
            Event::MemoryReleased { gpadl } => {
                let number = gpadl.number();
                assert!(
                    self.let_go.contains(&number)
                        || self.unload_answered
                        || !self.named.contains(&number),
                    "GPADL {number} was given back, but the host never let go of it"
                );
                Some(number)
            }
            Event::MemoryLeaked { gpadl } => Some(gpadl.number()),
            Event::Failed { .. } | Event::Unloaded { .. } => {
                self.over = true;
                self.channels.clear();
                self.heard.clear();
                assert!(self.client.version().is_none());
                None
            }
            _ => None,
        };
        if let Some(number) = back {
            assert!(
                self.lent.remove(&number).is_some(),
                "GPADL {number} came back twice"
            );
        }
    }

    /// What an honest host takes from a message.
    fn hear(&mut self, payload: &[u8]) {
        let word = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().unwrap());
        let frames = |from: usize| {
            payload[from..]
                .chunks_exact(8)
                .map(|frame| u64::from_le_bytes(frame.try_into().unwrap()))
        };
        let ours = |frame: u64| (FIRST_PFN..FIRST_PFN + PAGES as u64).contains(&frame);
        let heard = match word(0) {
            3 => Heard::Offers,
            5 => {
                assert!(
                    self.lent.contains_key(&word(16)),
                    "an open over a ring that is not the host's"
                );
                Heard::Open {
                    relid: word(8),
                    open_id: word(12),
                }
            }
            8 => {
                assert!(frames(28).all(ours), "a foreign page in a GPADL");
                assert!(
                    self.lent.contains_key(&word(12)),
                    "a GPADL that is not the host's"
                );
                self.named.insert(word(12));
                Heard::Gpadl {
                    relid: word(8),
                    gpadl: word(12),
                }
            }
            9 => {
                assert!(frames(16).all(ours), "a foreign page in a GPADL");
                return;
            }
            11 => Heard::Teardown { gpadl: word(12) },
            14 => Heard::Contact,
            22 => Heard::Move { relid: word(8) },
            16 => Heard::Unload,
            7 | 13 => return,
            other => panic!("the client said {other}"),
        };
        if self.heard.len() < 64 {
            self.heard.push_back(heard);
        }
    }

    /// Everything ends: whatever the host does, no memory stays with it unknown.
    fn finish(&mut self) {
        self.status = status::SUCCESS;
        for id in self.channels.clone() {
            let _ = self.client.close(id, self.now);
        }
        for _ in 0..8 {
            self.now += 10 * SECOND;
            self.settle();
        }
        let _ = self.client.unload(self.now);
        for _ in 0..4 {
            self.now += 10 * SECOND;
            self.settle();
        }
        assert!(
            self.lent.is_empty(),
            "memory that nobody accounts for: {:?}",
            self.lent
        );
        assert_eq!(self.client.deadline(), None);
        self.digest.number(u64::from(self.over));
    }
}

/// Header of a channel message.
fn message(kind: u32) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes
}
