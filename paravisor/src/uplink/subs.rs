//! The sub-channels: opened when the VPs that are to have them run, made lanes, handed
//! out, called home.

use super::{Held, Running, State, Totals, Uplink, add_channel, add_validation};
use crate::lanes::Strand;
use crate::run::{End, Why};
use abi::record::Outcome;
use alloc::boxed::Box;
use memory::{Backing, Owned, Purpose};
use relay::NetDevice;
use validate::frame::{HashKinds, HashRequest};
use vmbus::affinity::target_vp;
use vmbus::{Channel, ChannelId, GpadlId, RequestError, SignalTarget};

/// Pages of each of a channel's rings with so many VPs: above 8 the rings would take
/// half of the pool.
pub const fn ring_pages(vps: u8) -> usize {
    if vps <= 8 { super::RING_PAGES } else { 5 }
}

/// How long a NIC that comes again waits for lanes of the one before (100 ns). VPs
/// answer as soon as they are woken; one that does not run for so long may be one that
/// the host never lets run again.
const HOME_DEADLINE: u64 = vmbus::limits::SECOND;

/// A sub-channel that has come.
pub(super) struct Sub<R> {
    id: ChannelId,
    index: u16,
    stage: Stage<R>,
}

enum Stage<R> {
    /// Nobody has opened it yet.
    Offered,
    /// The host was asked to open it.
    Opening {
        ring: GpadlId,
        channel: Box<Channel<Owned<R>>>,
    },
    /// Its lane is with its VP.
    Away { ring: GpadlId },
}

impl<B: Backing, const N: usize> Uplink<B, N> {
    /// The VPs that are to have lanes run: sub-channels are opened from now on.
    pub fn vps_online(&mut self) {
        self.online = true;
    }

    /// Sub-channels that the host has granted.
    pub fn granted(&self) -> u16 {
        match &self.state {
            State::Running(running) => running.nic.granted_sub_channels(),
            _ => 0,
        }
    }

    /// The guest's driver uses so many queues, the first of which is the primary's.
    pub fn set_queues(&mut self, count: u16) {
        self.queues = count;
    }

    /// Hashes of frames that the host can make.
    pub fn offers_hash(&self) -> HashKinds {
        match &self.state {
            State::Running(running) => running.nic.offers_hash().unwrap_or_default(),
            _ => HashKinds::empty(),
        }
    }

    /// The guest's driver wants to know these hashes, whichever NIC there is.
    pub fn set_hash(&mut self, asked: Option<HashRequest>) {
        self.hash = asked;
    }

    /// VPs for which something was left and which are to be woken, by bits; asking
    /// takes them.
    pub fn take_calls(&mut self) -> u64 {
        core::mem::take(&mut self.calls)
    }

    /// Whether another VP has left something.
    pub fn is_called(&self) -> bool {
        self.hub.has_news()
    }

    /// Lanes that are with their VPs.
    pub fn lanes_away(&self) -> usize {
        let away = |sub: &&Sub<B::Region>| matches!(sub.stage, Stage::Away { .. });
        self.subs
            .iter()
            .filter(away)
            .fold(0, |n: usize, _| n.saturating_add(1))
    }

    /// What the first VP has to do for the lanes in each of its turns.
    pub(super) fn tend_lanes(&mut self, device: &mut impl NetDevice, now: u64) -> Result<(), End> {
        if self.hub.has_news() {
            self.guest_acted |= self.hub.take_detour_note();
            self.fetch_home(device, now);
        }
        let alive = matches!(&self.state, State::Running(running) if running.nic.is_ready());
        let link = alive && self.relay.link_up();
        self.hub.set_state(alive, link);
        if let State::Running(running) = &mut self.state {
            // Said in the NIC's next turn, which is this one.
            running.nic.coalesce(device.takes_joined());
            self.guest_acted |= running.nic.coalesce_due();
            running.nic.set_hash(self.hash);
            self.guest_acted |= running.nic.spread_due();
        }
        if alive && self.online {
            self.open_subs(now)?;
            self.spread();
        }
        Ok(())
    }

    /// A sub-channel was offered that was asked for.
    pub(super) fn sub_offered(&mut self, primary: ChannelId, id: ChannelId, index: u16) {
        if self.channel_id() == Some(primary) {
            self.subs.push(Sub {
                id,
                index,
                stage: Stage::Offered,
            });
        }
    }

    /// Opens what was granted and has come.
    fn open_subs(&mut self, now: u64) -> Result<(), End> {
        let granted = self.granted().min(self.config.sub_channels);
        let next = |sub: &Sub<B::Region>| {
            matches!(sub.stage, Stage::Offered) && (1..=granted).contains(&sub.index)
        };
        while let Some(at) = self.subs.iter().position(next) {
            // Taken out: what cannot be opened is not tried again.
            let sub = self.subs.swap_remove(at);
            let vps = u32::from(self.config.sub_channels).saturating_add(1);
            let all = u64::MAX
                .checked_shr(u64::BITS.saturating_sub(vps))
                .unwrap_or(0);
            let vp = target_vp(sub.index, all);
            let pages = ring_pages(vps as u8);
            let Some(memory) = self.take(pages.saturating_mul(2), Purpose::Ring)? else {
                continue;
            };
            let Ok(channel) = Channel::new(memory, pages as u32, netvsc::POLICY) else {
                return Err(End {
                    outcome: Outcome::Panic,
                    why: Why::Told("ring geometry"),
                });
            };
            let opened = self
                .client
                .open(sub.id, channel.memory(), pages as u32, vp, now);
            match opened {
                Ok(ring) => self.subs.push(Sub {
                    stage: Stage::Opening {
                        ring,
                        channel: Box::new(channel),
                    },
                    ..sub
                }),
                Err(error) => {
                    log::warn!("sub-channel cannot be opened: {error:?}");
                    self.pool.give_back(channel.into_memory());
                    if matches!(error, RequestError::Limit(_)) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether `id` is one of the sub-channels.
    pub(super) fn is_sub(&self, id: ChannelId) -> bool {
        self.subs.iter().any(|sub| sub.id == id)
    }

    fn take_sub(&mut self, id: ChannelId) -> Option<Sub<B::Region>> {
        let at = self.subs.iter().position(|sub| sub.id == id)?;
        Some(self.subs.swap_remove(at))
    }

    /// A sub-channel is open: its lane goes to its VP.
    pub(super) fn sub_opened(&mut self, id: ChannelId, signal: SignalTarget, now: u64) {
        let Some(sub) = self.take_sub(id) else { return };
        let Stage::Opening { ring, channel } = sub.stage else {
            self.subs.push(sub);
            return;
        };
        let vp = self
            .client
            .target_vp(id)
            .and_then(|vp| u8::try_from(vp).ok());
        let flag = self.client.event_flag(id);
        let lane = match &self.state {
            State::Running(Running {
                nic, receive, send, ..
            }) => nic
                .lane(sub.index, receive.1.clone(), send.1.clone(), now)
                .ok(),
            _ => None,
        };
        let (Some(lane), Some(vp), Some(flag)) = (lane, vp, flag) else {
            // The NIC is not ready any more: it goes with it.
            self.park(ring, Held::Own(channel.into_memory()));
            let _ = self.client.close(id, now);
            return;
        };
        let strand = Strand {
            index: sub.index,
            lane,
            channel: *channel,
            ring,
            signal,
            flag,
            signals_sent: 0,
            calls_refused: 0,
        };
        match self.hub.hand_out(vp, Box::new(strand)) {
            Ok(()) => {
                self.call(vp);
                self.subs.push(Sub {
                    stage: Stage::Away { ring },
                    ..sub
                });
            }
            Err(parcel) => {
                self.take_apart(*parcel);
                let _ = self.client.close(id, now);
            }
        }
    }

    /// A sub-channel could not be opened, or was taken back. The others go on.
    pub(super) fn sub_lost(&mut self, id: ChannelId, close: bool, now: u64) {
        let Some(sub) = self.take_sub(id) else { return };
        let opened = !matches!(sub.stage, Stage::Offered);
        self.let_go(sub);
        if close && opened {
            let _ = self.client.close(id, now);
        }
    }

    /// All of them, with their NIC: the client closes them in front of the primary.
    pub(super) fn dismantle_subs(&mut self, now: u64) {
        self.hub.set_state(false, false);
        self.home_until = now.saturating_add(HOME_DEADLINE);
        self.told_spread = PRIMARY;
        for sub in core::mem::take(&mut self.subs) {
            self.let_go(sub);
        }
    }

    /// Its memory is parked; a lane that is away is called home.
    fn let_go(&mut self, sub: Sub<B::Region>) {
        match sub.stage {
            Stage::Offered => {}
            Stage::Opening { ring, mut channel } => {
                self.find(self.channel_number, channel.take_news());
                add_channel(&mut self.retired, &channel);
                self.park(ring, Held::Own(channel.into_memory()));
            }
            Stage::Away { ring } => {
                self.park(ring, Held::Away);
                // One lane at a time has been on each VP, the one with its index.
                let vp = sub.index as u8;
                self.hub.recall(vp);
                self.call(vp);
            }
        }
    }

    fn call(&mut self, vp: u8) {
        self.calls |= 1u64.wrapping_shl(vp.into());
    }

    /// Takes the lanes that have come home.
    pub(super) fn fetch_home(&mut self, device: &mut impl NetDevice, now: u64) {
        let mut broken = false;
        for parcel in self.hub.take_home() {
            let ring = parcel.ring;
            let of_it = |sub: &Sub<B::Region>| matches!(sub.stage, Stage::Away { ring: own } if own == ring);
            if let Some(at) = self.subs.iter().position(of_it) {
                // Nobody has called it: a rule was broken on it, or its VP has stopped.
                self.subs.swap_remove(at);
                self.park(ring, Held::Away);
                if let Some(violation) = parcel.lane.failed().or(parcel.channel.dead()) {
                    log::warn!("sub-channel {} failed: {violation}", parcel.index);
                    broken = true;
                }
            }
            self.take_apart(*parcel);
        }
        if broken && let Some(id) = self.channel_id() {
            self.give_up(device, id, now);
        }
        self.settle();
    }

    /// A lane is no more: its counters and findings are kept, its memory is where it
    /// was parked.
    fn take_apart(&mut self, strand: Strand<B::Region>) {
        let Strand {
            index,
            mut lane,
            mut channel,
            ring,
            flag,
            signals_sent,
            calls_refused,
            ..
        } = strand;
        self.find(Some(flag), channel.take_news());
        self.find(Some(flag), lane.take_news());
        let totals = &mut self.retired;
        add_channel(totals, &channel);
        add_lane(totals, index, lane.counters());
        totals.signals_sent = totals.signals_sent.saturating_add(signals_sent);
        totals.calls_refused = totals.calls_refused.saturating_add(calls_refused);
        // Its views of the buffers go here.
        drop(lane);
        self.came_home(ring, channel.into_memory());
        self.settle();
    }

    /// Has the host spread frames over the channels whose lanes are there and whose
    /// queues the guest uses.
    fn spread(&mut self) {
        let queues = self.queues;
        let wanted = self
            .subs
            .iter()
            .filter(|sub| matches!(sub.stage, Stage::Away { .. }) && sub.index < queues)
            .fold(PRIMARY, |mask, sub| {
                mask | 1u64.wrapping_shl(sub.index.into())
            });
        if wanted != self.told_spread
            && let State::Running(running) = &mut self.state
        {
            self.told_spread = wanted;
            running.nic.spread(wanted);
            // It is said in the NIC's next turn, which is this one.
            self.guest_acted = true;
        }
    }
}

/// The primary channel alone.
pub(super) const PRIMARY: u64 = 1;

/// Frames of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// From the host.
    pub rx: u64,
    /// To the host.
    pub tx: u64,
}

/// Adds what was counted on the channel with this index.
pub(super) fn add_lane(totals: &mut Totals, index: u16, counters: &netvsc::Counters) {
    add_validation(totals, counters);
    let index = usize::from(index);
    if totals.lanes.len() <= index {
        totals
            .lanes
            .resize(index.saturating_add(1), Frames::default());
    }
    if let Some(frames) = totals.lanes.get_mut(index) {
        frames.rx = frames.rx.saturating_add(counters.rx_frames);
        frames.tx = frames.tx.saturating_add(counters.tx_frames);
    }
}
