//! All local APICs together, as one of the processors reaches them: its own at
//! once, those of the others by notes ([`Post`]).

use super::lapic::{Ipi, Lapic};
use super::post::{Post, Wake};
use super::{Deliver, Message, Route, mode};

/// The way of one processor to all local APICs.
pub(crate) struct Apics<'a> {
    /// Its own.
    pub own: &'a mut Lapic,
    /// Of all processors, by index; its own among them.
    pub posts: &'a [Post],
    /// Processors that must be woken to see what was left for them.
    pub kicks: &'a mut u64,
}

impl Apics<'_> {
    /// Index and notes of the others.
    fn others(&self) -> impl Iterator<Item = (u8, &Post)> + use<'_> {
        let own = self.own.route().id;
        (0..=u8::MAX)
            .zip(self.posts)
            .filter(move |(index, _)| *index != own)
    }

    /// Leaves a message for another processor. Whether its APIC takes such a thing.
    fn leave(post: &Post, route: Route, message: Message) -> Option<Wake> {
        if !route.hardware {
            return None;
        }
        match message.mode {
            mode::NMI => Some(post.nmi()),
            mode::FIXED | mode::LOWEST_PRIORITY if route.software && message.vector >= 16 => {
                Some(post.interrupt(message.vector, message.level))
            }
            _ => None,
        }
    }

    fn woken(kicks: &mut u64, index: u8, wake: Wake) {
        if wake == Wake::Kick {
            *kicks |= 1u64.wrapping_shl(u32::from(index));
        }
    }

    /// Sends an IPI to the others that it is for. How many have got it.
    pub(crate) fn send(&mut self, ipi: Ipi) -> u32 {
        let message = ipi.message;
        let mut kicks = 0;
        let mut taken = 0u32;
        for (index, post) in self.others() {
            let route = post.route(index);
            if !ipi.to_all_others && !route.addressed(message.destination, message.logical) {
                continue;
            }
            let wake = match message.mode {
                // They reach a processor whose APIC is off by software, too.
                mode::INIT if route.hardware => Some(post.init()),
                mode::STARTUP if route.hardware => Some(post.start(message.vector)),
                _ => Self::leave(post, route, message),
            };
            if let Some(wake) = wake {
                Self::woken(&mut kicks, index, wake);
                taken = taken.saturating_add(1);
                if message.mode == mode::LOWEST_PRIORITY {
                    break;
                }
            }
        }
        *self.kicks |= kicks;
        taken
    }
}

impl Deliver for Apics<'_> {
    /// To every processor that is addressed; for the lowest priority to the one with
    /// the lowest number.
    fn deliver(&mut self, message: Message) -> bool {
        if self.posts.len() <= 1 {
            return self.own.receive(message);
        }
        let own = self.own.route().id;
        let mut kicks = 0;
        let mut taken = false;
        for (index, post) in (0..=u8::MAX).zip(self.posts) {
            if index == own {
                if self
                    .own
                    .route()
                    .addressed(message.destination, message.logical)
                {
                    taken |= self.own.receive(message);
                }
            } else {
                let route = post.route(index);
                if route.addressed(message.destination, message.logical)
                    && let Some(wake) = Self::leave(post, route, message)
                {
                    Self::woken(&mut kicks, index, wake);
                    taken = true;
                }
            }
            if taken && message.mode == mode::LOWEST_PRIORITY {
                break;
            }
        }
        *self.kicks |= kicks;
        if !taken {
            self.own.ignored_messages = self.own.ignored_messages.saturating_add(1);
        }
        taken
    }
}
