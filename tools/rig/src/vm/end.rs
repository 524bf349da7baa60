//! How a run ends.

use abi::record::Outcome;
use alloc::string::String;

/// Outcome and reason.
#[derive(Debug)]
pub struct End {
    /// For the exit status.
    pub outcome: Outcome,
    /// For people.
    pub message: String,
}

/// `return Err(End)` as an expression.
macro_rules! end {
    ($outcome:expr, $($message:tt)+) => {
        Err($crate::vm::end::End { outcome: $outcome, message: alloc::format!($($message)+) })
    };
}
pub(crate) use end;
