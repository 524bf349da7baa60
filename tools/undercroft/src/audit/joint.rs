//! Fragments of coalesced packets in a trace, judged as the paravisor judges them.

use validate::rndis::{Gathered, Packet, coalesce};
use validate::{Reaction, Rule, Violation};

/// What is collected of the packet at hand.
#[derive(Default)]
pub struct Joint {
    gathered: Gathered,
    bytes: Vec<u8>,
    /// Nothing in the packet at hand was refused (RND-33).
    accepted: bool,
}

impl Joint {
    /// Another packet; whether all of its ranges lie where they may.
    pub fn begin(&mut self, accepted: bool) {
        self.gathered = Gathered::new();
        self.accepted = accepted;
    }

    /// A range was refused: what was begun has no end.
    pub fn refused(&mut self, violation: Violation) -> Option<Violation> {
        self.accepted &= violation.rule.reaction() == Reaction::Ignore;
        self.gathered.interrupted()
    }

    /// Takes the frame or the fragment in range `index`, behind which there are `more`: a
    /// frame that is whole, and the rule that it breaks.
    pub fn take(
        &mut self,
        packet: &Packet<'_>,
        index: usize,
        more: bool,
    ) -> (Option<Vec<u8>>, Option<Violation>) {
        if packet.part().is_none() {
            let open = self.gathered.interrupted();
            self.accepted &= open.is_none();
            return (Some(packet.frame().to_vec()), open);
        }
        match self.gather(packet, index, more) {
            Ok(whole) => (whole, None),
            Err(violation) => {
                self.refused(violation);
                (None, Some(violation))
            }
        }
    }

    fn gather(
        &mut self,
        packet: &Packet<'_>,
        index: usize,
        more: bool,
    ) -> Result<Option<Vec<u8>>, Violation> {
        let Some(part) = packet.part() else {
            return Ok(None);
        };
        if !self.accepted {
            return Err(Violation::new(Rule::RND_33, 0, index as u64));
        }
        if part.is_first() {
            self.bytes.clear();
        }
        let last = self.gathered.add(&part, more)?;
        self.bytes.extend_from_slice(packet.frame());
        if !last {
            return Ok(None);
        }
        self.gathered = Gathered::new();
        // The guest's owner decides whether the host's word counts; a trace does not say.
        coalesce::headers(&self.bytes, self.bytes.len(), true)?;
        Ok(Some(core::mem::take(&mut self.bytes)))
    }
}
