//! Register-level tests of the local APIC.

use super::*;

fn on() -> Lapic {
    let mut lapic = Lapic::new(0);
    lapic.write(reg::SVR, 0x1ff, 0);
    lapic
}

fn fixed(vector: u8) -> Message {
    Message {
        destination: 0,
        logical: false,
        mode: mode::FIXED,
        vector,
        level: false,
    }
}

fn vector(lapic: &Lapic) -> Option<u8> {
    lapic.pending().map(|p| p.vector)
}

#[test]
fn apm_16_3_2_reset_state() {
    let mut lapic = Lapic::new(0);
    assert_eq!(lapic.read(reg::SVR, 0), 0xff);
    assert_eq!(lapic.read(reg::DFR, 0), u32::MAX);
    assert_eq!(lapic.read(reg::LVT_TIMER, 0), LVT_MASKED);
    assert_eq!(lapic.read(reg::VERSION, 0), VERSION);
    assert!(!lapic.receive(fixed(0x40)));
}

#[test]
fn priority_class_decides() {
    let mut lapic = on();
    lapic.receive(fixed(0x41));
    lapic.receive(fixed(0x52));
    lapic.receive(fixed(0x51));
    assert_eq!(
        lapic.pending(),
        Some(PendingInterrupt {
            vector: 0x52,
            priority: 5
        })
    );
    lapic.accept(0x52);
    // 0x51 is of the same class as what is in service.
    assert_eq!(vector(&lapic), None);
    lapic.receive(fixed(0x60));
    assert_eq!(vector(&lapic), Some(0x60));
    lapic.accept(0x60);
    lapic.write(reg::EOI, 0, 0);
    lapic.write(reg::EOI, 0, 0);
    assert_eq!(vector(&lapic), Some(0x51));
}

#[test]
fn tpr_holds_back_and_shows_in_ppr() {
    let mut lapic = on();
    lapic.receive(fixed(0x45));
    lapic.write(reg::TPR, 0x4f, 0);
    assert_eq!(lapic.read(reg::PPR, 0), 0x4f);
    assert_eq!(vector(&lapic), None);
    lapic.write(reg::TPR, 0x3f, 0);
    assert_eq!(vector(&lapic), Some(0x45));
}

#[test]
fn accept_of_a_vector_that_is_not_requested_changes_nothing() {
    let mut lapic = on();
    lapic.accept(0x40);
    assert_eq!(lapic.read(reg::PPR, 0), 0);
}

#[test]
fn eoi_tells_level_vectors_only() {
    let mut lapic = on();
    lapic.receive(Message {
        level: true,
        ..fixed(0x70)
    });
    assert_eq!(lapic.read(0x180 + 0x30, 0), 1 << 16);
    lapic.accept(0x70);
    assert_eq!(lapic.write(reg::EOI, 0, 0), Some(0x70));
    lapic.receive(fixed(0x70));
    lapic.accept(0x70);
    assert_eq!(lapic.write(reg::EOI, 0, 0), None);
    assert_eq!(lapic.write(reg::EOI, 0, 0), None);
}

#[test]
fn self_ipis_by_shorthand_and_by_destination() {
    let mut lapic = on();
    for (low, high) in [
        (0x4_00f6, 0),
        (0x8_00f6, 0),
        (0x00f6, 0),
        (0x00f6, 0xff00_0000),
        (0x08f6, 0x0100_0000),
    ] {
        lapic.write(reg::LDR, 0x0100_0000, 0);
        lapic.write(reg::ICR_HIGH, high, 0);
        lapic.write(reg::ICR_LOW, low, 0);
        assert_eq!(vector(&lapic), Some(0xf6), "{low:#x} {high:#x}");
        lapic.accept(0xf6);
        lapic.write(reg::EOI, 0, 0);
    }
    lapic.write(reg::ICR_LOW, 0xc_00f6, 0);
    lapic.write(reg::ICR_HIGH, 0x0500_0000, 0);
    lapic.write(reg::ICR_LOW, 0x00f6, 0);
    assert_eq!(vector(&lapic), None);
    assert!(!lapic.take_nmi());
    lapic.write(reg::ICR_LOW, 0x4_0400, 0);
    assert!(lapic.take_nmi());
}

#[test]
fn illegal_vectors_show_in_esr_after_a_write() {
    let mut lapic = on();
    lapic.write(reg::LVT_ERROR, 0xfe, 0);
    lapic.write(reg::ICR_LOW, 0x4_0005, 0);
    assert_eq!(lapic.read(reg::ESR, 0), 0);
    lapic.write(reg::ESR, 0, 0);
    assert_eq!(lapic.read(reg::ESR, 0), ESR_SEND_VECTOR);
    assert_eq!(vector(&lapic), Some(0xfe));
    lapic.write(reg::LVT_ERROR, 3, 0);
    lapic.receive(fixed(3));
    lapic.write(reg::ESR, 0, 0);
    assert_eq!(lapic.read(reg::ESR, 0), ESR_RECEIVE_VECTOR);
}

#[test]
fn one_shot_timer_counts_divides_and_fires_once() {
    let mut lapic = on();
    lapic.write(reg::TIMER_DIVIDE, 3, 0); // by 16
    lapic.write(reg::LVT_TIMER, 0xec, 0);
    lapic.write(reg::TIMER_INITIAL, 1000, 500);
    assert_eq!(lapic.next_deadline(), Some(16_500));
    assert_eq!(lapic.read(reg::TIMER_CURRENT, 500 + 1600), 900);
    lapic.advance(16_499);
    assert_eq!(vector(&lapic), None);
    lapic.advance(16_500);
    assert_eq!(vector(&lapic), Some(0xec));
    assert_eq!(lapic.next_deadline(), None);
    assert_eq!(lapic.read(reg::TIMER_CURRENT, 17_000), 0);
}

#[test]
fn every_divisor() {
    let mut lapic = on();
    for (code, divisor) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ] {
        lapic.write(reg::TIMER_DIVIDE, code, 0);
        assert_eq!(lapic.timer.divisor(), divisor);
    }
}

#[test]
fn periodic_timer_keeps_its_phase_and_cannot_storm() {
    let mut lapic = on();
    lapic.write(reg::TIMER_DIVIDE, 0xb, 0);
    lapic.write(reg::LVT_TIMER, 0x2_00ec, 0);
    lapic.write(reg::TIMER_INITIAL, 1_000_000, 0);
    lapic.advance(3_400_000);
    assert_eq!(vector(&lapic), Some(0xec));
    assert_eq!(lapic.next_deadline(), Some(4_000_000));
    lapic.write(reg::TIMER_INITIAL, 1, 5_000_000);
    assert_eq!(lapic.next_deadline(), Some(5_000_000 + MIN_PERIOD_NS));
}

#[test]
fn masked_or_stopped_timer_asks_for_nothing() {
    let mut lapic = on();
    lapic.write(reg::LVT_TIMER, 0x1_00ec, 0);
    lapic.write(reg::TIMER_INITIAL, 100, 0);
    assert_eq!(lapic.next_deadline(), None);
    // Calibration reads a masked timer: it counts all the same.
    assert_eq!(lapic.read(reg::TIMER_CURRENT, 20), 90);
    lapic.write(reg::LVT_TIMER, 0xec, 0);
    assert!(lapic.next_deadline().is_some());
    lapic.write(reg::TIMER_INITIAL, 0, 0);
    assert_eq!(lapic.next_deadline(), None);
    lapic.advance(1_000_000);
    assert_eq!(vector(&lapic), None);
}

#[test]
fn apm_16_4_7_software_disable_masks_the_lvt() {
    let mut lapic = on();
    lapic.write(reg::LVT_TIMER, 0xec, 0);
    lapic.receive(fixed(0x80));
    lapic.write(reg::SVR, 0xff, 0);
    assert_eq!(lapic.read(reg::LVT_TIMER, 0), 0x1_00ec);
    assert_eq!(vector(&lapic), None);
    lapic.write(reg::LVT_LINT0, 0x700, 0);
    assert_eq!(lapic.read(reg::LVT_LINT0, 0), 0x1_0700);
}

#[test]
fn logical_destinations_flat_and_cluster() {
    let mut lapic = on();
    lapic.write(reg::LDR, 0x1200_0000, 0);
    assert!(lapic.route().addressed(0x02, true));
    assert!(!lapic.route().addressed(0x20, true));
    lapic.write(reg::DFR, 0, 0);
    assert!(lapic.route().addressed(0x12, true));
    assert!(!lapic.route().addressed(0x22, true));
    assert!(lapic.route().addressed(0xf2, true));
}

#[test]
fn switching_off_by_apic_base_forgets_requests() {
    let mut lapic = on();
    lapic.receive(fixed(0x80));
    lapic.set_hardware_enabled(false);
    assert_eq!(vector(&lapic), None);
    lapic.set_hardware_enabled(true);
    assert_eq!(lapic.read(reg::SVR, 0), 0xff);
}
