//! SYS: the whole system.

use super::rules;

rules! {
    SYS_09 {
        reaction: Structural,
        statement: "GPA-direct packets are never sent",
        danger: "",
        example: "",
        source: "Linux bounces",
    }
    SYS_14 {
        reaction: Drop,
        statement: "The number of network cards is fixed by the measured configuration",
        danger: "",
        example: "",
        source: "own",
    }
}
