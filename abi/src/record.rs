//! The record channel: what paravisor and rig tell the outside world.
//!
//! One JSON object per line, ASCII, at most [`MAX_LINE`] bytes, no guest data
//! (wall 8 of `docs/architecture.md`). The paravisor writes its lines byte by
//! byte to I/O port [`RECORD_PORT`] through the GHCB; the guest's console goes to
//! [`CONSOLE_PORT`] and only in an image built for debugging. The rig forwards
//! both to the machine it runs on.
//!
//! Every line has `"from"` (`"paravisor"` or `"rig"`) and `"kind"`:
//!
//! | kind | further members |
//! |---|---|
//! | `log` | `level` (`error`, `warn`, `info`, `debug`), `msg` |
//! | `mark` | `name`, `us` (microseconds since the sender started) |
//! | `count` | `name`, `key` (may be empty), `value` (unsigned) |
//! | `text` | `name`, `value` (a string, for example the launch digest in hex) |
//! | `audit` | `seq`, `time`, `last`, `times`, `vp`, `channel`, `rule`, `offset`, `value`, `reaction` |
//! | `outcome` | `name` (see [`Outcome`]), `msg` |
//!
//! An `audit` line is one way in which a rule was broken: for the first time at `time`
//! and for the last at `last` (100 ns since the paravisor's clock began), `times` times
//! in all, on VP `vp`, on the channel that the host calls `channel` (or `null`).
//! `rule` is its id, `reaction` the name of what it leads to, `offset` and `value` are
//! where in the message and what stood there. `seq` rises with the time of the first.
//! They come at the end of a run; the guest reads the same lines from its COM2 at any
//! time. `count` lines of name `violation` have the totals by rule. Those of frames,
//! losses and memory come at the end of a run, too, and the guest reads them from its
//! COM2 at any time, all of one moment.

/// Data port of the record channel (COM2).
pub const RECORD_PORT: u16 = 0x2f8;
/// Data port of the guest's console (COM1); written in debug images only.
pub const CONSOLE_PORT: u16 = 0x3f8;
/// Longest line, without the newline. Longer ones are cut by the receiver.
pub const MAX_LINE: usize = 240;
/// Mark of the rig: the scenario that it plays has done everything.
pub const SCENARIO_OVER: &str = "scenario-over";
/// Mark of the rig: the host's counters before it are those of this moment.
pub const HOST_BEAT: &str = "host-beat";
/// Counter of the rig: how often a `when` of its scenario happened, by line.
pub const SCENARIO_LINE: &str = "scenario_line";
/// Name under which QEMU hands the rig a scenario (`-fw_cfg`).
pub const SCENARIO_FILE: &str = "opt/undercroft/scenario";
/// `SW_EXITINFO`-free way to stop: reason set used in GHCB termination requests.
/// Sets 0 and 1 are taken (GHCB specification 2.03, section 2.3.1; Linux).
pub const TERMINATE_SET: u8 = 5;

/// How a run ended. The number is the GHCB termination reason code (set
/// [`TERMINATE_SET`]) for the paravisor's outcomes, and the value which the rig
/// writes to QEMU's `isa-debug-exit` (process status = 2 * value + 1) for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The guest switched itself off.
    PowerOff = 0,
    /// The guest asked for a reset.
    Reset = 1,
    /// The guest took a triple fault.
    TripleFault = 2,
    /// The guest left for a reason which the paravisor does not know.
    UnknownExit = 3,
    /// The paravisor found itself in a state that must not be (a bug).
    Panic = 4,
    /// The host broke the protocol or did not answer in time.
    HostFailure = 5,
    /// Memory could not be validated or changed its owner.
    MemoryFailure = 6,
    /// The measured configuration or the host's parameters make no sense.
    BadConfig = 7,
    /// The rig refused to load the image.
    ImageRejected = 16,
    /// The rig killed the VM as Hyper-V would (malformed call).
    VmKilled = 17,
    /// The host side touched a private page: a leak, a failed run.
    PrivateAccess = 18,
    /// The rig itself failed.
    RigFailure = 19,
}

impl Outcome {
    /// All outcomes, for lookups.
    pub const ALL: [Outcome; 12] = [
        Outcome::PowerOff,
        Outcome::Reset,
        Outcome::TripleFault,
        Outcome::UnknownExit,
        Outcome::Panic,
        Outcome::HostFailure,
        Outcome::MemoryFailure,
        Outcome::BadConfig,
        Outcome::ImageRejected,
        Outcome::VmKilled,
        Outcome::PrivateAccess,
        Outcome::RigFailure,
    ];

    /// The name used in records and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::PowerOff => "power-off",
            Outcome::Reset => "reset",
            Outcome::TripleFault => "triple-fault",
            Outcome::UnknownExit => "unknown-exit",
            Outcome::Panic => "panic",
            Outcome::HostFailure => "host-failure",
            Outcome::MemoryFailure => "memory-failure",
            Outcome::BadConfig => "bad-config",
            Outcome::ImageRejected => "image-rejected",
            Outcome::VmKilled => "vm-killed",
            Outcome::PrivateAccess => "private-access",
            Outcome::RigFailure => "rig-failure",
        }
    }

    /// The outcome with this number, if there is one.
    pub fn from_code(code: u8) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|o| *o as u8 == code)
    }
}
