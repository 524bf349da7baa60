//! Which kind of isolation this is: the processor's word, never the host's.
//!
//! The image is built for one kind. `SEV_STATUS` cannot be intercepted (APM volume 2,
//! 15.34.10), so whoever loads the image into a plain VM is found out before
//! anything of it is shown.

use abi::snp::SevStatus;
use validate::{Rule, Violation};

/// What an SEV-SNP VM has, always.
const NEEDED: SevStatus = SevStatus::SEV
    .union(SevStatus::SEV_ES)
    .union(SevStatus::SNP);

/// Judges the processor's `SEV_STATUS`; SYN-31 if this is no SEV-SNP VM.
pub fn judge(status: SevStatus) -> Result<(), Violation> {
    if status.contains(NEEDED) {
        Ok(())
    } else {
        Err(Violation::new(Rule::SYN_31, 0, status.bits()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syn_31_a_vm_without_isolation_is_not_started() {
        for missing in [SevStatus::SEV, SevStatus::SEV_ES, SevStatus::SNP] {
            // Everything else may be set: it does not make up for what is missing.
            for status in [NEEDED.difference(missing), !missing] {
                let found = Violation::new(Rule::SYN_31, 0, status.bits());
                assert_eq!(judge(status), Err(found));
            }
        }
        assert!(judge(SevStatus::empty()).is_err());
        assert_eq!(judge(NEEDED), Ok(()));
        assert_eq!(judge(NEEDED | SevStatus::VTOM), Ok(()));
    }
}
