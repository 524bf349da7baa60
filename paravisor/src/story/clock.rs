//! Time: read from the host once, corrected once, and from then on the TSC's.

use super::Host;
use super::stop::{Chapter as _, Stop};
use crate::arch::{log as out, tsc};
use abi::hyperv::msr;
use paravisor_core::audit::Finding;
use paravisor_core::synic::SynicError;
use paravisor_core::time::Clock;
use platform::Platform as _;

/// The partition's reference time now.
pub fn now(clock: &Clock) -> u64 {
    clock.reference_at(tsc())
}

/// The clock, by the host's word on rate and origin.
pub fn read(host: &mut Host) -> Result<Clock, Stop> {
    let hz = host
        .read_register(msr::TSC_FREQUENCY)
        .chapter("TSC frequency")?;
    // The TSC first: the time that the request takes makes our clock run ahead of
    // the host's, so a timer of the host's is late for us by that, never early.
    let before = tsc();
    let reference = host
        .read_register(msr::TIME_REF_COUNT)
        .chapter("reference time")?;
    Clock::new(before, hz, reference)
        .map_err(SynicError::from)
        .chapter("TSC frequency")
}

/// The second look at the host's counter, by which its timers expire (SYN-29).
pub fn align(host: &mut Host, clock: &mut Clock) -> Result<(), Stop> {
    let counter = host
        .read_register(msr::TIME_REF_COUNT)
        .chapter("reference time")?;
    if let Some(violation) = clock.align(tsc(), counter) {
        log::warn!("the host's counter is not believed: {violation}");
        out::found([Finding {
            vp: 0,
            channel: None,
            violation,
            times: 1,
        }]);
    }
    Ok(())
}
