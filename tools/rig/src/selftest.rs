//! (being written)
use crate::vm::end::{End, end};
use crate::vm::load::{Loaded, Loader};
use abi::record::Outcome;

/// Loads the payload.
pub fn load(_: &mut Loader<'_>) -> Result<Loaded, End> {
    end!(Outcome::RigFailure, "not yet")
}
