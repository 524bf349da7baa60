//! Virtio devices over PCI.

pub(crate) mod net;
pub(crate) mod queue;
pub(crate) mod share;
pub(crate) mod transport;
