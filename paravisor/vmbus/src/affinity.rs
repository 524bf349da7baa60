//! Which VP works for which channel of a card.

/// The VP for the channel with this index among those that are online (bit n is
/// VP n): one after the other, and again from the first. This is what Linux's
/// `init_vp_index` gives to the channels of one network card on one NUMA node;
/// slow devices are VP 0's.
pub fn target_vp(index: u16, online: u64) -> u32 {
    let count = online.count_ones();
    let Some(mut left) = u32::from(index).checked_rem(count) else {
        return 0;
    };
    (0..u64::BITS)
        .filter(|vp| online.wrapping_shr(*vp) & 1 == 1)
        .find(|_| {
            let found = left == 0;
            left = left.saturating_sub(1);
            found
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Linux's choice for the channels 0 to `channels` of one card, on one node.
    fn model(channels: u16, online: u64) -> Vec<u32> {
        let count = online.count_ones();
        let mut allocated = 0u64;
        let mut targets = Vec::new();
        for index in 0..channels {
            let mut target = 0;
            for turn in 1..=count + 1 {
                if online & !allocated == 0 {
                    allocated = 0;
                }
                target = (online & !allocated).trailing_zeros();
                allocated |= 1 << target;
                let used = targets.contains(&target);
                if u32::from(index) >= count || turn > count || !used {
                    break;
                }
            }
            targets.push(target);
        }
        targets
    }

    #[test]
    fn channels_go_where_linux_puts_them() {
        let masks = [
            1,
            0b11,
            0b1111,
            0b1011,
            0x8000_0000_0000_0001,
            0x5555_5555_5555_5555,
            u64::MAX >> 1,
            u64::MAX,
        ];
        for online in masks {
            let ours: Vec<u32> = (0..64).map(|index| target_vp(index, online)).collect();
            assert_eq!(ours, model(64, online), "{online:#x}");
        }
        assert_eq!(target_vp(3, 0b1111), 3);
        // Channel 2 of a machine whose VP 2 has gone is VP 3's, the last VP 0's.
        assert_eq!([2, 3].map(|index| target_vp(index, 0b1011)), [3, 0]);
        assert_eq!(target_vp(9, 0), 0);
    }
}
