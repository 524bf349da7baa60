//! What several tests of this crate use: one memory, as the host sees it, and calls of
//! the host.

pub mod calls;
mod view;

pub use view::HostView;
