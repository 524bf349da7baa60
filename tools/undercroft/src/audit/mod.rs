//! `undercroft audit`: replays a trace through `validate` and says for each host
//! message whether it is accepted, or which rule it breaks, where, with what.
//!
//! The trace has what crossed the boundary ([`abi::trace`]). From the guest's
//! side of it the state is rebuilt that rules ask for: which requests are
//! outstanding, which buffers exist, how far rings were read. The verdicts come
//! from the very functions that the paravisor calls. `docs/trace-format.md` says
//! what a replay cannot know.

mod control;
pub mod file;
mod html;
mod joint;
mod memory;
mod nic;
mod pcapng;
mod register;
mod replay;
mod ring;
mod text;
mod verdict;

pub use file::Broken;
pub use html::html;
pub use pcapng::pcapng;
pub use text::text;
pub use verdict::{Audit, Finding, Frame, Verdict, Way};

/// What to keep and how to judge.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep the accepted messages too.
    pub all: bool,
    /// Keep the Ethernet frames.
    pub frames: bool,
    /// Enforce the rules that images only count (NVS-25, NVS-26, RND-10, RND-45).
    pub enforce_all: bool,
}

/// Audits the bytes of a trace. What is wrong with the file itself is in
/// [`Audit::broken`]; what came before it was judged.
pub fn audit(bytes: &[u8], options: Options) -> Audit {
    let mut audit = Audit {
        file_bytes: bytes.len() as u64,
        keep_all: options.all,
        keep_frames: options.frames,
        ..Audit::default()
    };
    let mut reader = match file::Reader::new(bytes) {
        Ok(reader) => reader,
        Err(broken) => {
            audit.broken = Some(broken);
            return audit;
        }
    };
    audit.creator = reader.creator.clone();
    audit.first_time = reader.start;
    audit.last_time = reader.start;
    let mut replay = replay::Replay::new(audit, options.enforce_all);
    loop {
        match reader.next_record() {
            Ok(Some(record)) => replay.record(&record),
            Ok(None) => break,
            Err(broken) => {
                replay.audit.broken = Some(broken);
                break;
            }
        }
    }
    replay.finish()
}
