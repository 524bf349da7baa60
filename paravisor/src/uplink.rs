//! The way to the host's NIC: the VMBus client, the one channel and the NIC on
//! it, with the shared memory that each of them needs.
//!
//! The rooms below are state machines; this is who carries out what they say:
//! hypercalls, SynIC pages, pages of the pool. It lives on one VP and needs no
//! lock. Frames go through [`relay`]; the guest's side is a [`NetDevice`], before
//! there is a guest [`relay::Unplugged`].
//!
//! ```text
//! Waiting ─ offer ─ Opening ─ opened ─ Sharing (both buffers) ─ Running
//!    ^                 |                  |                       |
//!    └── closed ── Closing <── failed, rescinded ─────────────────┘
//! ```
//! A channel that could not be opened rests before the next try ([`State::Pausing`]).
//! After too many openings in an hour ([`ResetBudget`]), or when the connection has
//! ended, it stays [`State::Gone`]: the guest goes on with its link down.

pub(crate) mod gone;
mod lifecycle;
mod parked;
mod subs;

use crate::account::Account;
use crate::audit::Finding;
use crate::lanes::{Hub, WithDetour};
use crate::run::{End, Polled};
use crate::turns::Turns;
use abi::hyperv::{Control, MESSAGE_PAYLOAD, SignalEvent, VMBUS_MESSAGE_TYPE, call, msr};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use memory::{Backing, Owned, SharedPool};
use netvsc::Nic;
use platform::{Error, Platform};
use relay::{NetDevice, Relay, ResetBudget, Unplugged, limits::TX_PER_POLL};
use validate::frame::HashRequest;
use validate::{Rule, Violation};
use vmbus::synic::{Drain, EventFlags, MessageSlot};
use vmbus::{
    Action, Channel, ChannelId, Client, Counters, GpadlId, News, SignalTarget, Target, limits,
};
use zerocopy::IntoBytes;

pub use subs::{Frames, ring_pages};

use parked::{Held, Parked};
use subs::{PRIMARY, Sub, add_lane};

/// Pages of each of the two rings, header page included: 64 KiB of packets hold a
/// few hundred, which is more than the NIC has outstanding.
const RING_PAGES: usize = 17;

/// What the measured configuration decides.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which host.
    pub target: Target,
    /// The NIC's address, if it is fixed.
    pub mac: Option<[u8; 6]>,
    /// Enforce the rules that no public source vouches for, in place of counting them
    /// ([`netvsc::Config::enforce_unmeasured`]).
    pub enforce_unmeasured: bool,
    /// Payload of the largest frame.
    pub mtu: u32,
    /// Random start of transaction ids.
    pub seed: u64,
    /// Sub-channels that are asked for: one for each VP but the first, or none.
    pub sub_channels: u16,
    /// The guest's card can take coalesced frames, if its driver agrees.
    pub coalescing: bool,
}

/// A buffer that was handed to the host.
struct Buffer<R> {
    gpadl: GpadlId,
    memory: Owned<R>,
    /// The host knows it.
    ready: bool,
}

/// How far the channel is.
enum State<R> {
    /// No NIC was offered yet.
    Waiting,
    /// The channel is being opened.
    Opening {
        id: ChannelId,
        ring: GpadlId,
        channel: Channel<Owned<R>>,
    },
    /// The buffers are being made known.
    Sharing {
        link: Link<R>,
        receive: Buffer<R>,
        send: Buffer<R>,
    },
    /// The NIC lives.
    Running(Running<R>),
    /// The channel is being closed, after which it may be opened again.
    Closing { id: ChannelId },
    /// The channel could not be opened and is closed again; there is a next try. Or
    /// `lanes` of the NIC before are on their way home, which is not waited for longer.
    Pausing {
        id: ChannelId,
        until: u64,
        lanes: bool,
    },
    /// There will be no NIC any more.
    Gone,
}

/// A NIC with its channel and its buffers, which lanes on other VPs see, too.
struct Running<R> {
    link: Link<R>,
    receive: (GpadlId, Arc<Owned<R>>),
    send: (GpadlId, Arc<Owned<R>>),
    nic: Box<Nic<Arc<Owned<R>>>>,
}

/// An open channel.
struct Link<R> {
    id: ChannelId,
    ring: GpadlId,
    channel: Channel<Owned<R>>,
    signal: SignalTarget,
}

/// What is counted here and in everything below that is gone already.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Messages judged and violations, of all layers.
    pub validation: Counters,
    /// SignalEvent hypercalls made.
    pub signals_sent: u64,
    /// Signals that the protocol called for.
    pub signals_needed: u64,
    /// Frames from the host.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames to the host.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Messages that they took ([`netvsc::Counters::tx_messages`]).
    pub tx_messages: u64,
    /// Packets that these were gathered into ([`netvsc::Counters::tx_packets`]).
    pub tx_packets: u64,
    /// Frames from the host that came too early or too late.
    pub rx_not_ready: u64,
    /// Ranges from the host that were discarded.
    pub rx_refused: u64,
    /// Frames that the NIC did not take.
    pub tx_refused: u64,
    /// Transmits that the host answered with an error.
    pub tx_errors: u64,
    /// Signals and messages that the host refused.
    pub calls_refused: u64,
    /// Channels opened again.
    pub restarts: u64,
    /// Frames of each channel, the primary's first; of lanes that are away, what is
    /// known when they are home.
    pub lanes: Vec<Frames>,
}

/// Where the uplink stands, for the boot that waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The host has not answered yet.
    Contacting,
    /// The bus is there, the NIC is not ready.
    Connected,
    /// Frames may flow; whether the link is up.
    Ready {
        /// The link is up.
        link: bool,
    },
    /// The bus is there, but there is no NIC, or no more.
    NoNic,
    /// The connection is over, or never was.
    Failed,
}

/// The uplink. `B` shares pages, `N` is the number of pages in the pool.
pub struct Uplink<B: Backing, const N: usize> {
    config: Config,
    pool: SharedPool<B, N>,
    messages: Owned<B::Region>,
    flags: Owned<B::Region>,
    slot: MessageSlot,
    flag_area: EventFlags,
    client: Client,
    state: State<B::Region>,
    /// Memory whose GPADL is being torn down, or that is with a lane.
    parked: Vec<Parked<B::Region>>,
    /// What lies between this VP and the others.
    hub: Arc<Hub<B::Region>>,
    subs: Vec<Sub<B::Region>>,
    /// The other VPs run.
    online: bool,
    /// Queues that the guest's driver uses.
    queues: u16,
    /// Hashes that it wants to know with its frames.
    hash: Option<HashRequest>,
    /// The channels over which the host was told to spread frames, by bits.
    told_spread: u64,
    /// VPs that are to be woken.
    calls: u64,
    /// How long a new NIC waits for lanes that were called home.
    home_until: u64,
    connected: bool,
    failed: Option<Violation>,
    offers_complete: bool,
    /// A NIC was offered, if only once.
    offered: bool,
    mac: Option<[u8; 6]>,
    relay: Relay,
    /// A channel has been opened before.
    opened_once: bool,
    resets: ResetBudget,
    /// Failures to open the channel, in a row.
    failed_opens: u32,
    /// A budget has ended the last look at the message slot (SYN-11).
    messages_left: bool,
    /// When the rings are looked at.
    rings: Turns,
    /// The guest has work for the rings, whatever the host's events say.
    guest_acted: bool,
    /// The connection has ended, by UNLOAD or by a broken rule.
    ended: bool,
    retired: Totals,
    /// The host's number of the channel in use, for the audit.
    channel_number: Option<u16>,
    /// Rules that did not hold and that the owner has not fetched yet.
    findings: Vec<Finding>,
}

impl<B: Backing, const N: usize> Uplink<B, N> {
    /// An uplink over SynIC pages that are in use already.
    pub fn new(
        config: Config,
        pool: SharedPool<B, N>,
        messages: Owned<B::Region>,
        flags: Owned<B::Region>,
    ) -> Self {
        Uplink::with_lanes(config, pool, messages, flags, Arc::new(Hub::new(1)))
    }

    /// The same, with lanes on the other VPs by way of `hub`.
    pub fn with_lanes(
        config: Config,
        pool: SharedPool<B, N>,
        messages: Owned<B::Region>,
        flags: Owned<B::Region>,
        hub: Arc<Hub<B::Region>>,
    ) -> Self {
        // Only pages of the pool are told to the host (GPD-11).
        let frames = pool.frames();
        let bus = vmbus::Config::new(config.target);
        Uplink {
            config,
            pool,
            messages,
            flags,
            slot: MessageSlot::new(config.target.sint),
            flag_area: EventFlags::new(config.target.sint),
            client: Client::new(vmbus::Config { frames, ..bus }),
            state: State::Waiting,
            parked: Vec::new(),
            hub,
            subs: Vec::new(),
            online: false,
            queues: 1,
            hash: None,
            told_spread: PRIMARY,
            calls: 0,
            home_until: 0,
            connected: false,
            failed: None,
            offers_complete: false,
            offered: false,
            mac: config.mac,
            relay: Relay::new(),
            opened_once: false,
            resets: ResetBudget::default(),
            failed_opens: 0,
            messages_left: false,
            rings: Turns::default(),
            guest_acted: false,
            ended: false,
            retired: Totals::default(),
            channel_number: None,
            findings: Vec::new(),
        }
    }

    /// Says the first word to the host.
    pub fn start(&mut self, now: u64) {
        // Fails only if it was called before.
        let _ = self.client.start(now);
    }

    /// Takes leave of the host: no NIC any more, and UNLOAD as the last word. Turns
    /// go on until [`Uplink::has_left`], within the client's deadline (CTL-54). Whether
    /// there is a connection to take leave of.
    pub fn leave(&mut self, now: u64) -> bool {
        // Lanes of VPs that have stopped are home.
        self.fetch_home(&mut Unplugged, now);
        let said = self.client.unload(now).is_ok();
        self.dismantle(&mut Unplugged, now);
        said
    }

    /// Whether the connection has ended: the host knows, or will never answer.
    pub fn has_left(&self) -> bool {
        self.ended
    }

    /// Where things stand.
    pub fn standing(&self) -> Standing {
        if self.failed.is_some() {
            return Standing::Failed;
        }
        if !self.connected {
            return Standing::Contacting;
        }
        match &self.state {
            State::Running(Running { nic, .. }) if nic.is_ready() => Standing::Ready {
                link: self.relay.link_up(),
            },
            State::Waiting if self.offers_complete => Standing::NoNic,
            State::Gone => Standing::NoNic,
            _ => Standing::Connected,
        }
    }

    /// The rule that ended the connection.
    pub fn failure(&self) -> Option<Violation> {
        self.failed
    }

    /// There is no NIC at the moment, but there was one, and it may return.
    pub fn may_return(&self) -> bool {
        self.offered && matches!(self.state, State::Waiting)
    }

    /// The address that the guest was told: from now on no NIC may have another.
    pub fn fix_mac(&mut self, mac: [u8; 6]) {
        self.mac = Some(mac);
    }

    /// The NIC's address, once known.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// Payload of the largest frame that host and configuration allow.
    pub fn mtu(&self) -> u32 {
        match &self.state {
            State::Running(Running { nic, .. }) if nic.is_ready() => nic.mtu(),
            _ => self.config.mtu,
        }
    }

    /// Whether the link is up.
    pub fn link_up(&self) -> bool {
        self.relay.link_up()
    }

    /// The guest's device takes the place of [`relay::Unplugged`]; its link is told
    /// in the next turn.
    pub fn device_attached(&mut self) {
        self.relay.device_attached();
    }

    /// The guest rang its NIC or gave it buffers: the rings get their turn even
    /// while the host's events are throttled.
    pub fn guest_acted(&mut self) {
        self.guest_acted = true;
    }

    /// The guest's driver reset its device.
    pub fn device_reset(&mut self) {
        self.relay.device_reset();
    }

    /// What the relay has counted.
    pub fn relayed(&self) -> &relay::Counters {
        self.relay.counters()
    }

    /// Adds what was counted here and in everything below to `account`.
    pub fn account(&self, account: &mut Account) {
        let mut relayed = *self.relay.counters();
        self.hub.add_relayed(&mut relayed);
        account.network(&self.totals(), &relayed, self.relay.held());
    }

    /// The VMBus version in use.
    pub fn version(&self) -> Option<abi::vmbus::Version> {
        self.client.version()
    }

    /// The NVSP version in use: the handshake proposes this one only.
    pub fn nvsp_version(&self) -> Option<&'static str> {
        matches!(self.standing(), Standing::Ready { .. }).then_some("6.1")
    }

    /// The pool, for its accounts.
    pub fn pool(&self) -> &SharedPool<B, N> {
        &self.pool
    }

    /// Everything that was counted so far.
    pub fn totals(&self) -> Totals {
        let mut totals = self.retired.clone();
        totals.validation.add(self.client.counters());
        self.hub.add_counted(&mut totals.validation);
        match &self.state {
            State::Opening { channel, .. } => add_channel(&mut totals, channel),
            State::Sharing { link, .. } => add_channel(&mut totals, &link.channel),
            State::Running(Running { link, nic, .. }) => {
                add_channel(&mut totals, &link.channel);
                add_nic(&mut totals, nic);
            }
            State::Waiting | State::Closing { .. } | State::Pausing { .. } | State::Gone => {}
        }
        totals
    }

    /// Takes the rules that did not hold since the last call, for the audit. To be
    /// called after each turn, one that failed included.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        let news = self.client.take_news();
        self.find(None, news);
        let news = self.retired.validation.take_news();
        self.find(self.channel_number, news);
        match &mut self.state {
            State::Opening { channel, .. } => {
                let news = channel.take_news();
                self.find(self.channel_number, news);
            }
            State::Sharing { link, .. } => {
                let news = link.channel.take_news();
                self.find(self.channel_number, news);
            }
            State::Running(Running { link, nic, .. }) => {
                let news = [link.channel.take_news(), nic.take_news()];
                for news in news {
                    self.find(self.channel_number, news);
                }
            }
            State::Waiting | State::Closing { .. } | State::Pausing { .. } | State::Gone => {}
        }
        core::mem::take(&mut self.findings)
    }

    fn find(&mut self, channel: Option<u16>, news: Vec<News>) {
        let vp = self.config.target.vp as u8;
        self.findings.extend(news.into_iter().map(|news| Finding {
            vp,
            channel,
            violation: news.violation,
            times: news.times,
        }));
    }

    /// One turn: host messages if `sint` was raised, requests, packets, frames.
    pub fn turn<P: Platform>(
        &mut self,
        platform: &mut P,
        device: &mut impl NetDevice,
        sint: bool,
        now: u64,
    ) -> Result<Polled, End> {
        if sint || self.messages_left {
            self.messages_left = self.take_messages(platform, now)?;
            self.take_flags(now);
        }
        let mut more = self.messages_left;
        self.tend_lanes(device, now)?;
        self.end_pause(now)?;
        self.work_client(platform, now)?;
        self.handle_events(device, now)?;
        let moved = self.attend(platform, device, now)?;
        more |= moved.more;
        // What the turn has asked for goes out at once, and what comes of it (a
        // refused message ends the connection) does not wait for another turn.
        self.work_client(platform, now)?;
        self.handle_events(device, now)?;
        let deadlines = [self.client.deadline(), moved.deadline, self.pause_end()];
        Ok(Polled {
            more,
            deadline: deadlines.into_iter().flatten().min(),
        })
    }

    /// Copies and judges what the message slot holds (SYN-01 to SYN-11). Whether a
    /// budget ended it.
    fn take_messages<P: Platform>(&mut self, platform: &mut P, now: u64) -> Result<bool, End> {
        let Uplink {
            slot,
            messages,
            client,
            ..
        } = self;
        let mut failed = None;
        let drain = slot.drain(
            messages,
            limits::MESSAGES_PER_WAKE,
            |copy| client.on_message(copy, now),
            || {
                if let Err(error) = platform.write_register(msr::EOM, 0) {
                    failed = Some(error);
                }
            },
        );
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.client.on_drained(drain);
        Ok(drain == Drain::BudgetSpent)
    }

    /// Takes the event flags. The one channel gets its turn in any case, unless
    /// such events have brought nothing for too long (SYN-18).
    fn take_flags(&mut self, now: u64) {
        let set = self.flag_area.take(&self.flags, self.client.highest_flag());
        if set.is_empty() {
            return;
        }
        for signalled in self.client.on_event_flags(&set) {
            let link = match &mut self.state {
                State::Sharing { link, .. } | State::Running(Running { link, .. }) => link,
                _ => continue,
            };
            if link.id == signalled {
                self.rings.on_event(link.channel.on_event(now));
            }
        }
    }

    /// Gives the rings their turn, unless the host's events are throttled and
    /// nothing else asks for one.
    fn attend<P: Platform>(
        &mut self,
        platform: &mut P,
        device: &mut impl NetDevice,
        now: u64,
    ) -> Result<Polled, End> {
        let asked = core::mem::take(&mut self.guest_acted);
        if let Some(rest) = self.rings.rest(asked, now) {
            return Ok(rest);
        }
        let left = self.move_frames(platform, device, now)?;
        Ok(self.rings.had(left))
    }

    /// Posts what the client has to say.
    fn work_client<P: Platform>(&mut self, platform: &mut P, now: u64) -> Result<(), End> {
        while let Some(Action::PostMessage(post)) = self.client.poll(now) {
            let payload = post.payload();
            let input = abi::hyperv::PostMessage {
                connection_id: post.connection_id(),
                reserved: 0,
                message_type: VMBUS_MESSAGE_TYPE,
                payload_size: payload.len().min(MESSAGE_PAYLOAD) as u32,
                payload: *post.padded(),
            };
            let control = Control::simple(call::POST_MESSAGE);
            let status = match platform.hypercall(control, input.as_bytes()) {
                Ok(result) => result.status(),
                // A result that cannot be: no status in its low bits makes it anything
                // but a failure (SYN-24), which ends the connection.
                Err(Error::Malformed { value, .. }) => {
                    self.client.note(Violation::new(Rule::SYN_24, 0, value));
                    u16::MAX
                }
                // A status that does not exist, or a call that the host never gets done:
                // the client's rule for it decides.
                Err(Error::Refused { status: value, .. }) => match value as u16 {
                    abi::hyperv::status::SUCCESS => u16::MAX,
                    status => status,
                },
                Err(error) => return Err(error.into()),
            };
            if status != abi::hyperv::status::SUCCESS {
                self.retired.calls_refused = self.retired.calls_refused.saturating_add(1);
            }
            self.client.on_post_result(status, now);
        }
        Ok(())
    }

    /// Moves frames both ways and takes what the NIC has to tell.
    fn move_frames<P: Platform>(
        &mut self,
        platform: &mut P,
        device: &mut impl NetDevice,
        now: u64,
    ) -> Result<Polled, End> {
        let hub = self.hub.clone();
        let device = &mut WithDetour { device, hub: &hub };
        let State::Running(Running { link, nic, .. }) = &mut self.state else {
            // SYS-06: what the guest sends after the end of its NIC is completed all
            // the same; before there was one it waits.
            let mut gone = gone::Gone::known();
            let polled = self.relay.poll(&mut gone, device, now, TX_PER_POLL);
            return Ok(Polled {
                more: polled.more,
                deadline: None,
            });
        };
        let mut host = relay::Host {
            nic,
            channel: &mut link.channel,
        };
        let polled = self.relay.poll(&mut host, device, now, TX_PER_POLL);
        let deadline = self.relay.next_deadline(&host);
        let (id, target) = (link.id, link.signal);
        if polled.signal.is_needed() {
            self.retired.signals_sent = self.retired.signals_sent.saturating_add(1);
            if signal_host(platform, target)? {
                self.retired.calls_refused = self.retired.calls_refused.saturating_add(1);
            }
        }
        if let Some(count) = polled.asked {
            // They may be offered from now on.
            let _ = self.client.expect_sub_channels(id, count, now);
        }
        if let Some(count) = polled.granted {
            log::info!("{count} sub-channels granted");
            self.client.granted_sub_channels(id, count);
        }
        if let Some((mac, mtu)) = polled.ready {
            self.mac = Some(mac);
            log::info!("NIC ready, MTU {mtu}");
        }
        if let Some(ended) = polled.ended {
            match ended {
                relay::Ended::Stopped => log::info!("NIC stopped"),
                relay::Ended::Failed(violation) => log::warn!("NIC failed: {violation}"),
            }
            self.give_up(device, id, now);
        }
        Ok(Polled {
            more: polled.more,
            deadline,
        })
    }
}

/// Signals the host. `true`: it has refused, and so does not hear us; the deadlines of
/// what waits will tell.
pub(crate) fn signal_host<P: Platform>(
    platform: &mut P,
    target: SignalTarget,
) -> Result<bool, End> {
    let input = SignalEvent {
        connection_id: target.connection_id,
        flag: target.flag,
        reserved: 0,
    };
    let control = Control::simple(call::SIGNAL_EVENT);
    match platform.hypercall(control, input.as_bytes()) {
        Ok(result) => Ok(result.status() != abi::hyperv::status::SUCCESS),
        Err(Error::Malformed { .. } | Error::Refused { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn add_channel<R: memory::SharedMemory>(totals: &mut Totals, channel: &Channel<R>) {
    totals.validation.add(channel.counters());
    totals.signals_needed = totals
        .signals_needed
        .saturating_add(channel.signals_needed());
}

fn add_nic<M: memory::SharedMemory>(totals: &mut Totals, nic: &Nic<M>) {
    add_lane(totals, 0, nic.counters());
}

/// What was counted of frames, on whichever channel.
fn add_validation(totals: &mut Totals, counters: &netvsc::Counters) {
    totals.validation.add(&counters.validation);
    totals.rx_frames = totals.rx_frames.saturating_add(counters.rx_frames);
    totals.rx_bytes = totals.rx_bytes.saturating_add(counters.rx_bytes);
    totals.tx_frames = totals.tx_frames.saturating_add(counters.tx_frames);
    totals.tx_bytes = totals.tx_bytes.saturating_add(counters.tx_bytes);
    totals.tx_messages = totals.tx_messages.saturating_add(counters.tx_messages);
    totals.tx_packets = totals.tx_packets.saturating_add(counters.tx_packets);
    totals.rx_not_ready = totals.rx_not_ready.saturating_add(counters.rx_not_ready);
    totals.rx_refused = totals.rx_refused.saturating_add(counters.rx_refused);
    totals.tx_refused = totals.tx_refused.saturating_add(counters.tx_refused);
    totals.tx_errors = totals.tx_errors.saturating_add(counters.tx_errors);
}
