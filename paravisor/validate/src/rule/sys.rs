//! SYS: the whole system.

use super::rules;

rules! { Sys
    SYS_09 = 9, Structural,
        "GPA-direct packets are never sent",
        "Linux bounces";
    SYS_14 = 14, Drop,
        "The number of network cards is fixed by the measured configuration",
        "own";
}
