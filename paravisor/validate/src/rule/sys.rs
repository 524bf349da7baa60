//! SYS: the whole system.

use super::rules;

rules! {
    SYS_09 {
        reaction: Structural,
        statement: "GPA-direct packets are never sent",
        danger: "The host is told addresses of private memory, or reads them itself",
        example: "Every packet in the outgoing ring, looked at from the host",
        source: "Linux sends from a shared buffer",
    }
    SYS_12 {
        not_applicable { refused_by: CTL_06, why: "The client is never saved or moved: it requests no feature for it, keeps no state outside its memory and refuses the pause messages of the protocol" },
        statement: "State that was saved is authenticated and judged again when it is restored",
        danger: "The host hands back a state in which a channel has another ring, or a flag 0",
        example: "A saved state with event flag 0",
        source: "OpenVMM `restore` judges a part again",
    }
    SYS_14 {
        reaction: Drop,
        statement: "The number of network cards is fixed by the measured configuration",
        danger: "A second card connects the guest to a network of the host's choice",
        example: "A second card",
        source: "own reasoning",
    }
    SYS_18 {
        reaction: Drop,
        statement: "Channels of disk controllers (SCSI, IDE, fibre channel) are not opened: each would need rules of its own",
        danger: "Answers with lengths and ids that no rule has looked at are believed",
        example: "An offer of a SCSI controller",
        source: "Linux 6fd13d699d24, 453de21c2b82 for what such rules are about",
    }
}
