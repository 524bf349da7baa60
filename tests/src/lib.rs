//! What several tests of this crate use: one memory, as the host sees it.

mod view;

pub use view::HostView;
