//! RNDIS messages (ranges of the receive buffer of a NIC).
