//! What a VP other than the first does for its queues.

use super::{Hub, PARCEL, Parcel, RECALL, Round};
use crate::audit::Finding;
use crate::run::{End, Polled, Reason};
use crate::turns::Turns;
use crate::uplink::{gone, signal_host};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use memory::{Owned, SharedMemory};
use platform::Platform;
use relay::{NetDevice, Relay, SubHost, limits::TX_PER_POLL};
use validate::frame::{Arrived, Task};
use validate::{Rule, Violation};
use vmbus::synic::EventFlags;
use vmbus::{Counters, News};

/// How soon a frame that has found the way round full is tried again (100 ns).
const ROUND_AGAIN: u64 = vmbus::limits::MILLISECOND;

/// A VP's part of the NIC: at most one lane, and the queues of the guest's card that
/// are this VP's.
pub struct Worker<R> {
    hub: Arc<Hub<R>>,
    vp: u8,
    /// The VP's own SynIC pages. Messages come on the first VP alone (SYN-12).
    messages: Owned<R>,
    flags: Owned<R>,
    area: EventFlags,
    relay: Relay,
    strand: Option<Parcel<R>>,
    /// The link as the relay was told.
    link: bool,
    /// When the rings are looked at.
    rings: Turns,
    /// Something was left for the first VP.
    calls_first: bool,
    counters: Counters,
    findings: Vec<Finding>,
}

impl<R: SharedMemory> Worker<R> {
    /// For VP `vp`, with pages for its SynIC and the source on which the host speaks.
    pub fn new(hub: Arc<Hub<R>>, vp: u8, messages: Owned<R>, flags: Owned<R>, sint: u8) -> Self {
        Worker {
            hub,
            vp,
            messages,
            flags,
            area: EventFlags::new(sint),
            relay: Relay::new(),
            strand: None,
            link: false,
            rings: Turns::default(),
            calls_first: false,
            counters: Counters::new(),
            findings: Vec::new(),
        }
    }

    /// The pages of the VP's SynIC: messages, event flags.
    pub fn pages(&self) -> (&Owned<R>, &Owned<R>) {
        (&self.messages, &self.flags)
    }

    /// Whether the first VP has left something.
    pub fn is_called(&self) -> bool {
        let berth = self.hub.berth(self.vp);
        berth.is_some_and(|berth| berth.note.load(Ordering::SeqCst) != 0)
    }

    /// Whether something was left for the first VP, which is to be woken; asking takes
    /// it.
    pub fn take_call(&mut self) -> bool {
        core::mem::take(&mut self.calls_first)
    }

    /// The lane, while it is here.
    pub fn lane(&self) -> Option<u16> {
        self.strand.as_ref().map(|strand| strand.index)
    }

    /// What the relay has counted on this VP.
    pub fn relayed(&self) -> &relay::Counters {
        self.relay.counters()
    }

    /// Event flags that belong to no lane of this VP.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// One turn: what the first VP wants, event flags if `sint` was raised, frames.
    pub fn turn<P: Platform>(
        &mut self,
        platform: &mut P,
        device: &mut impl NetDevice,
        reason: Reason,
        now: u64,
    ) -> Result<Polled, End> {
        let mut device = Queues(device);
        let called = self.is_called();
        if called {
            self.obey(&mut device, now);
        }
        if reason.reset {
            self.relay.device_reset();
        }
        if reason.sint {
            self.take_flags(now);
        }
        if let Some(rest) = self.rings.rest(called || reason.guest, now) {
            return Ok(rest);
        }
        let left = self.move_frames(platform, &mut device, now)?;
        Ok(self.rings.had(left))
    }

    /// Brings the lane home: the VP stops.
    pub fn go_home(&mut self) {
        self.hub.account(&self.counters, self.relay.counters());
        self.lane_home();
    }

    fn lane_home(&mut self) {
        if let Some(parcel) = self.strand.take() {
            self.send_home(parcel);
        }
    }

    /// Takes the rules that did not hold since the last call.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        let news = self.counters.take_news();
        self.find(None, news);
        self.find_on_lane();
        core::mem::take(&mut self.findings)
    }

    fn find_on_lane(&mut self) {
        if let Some(strand) = &mut self.strand {
            let flag = strand.flag;
            let news = [strand.channel.take_news(), strand.lane.take_news()];
            for news in news {
                self.find(Some(flag), news);
            }
        }
    }

    fn find(&mut self, channel: Option<u16>, news: Vec<News>) {
        let vp = self.vp;
        self.findings.extend(news.into_iter().map(|news| Finding {
            vp,
            channel,
            violation: news.violation,
            times: news.times,
        }));
    }

    /// What the first VP wants: first the old lane home, then the new one.
    fn obey(&mut self, device: &mut impl NetDevice, now: u64) {
        let hub = self.hub.clone();
        let Some(berth) = hub.berth(self.vp) else {
            return;
        };
        let note = berth.note.swap(0, Ordering::SeqCst);
        if note & RECALL != 0 {
            self.find_on_lane();
            if let Some(parcel) = self.strand.take() {
                self.stop(device, now);
                self.send_home(parcel);
            }
        }
        if note & PARCEL != 0
            && let Some(parcel) = berth.out.lock().take()
        {
            self.relay.nic_replaced();
            self.link = false;
            if let Some(old) = self.strand.replace(parcel) {
                self.send_home(old);
            }
        }
    }

    fn send_home(&mut self, parcel: Parcel<R>) {
        self.rings = Turns::default();
        self.hub.bring_home(self.vp, parcel);
        self.calls_first = true;
    }

    /// The lane is gone: of a frame that is half sent nothing more leaves.
    fn stop(&mut self, device: &mut impl NetDevice, now: u64) {
        let _ = self.relay.poll(&mut gone::Gone::new(), device, now, 0);
        self.relay.nic_replaced();
    }

    /// Takes the event flags of this VP: there is one that means something.
    fn take_flags(&mut self, now: u64) {
        let flag = self.strand.as_ref().map(|strand| strand.flag);
        let highest = flag.map_or(0, u32::from);
        for number in self.area.take(&self.flags, highest).iter() {
            let ours = match (validate::synic::event_flag(number), flag) {
                (Ok(judged), Some(flag)) if judged.number() == flag => Ok(()),
                (Ok(_), Some(_)) => Err(Violation::new(Rule::SYN_15, 0, number)),
                // The lane may be on its way: it is polled as soon as it is here.
                (Ok(_), None) if self.hub.alive.load(Ordering::SeqCst) => Ok(()),
                (Ok(_), None) => Err(Violation::new(Rule::SYN_16, 0, number)),
                (Err(violation), _) => Err(violation),
            };
            match (ours, &mut self.strand) {
                (Err(violation), _) => self.counters.violation(violation),
                (Ok(()), Some(strand)) => self.rings.on_event(strand.channel.on_event(now)),
                (Ok(()), None) => {}
            }
        }
    }

    fn move_frames<P: Platform>(
        &mut self,
        platform: &mut P,
        device: &mut impl NetDevice,
        now: u64,
    ) -> Result<Polled, End> {
        let Some(strand) = &mut self.strand else {
            return Ok(self.without_lane(device, now));
        };
        let mut host = SubHost {
            lane: &mut strand.lane,
            channel: &mut strand.channel,
            link: self.hub.link.load(Ordering::SeqCst),
            told: &mut self.link,
        };
        let polled = self.relay.poll(&mut host, device, now, TX_PER_POLL);
        let deadline = self.relay.next_deadline(&host);
        if polled.signal.is_needed() {
            strand.signals_sent = strand.signals_sent.saturating_add(1);
            if signal_host(platform, strand.signal)? {
                strand.calls_refused = strand.calls_refused.saturating_add(1);
            }
        }
        if polled.ended.is_some() {
            // A rule was broken: the NIC ends, which is the first VP's affair.
            self.find_on_lane();
            self.lane_home();
        }
        Ok(Polled {
            more: polled.more,
            deadline,
        })
    }

    /// The guest uses a queue that has no lane: its frames go round as long as there
    /// is a card; after that they are completed and counted all the same (SYS-06).
    fn without_lane(&mut self, device: &mut impl NetDevice, now: u64) -> Polled {
        if !self.hub.alive.load(Ordering::SeqCst) {
            let mut gone = gone::Gone::new();
            let polled = self.relay.poll(&mut gone, device, now, TX_PER_POLL);
            return Polled {
                more: polled.more,
                deadline: None,
            };
        }
        let before = *self.relay.counters();
        let mut round = Round { hub: &self.hub };
        let polled = self.relay.poll(&mut round, device, now, TX_PER_POLL);
        let after = self.relay.counters();
        self.calls_first |= after.tx_frames != before.tx_frames;
        let full = after.tx_waits != before.tx_waits;
        Polled {
            more: polled.more,
            deadline: full.then(|| now.saturating_add(ROUND_AGAIN)),
        }
    }
}

/// The queues of one VP: the card's link is shown by the first.
struct Queues<'a, D>(&'a mut D);

impl<D: NetDevice> NetDevice for Queues<'_, D> {
    fn take_tx(&mut self, buf: &mut [u8]) -> Option<usize> {
        self.0.take_tx(buf)
    }
    fn take_frame(&mut self, buf: &mut [u8]) -> Option<(usize, Task)> {
        self.0.take_frame(buf)
    }
    fn deliver_rx(&mut self, frame: &[u8]) -> Result<(), devices::NoBuffer> {
        self.0.deliver_rx(frame)
    }
    fn takes_pieces(&self) -> bool {
        self.0.takes_pieces()
    }
    fn deliver(
        &mut self,
        parcel: &mut memory::Parcel<'_>,
        arrived: Arrived,
    ) -> Result<(), devices::NoBuffer> {
        self.0.deliver(parcel, arrived)
    }
    fn publish(&mut self) {
        self.0.publish();
    }
    fn set_link(&mut self, _: bool) {}
}
