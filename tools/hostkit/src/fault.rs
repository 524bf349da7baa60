//! The seam where a run makes the host misbehave. Everything that the host says
//! to the guest passes [`Faults::pass`] once, before it reaches shared memory.
use crate::scenario::Player;
use abi::hyperv::CallResult;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Where a message of the host is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A channel message for the SynIC slot: header and payload, up to 240 bytes.
    Control,
    /// A ring packet: descriptor, extended header, payload, without trailer. Its
    /// length is rounded up to 8 when it is written.
    Packet,
    /// An RNDIS message for a slot of the receive buffer.
    ReceiveBuffer,
}

/// One message of the host that a hook may alter, drop or repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// What `bytes` are.
    pub layer: Layer,
    /// Channel it belongs to; 0 for messages of the connection itself.
    pub relid: u32,
    /// The bytes as they will be written.
    pub bytes: Vec<u8>,
    /// How often it is sent: 0 drops it, 2 sends it twice.
    pub copies: u32,
    /// What the head of its SynIC slot says (control messages only).
    pub slot: Slot,
}

impl OutgoingMessage {
    /// A message that is sent once, as it is.
    pub fn new(layer: Layer, relid: u32, bytes: Vec<u8>) -> OutgoingMessage {
        OutgoingMessage {
            layer,
            relid,
            bytes,
            copies: 1,
            slot: Slot::default(),
        }
    }
}

/// Head of a SynIC slot, where it is not as it should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Message type of the hypervisor.
    pub message_type: Option<u32>,
    /// Payload size.
    pub size: Option<u8>,
    /// Flags that are set beside "more waits".
    pub flags: u8,
    /// Another SINT's slot.
    pub sint: Option<u8>,
}

/// A hook sees every message of the host.
pub type Hook = Box<dyn FnMut(&mut OutgoingMessage)>;

/// What goes wrong in this run; by default nothing.
#[derive(Default)]
pub struct Faults {
    /// VERSION_RESPONSE is never sent.
    pub never_answer_version: bool,
    /// So many opens are refused; the host means it and keeps nothing.
    pub refuse_opens: u32,
    /// No interrupt is ever raised: neither messages nor timers are announced.
    pub never_interrupt: bool,
    hook: Option<Hook>,
    player: Option<Player>,
}

impl core::fmt::Debug for Faults {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let hook = self.hook.is_some();
        write!(
            f,
            "Faults {{ never_answer_version: {}, never_interrupt: {}, hook: {hook} }}",
            self.never_answer_version, self.never_interrupt
        )
    }
}

impl Faults {
    /// Names that [`from_word`](Self::from_word) knows.
    pub const WORDS: [&'static str; 2] = ["never-answer-version", "never-interrupt"];

    /// The fault with this name, as given by `fault=` on the rig's command line.
    pub fn from_word(word: &str) -> Option<Faults> {
        match word {
            "never-answer-version" => Some(Faults {
                never_answer_version: true,
                ..Faults::default()
            }),
            "never-interrupt" => Some(Faults {
                never_interrupt: true,
                ..Faults::default()
            }),
            _ => None,
        }
    }

    /// Lets `hook` see every message from now on.
    pub fn set_hook(&mut self, hook: impl FnMut(&mut OutgoingMessage) + 'static) {
        self.hook = Some(Box::new(hook));
    }

    /// Takes the hook away.
    pub fn clear_hook(&mut self) {
        self.hook = None;
    }

    /// What becomes of a message: bytes and number of copies.
    pub(crate) fn pass(&mut self, layer: Layer, relid: u32, bytes: Vec<u8>) -> OutgoingMessage {
        let mut message = OutgoingMessage::new(layer, relid, bytes);
        if let Some(player) = &mut self.player {
            player.message(&mut message);
        }
        if let Some(hook) = &mut self.hook {
            hook(&mut message);
        }
        message
    }

    /// Plays a scenario from now on.
    pub fn play(&mut self, player: Player) {
        self.player = Some(player);
    }

    /// The scenario that is being played.
    pub fn player(&self) -> Option<&Player> {
        self.player.as_ref()
    }

    pub(crate) fn player_mut(&mut self) -> Option<&mut Player> {
        self.player.as_mut()
    }

    /// The guest posted a channel message.
    pub(crate) fn heard(&mut self, message: &[u8]) {
        if let Some(player) = &mut self.player {
            player.heard(message);
        }
    }

    /// Whether the interrupt of the NIC's channel is sent.
    pub(crate) fn signal(&mut self) -> bool {
        self.player.as_mut().is_none_or(Player::signal)
    }

    /// The result of a hypercall that is not done.
    pub(crate) fn hypercall(&mut self, now: u64, code: u16) -> Option<CallResult> {
        self.player.as_mut()?.hypercall(now, code)
    }

    /// What a register reads in place of its value.
    pub(crate) fn register(&mut self, now: u64, register: u32) -> Option<u64> {
        self.player.as_mut()?.register(now, register)
    }

    /// Whether the NIC does nothing at the moment.
    pub(crate) fn nic_is_silent(&self) -> bool {
        self.player.as_ref().is_some_and(Player::nic_is_silent)
    }

    /// Whether no interrupt reaches the guest at the moment.
    pub(crate) fn withholds_interrupts(&self) -> bool {
        let player = self.player.as_ref();
        self.never_interrupt || player.is_some_and(Player::withholds_interrupts)
    }

    /// Whether the bus takes no messages at the moment.
    pub(crate) fn bus_is_silent(&self) -> bool {
        self.player.as_ref().is_some_and(Player::bus_is_silent)
    }
}
