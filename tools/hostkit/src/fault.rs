//! The seam where a run makes the host misbehave. Everything that the host says
//! to the guest passes [`Faults::pass`] once, before it reaches shared memory.
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
}

/// A hook sees every message of the host.
pub type Hook = Box<dyn FnMut(&mut OutgoingMessage)>;

/// What goes wrong in this run; by default nothing.
#[derive(Default)]
pub struct Faults {
    /// VERSION_RESPONSE is never sent.
    pub never_answer_version: bool,
    hook: Option<Hook>,
}

impl core::fmt::Debug for Faults {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let hook = self.hook.is_some();
        write!(
            f,
            "Faults {{ never_answer_version: {}, hook: {hook} }}",
            self.never_answer_version
        )
    }
}

impl Faults {
    /// Names that [`from_word`](Self::from_word) knows.
    pub const WORDS: [&'static str; 1] = ["never-answer-version"];

    /// The fault with this name, as given by `fault=` on the rig's command line.
    pub fn from_word(word: &str) -> Option<Faults> {
        match word {
            "never-answer-version" => Some(Faults {
                never_answer_version: true,
                hook: None,
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
    pub(crate) fn pass(&mut self, layer: Layer, relid: u32, bytes: Vec<u8>) -> (Vec<u8>, u32) {
        match &mut self.hook {
            None => (bytes, 1),
            Some(hook) => {
                let mut message = OutgoingMessage {
                    layer,
                    relid,
                    bytes,
                    copies: 1,
                };
                hook(&mut message);
                (message.bytes, message.copies)
            }
        }
    }
}
