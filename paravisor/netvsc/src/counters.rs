//! What the NIC counts. Numbers only, so that they may go to the records.

/// Counters since the NIC was made.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// NVSP and RNDIS messages judged, and rules that did not hold. The layers
    /// below (packets, rings) count in their channel.
    pub validation: vmbus::Counters,
    /// Frames given to the sink.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames given to the host.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Messages that they took: more than one for a frame that the host does not
    /// cut into segments as a whole.
    pub tx_messages: u64,
    /// Packets that these were gathered into; messages of more than a section have their
    /// own, which are not counted here.
    pub tx_packets: u64,
    /// Frames among those given to the sink that the host had coalesced.
    pub rx_coalesced: u64,
    /// Fragments that they came in.
    pub rx_fragments: u64,
    /// Frames that came before the NIC was ready, or while it stops.
    pub rx_not_ready: u64,
    /// Ranges that were discarded because a rule did not hold.
    pub rx_refused: u64,
    /// Frames that [`transmit`](crate::Nic::transmit) refused for good: not
    /// ready, or of a length that no frame has.
    pub tx_refused: u64,
    /// Messages about frames that the host answered with an error (NVS-36).
    pub tx_errors: u64,
    /// Changes of the link that the guest does not see, because another came
    /// too soon after (RND-55).
    pub link_coalesced: u64,
}

/// Adds without wrapping: what a host can make happen must not panic.
pub(crate) fn add(counter: &mut u64, by: usize) {
    *counter = counter.saturating_add(by as u64);
}
