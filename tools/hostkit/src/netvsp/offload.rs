//! Offloads: what the NIC offers, what the guest has switched on, and the work itself:
//! checksums and segments in software, as a virtual switch without hardware does it.
//!
//! Facts: Linux `rndis_filter_set_offload_params`, `netvsc_xmit`; NDIS's large send
//! offload version 2. The guest's words are judged; a word that cannot be stops the
//! channel.
use super::NicError;
use abi::rndis::{
    self, LsoV2, ObjectHeader, Offload, OffloadParameters, ability, checksum, encapsulation, lso,
    object, offload_parameter, revision, vlan,
};
use alloc::vec::Vec;
use zerocopy::{FromBytes, IntoBytes};

pub(super) const ETHERNET: usize = 14;

/// What the guest has switched on, IPv4 and IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Enabled {
    pub tcp: [bool; 2],
    pub udp: [bool; 2],
    pub large_send: [bool; 2],
    /// Segments are joined.
    pub coalesce: [bool; 2],
    /// Verdicts on received TCP and UDP.
    pub verdict: [[bool; 2]; 2],
}

/// Capabilities in the revision which the guest names in its input, else the newest.
/// `large_send` is the largest large send; 0: none of the work on frames of the guest.
pub(super) fn capabilities(input: &[u8], large_send: u32, coalesce: bool) -> Vec<u8> {
    let newest = revision::OFFLOAD.len();
    let wanted = input
        .get(1)
        .map_or(newest, |r| usize::from(*r).clamp(1, newest));
    let size = revision::OFFLOAD
        .get(wanted - 1)
        .copied()
        .unwrap_or(size_of::<Offload>());
    let mut value = Offload {
        header: ObjectHeader::new(object::OFFLOAD, wanted as u8, size),
        ..Default::default()
    };
    if large_send != 0 {
        let transport = ability::IP_OPTIONS | ability::TCP_OPTIONS | ability::TCP | ability::UDP;
        let plain = encapsulation::IEEE_802_3;
        value.checksum.ipv4_tx_encapsulation = plain.into();
        value.checksum.ipv4_tx = (transport | ability::IP_HEADER).into();
        value.checksum.ipv4_rx_encapsulation = plain.into();
        value.checksum.ipv4_rx = (transport | ability::IP_HEADER).into();
        value.checksum.ipv6_rx_encapsulation = plain.into();
        value.checksum.ipv6_rx = transport.into();
        value.checksum.ipv6_tx_encapsulation = plain.into();
        value.checksum.ipv6_tx = transport.into();
        value.lso_v2 = LsoV2 {
            ipv4_encapsulation: plain.into(),
            ipv4_max_size: large_send.into(),
            ipv4_min_segments: 2.into(),
            ipv6_encapsulation: plain.into(),
            ipv6_max_size: large_send.into(),
            ipv6_min_segments: 2.into(),
            ipv6_options: (ability::IP_OPTIONS | ability::TCP_OPTIONS).into(),
        };
    }
    (value.rsc_ipv4, value.rsc_ipv6) = (coalesce.into(), coalesce.into());
    value.as_bytes().get(..size).unwrap_or_default().to_vec()
}

impl Enabled {
    /// Takes OFFLOAD_PARAMETERS. Nothing but what was offered can be switched on.
    pub fn set(&mut self, input: &[u8], offered: bool, coalesce: bool) -> bool {
        let [least, ..] = revision::OFFLOAD_PARAMETERS;
        let Some(header) = input.first_chunk::<4>() else {
            return false;
        };
        let size = usize::from(u16::from_le_bytes([header[2], header[3]]));
        if header[0] != object::DEFAULT || size < least || size > input.len() {
            return false;
        }
        let mut whole = [0; size_of::<OffloadParameters>()];
        for (to, from) in whole.iter_mut().zip(input.iter().take(size)) {
            *to = *from;
        }
        let Ok(parameters) = OffloadParameters::read_from_bytes(&whole) else {
            return false;
        };
        let change = |flag: &mut bool, value: u8, on: bool| {
            if value != offload_parameter::NO_CHANGE {
                *flag = on;
            }
        };
        let apply =
            |flag: &mut bool, value, on: &[u8]| change(flag, value, offered && on.contains(&value));
        let transmit = [offload_parameter::TX_OR_ON, offload_parameter::TX_RX];
        let on = [offload_parameter::TX_OR_ON];
        apply(&mut self.tcp[0], parameters.tcp_ipv4_checksum, &transmit);
        apply(&mut self.tcp[1], parameters.tcp_ipv6_checksum, &transmit);
        apply(&mut self.udp[0], parameters.udp_ipv4_checksum, &transmit);
        apply(&mut self.udp[1], parameters.udp_ipv6_checksum, &transmit);
        let receive = [offload_parameter::RX, offload_parameter::TX_RX];
        let [tcp, udp] = &mut self.verdict;
        apply(&mut tcp[0], parameters.tcp_ipv4_checksum, &receive);
        apply(&mut tcp[1], parameters.tcp_ipv6_checksum, &receive);
        apply(&mut udp[0], parameters.udp_ipv4_checksum, &receive);
        apply(&mut udp[1], parameters.udp_ipv6_checksum, &receive);
        apply(&mut self.large_send[0], parameters.lso_v2_ipv4, &on);
        apply(&mut self.large_send[1], parameters.lso_v2_ipv6, &on);
        let parts = [parameters.rsc_ipv4, parameters.rsc_ipv6];
        for (flag, value) in self.coalesce.iter_mut().zip(parts) {
            change(flag, value, coalesce && on.contains(&value));
        }
        true
    }
}

/// What the guest said beside a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    pub checksum: Option<u32>,
    pub large_send: Option<u32>,
    pub vlan: Option<u32>,
}

fn error(name: &'static str) -> NicError {
    NicError::Protocol(name)
}

pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    u16::from_be_bytes(word.copied().unwrap_or_default())
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + value.len()) {
        to.copy_from_slice(value);
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    whole + u64::from(u32::from_be_bytes(last))
}

fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Where the headers of a frame lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    /// 0: IPv4, 1: IPv6.
    pub version: usize,
    pub protocol: u8,
    pub transport: usize,
    /// Behind TCP's header with its options, or UDP's.
    pub payload: usize,
}

impl Headers {
    pub fn of(frame: &[u8]) -> Option<Headers> {
        let (version, protocol, transport) = match word(frame, 12) {
            0x0800 => {
                let length = usize::from(frame.get(ETHERNET)? & 0xf) * 4;
                (0, *frame.get(ETHERNET + 9)?, ETHERNET + length.max(20))
            }
            0x86dd => (1, *frame.get(ETHERNET + 6)?, ETHERNET + 40),
            _ => return None,
        };
        let header = match protocol {
            6 => usize::from(frame.get(transport + 12)? >> 4) * 4,
            17 => 8,
            _ => return None,
        };
        let payload = transport + header;
        (payload <= frame.len()).then_some(Headers {
            version,
            protocol,
            transport,
            payload,
        })
    }

    fn sum_at(&self) -> usize {
        self.transport + if self.protocol == 6 { 16 } else { 6 }
    }

    fn pseudo(&self, frame: &[u8], length: usize) -> u64 {
        let addresses = match self.version {
            0 => frame.get(ETHERNET + 12..ETHERNET + 20),
            _ => frame.get(ETHERNET + 8..ETHERNET + 40),
        };
        sum(addresses.unwrap_or_default()) + u64::from(self.protocol) + length as u64
    }
}

/// Does what the guest has left to the NIC and gives the finished frames to `send`.
pub(super) fn finish(
    frame: &[u8],
    notes: &Notes,
    enabled: &Enabled,
    limits: Limits,
    mut send: impl FnMut(&[u8]),
) -> Result<(), NicError> {
    let mut out = |frame: &mut Vec<u8>| {
        if let Some(tag) = notes.vlan {
            let control = (tag & vlan::PRIORITY_MASK) << 13
                | u32::from(tag & vlan::CFI != 0) << 12
                | tag >> vlan::ID_SHIFT & vlan::ID_MASK;
            let [.., a, b] = control.to_be_bytes();
            frame.splice(12..12, [0x81, 0x00, a, b]);
        }
        send(frame);
    };
    if let Some(value) = notes.large_send {
        return segments(frame, value, enabled, limits.large_send, &mut out);
    }
    if frame.len() > limits.mtu {
        return Err(error("frame-size"));
    }
    let mut frame = frame.to_vec();
    let value = notes.checksum.unwrap_or(0);
    // Bits 0 and 1 only say what kind of packet it is.
    let wanted = value & (checksum::TX_TCP | checksum::TX_UDP | checksum::TX_IP_HEADER);
    if wanted & checksum::TX_IP_HEADER != 0 {
        return Err(error("checksum-not-offered"));
    }
    if wanted != 0 {
        let headers = Headers::of(&frame).ok_or(error("checksum-headers"))?;
        let (flags, protocol) = match wanted {
            checksum::TX_TCP => (enabled.tcp, 6),
            checksum::TX_UDP => (enabled.udp, 17),
            _ => return Err(error("checksum-bits")),
        };
        let network = [checksum::TX_IPV4, checksum::TX_IPV6][headers.version];
        let offset = value >> checksum::TX_TCP_OFFSET_SHIFT & 0x3ff;
        let right = value & (checksum::TX_IPV4 | checksum::TX_IPV6) == network
            && headers.protocol == protocol
            && offset as usize == headers.transport;
        if !flags[headers.version] {
            return Err(error("checksum-not-enabled"));
        }
        if !right {
            return Err(error("checksum-bits"));
        }
        // The sum of the pseudo header stands in the field already.
        let total = fold(sum(frame.get(headers.transport..).unwrap_or_default()));
        let total = match !total {
            0 if protocol == 17 => 0xffff,
            total => total,
        };
        put(&mut frame, headers.sum_at(), &total.to_be_bytes());
    }
    out(&mut frame);
    Ok(())
}

/// What is said about the checksums of a frame for the guest; 0 where it did not ask,
/// or of frames that are not plain TCP or UDP.
pub(super) fn verdict(frame: &[u8], enabled: &Enabled) -> u32 {
    let Some(headers) = Headers::of(frame) else {
        return 0;
    };
    let fragment = headers.version == 0 && word(frame, ETHERNET + 6) & 0x3fff != 0;
    let udp = headers.protocol == 17;
    let length = match headers.version {
        0 => usize::from(word(frame, ETHERNET + 2)).checked_sub(headers.transport - ETHERNET),
        _ => Some(usize::from(word(frame, ETHERNET + 4))),
    };
    // Short frames are padded; a UDP sum of zero is none.
    let transport = length.and_then(|len| frame.get(headers.transport..)?.get(..len));
    let none = udp && word(frame, headers.sum_at()) == 0;
    let (Some(transport), false, false) = (transport, fragment, none) else {
        return 0;
    };
    if !enabled.verdict[usize::from(udp)][headers.version] {
        return 0;
    }
    let right = fold(headers.pseudo(frame, transport.len()) + sum(transport)) == 0xffff;
    match (right, udp) {
        (true, false) => checksum::RX_TCP_SUCCEEDED,
        (true, true) => checksum::RX_UDP_SUCCEEDED,
        (false, false) => checksum::RX_TCP_FAILED,
        (false, true) => checksum::RX_UDP_FAILED,
    }
}

/// What a frame is measured against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Largest frame with Ethernet header.
    pub mtu: usize,
    /// Largest large send.
    pub large_send: usize,
}

fn segments(
    frame: &[u8],
    value: u32,
    enabled: &Enabled,
    largest: usize,
    out: &mut dyn FnMut(&mut Vec<u8>),
) -> Result<(), NicError> {
    if enabled.large_send == [false; 2] {
        return Err(error("lso-not-enabled"));
    }
    let headers = Headers::of(frame)
        .filter(|headers| headers.protocol == 6)
        .ok_or(error("lso-headers"))?;
    if !enabled.large_send[headers.version] {
        return Err(error("lso-not-enabled"));
    }
    let size = (value & lso::MSS_MASK) as usize;
    let offset = value >> lso::TCP_OFFSET_SHIFT & 0x3ff;
    let version = usize::from(value & lso::IPV6 != 0);
    if value & lso::TYPE_V2 == 0 || version != headers.version {
        return Err(error("lso-version"));
    }
    if size == 0 || offset as usize != headers.transport || frame.len() > largest {
        return Err(error("lso-sizes"));
    }
    let payload = frame.get(headers.payload..).unwrap_or_default();
    if payload.len() <= size {
        return Err(error("lso-one-segment"));
    }
    // Lengths and the IP header's sum are ours to write; the guest leaves zeros, and in
    // TCP's sum that of the pseudo header without a length.
    let cleared = match headers.version {
        0 => word(frame, ETHERNET + 2) == 0 && word(frame, ETHERNET + 10) == 0,
        _ => word(frame, ETHERNET + 4) == 0,
    };
    let pseudo = fold(headers.pseudo(frame, 0));
    let sum_of_guest = word(frame, headers.sum_at());
    if !cleared || sum_of_guest % 0xffff != pseudo % 0xffff {
        return Err(error("lso-header"));
    }
    let sequence_at = headers.transport + 4;
    let first = u32::from(word(frame, sequence_at)) << 16 | u32::from(word(frame, sequence_at + 2));
    let id = word(frame, ETHERNET + 4);
    let count = payload.len().div_ceil(size);
    for (n, part) in payload.chunks(size).enumerate() {
        let mut segment = frame.get(..headers.payload).unwrap_or_default().to_vec();
        segment.extend_from_slice(part);
        let sequence = first.wrapping_add((n * size) as u32);
        put(&mut segment, sequence_at, &sequence.to_be_bytes());
        if let Some(flags) = segment.get_mut(headers.transport + 13) {
            if n + 1 != count {
                // FIN and PSH.
                *flags &= !0x09;
            }
            if n != 0 {
                // CWR.
                *flags &= !0x80;
            }
        }
        let whole = segment.len();
        if headers.version == 0 {
            let length = (whole - ETHERNET) as u16;
            put(&mut segment, ETHERNET + 2, &length.to_be_bytes());
            let id = id.wrapping_add(n as u16);
            put(&mut segment, ETHERNET + 4, &id.to_be_bytes());
            let header = segment.get(ETHERNET..headers.transport).unwrap_or_default();
            let total = !fold(sum(header));
            put(&mut segment, ETHERNET + 10, &total.to_be_bytes());
        } else {
            let length = (whole - headers.transport) as u16;
            put(&mut segment, ETHERNET + 4, &length.to_be_bytes());
        }
        put(&mut segment, headers.sum_at(), &[0; 2]);
        let transport = segment.get(headers.transport..).unwrap_or_default();
        let total = headers.pseudo(&segment, transport.len()) + sum(transport);
        put(
            &mut segment,
            headers.sum_at(),
            &(!fold(total)).to_be_bytes(),
        );
        out(&mut segment);
    }
    Ok(())
}

/// Judges per-packet information and takes what is said about offloads; what is only
/// a hint is left alone.
pub(super) fn notes(mut rest: &[u8]) -> Result<Notes, NicError> {
    use rndis::{PerPacketInfo, ppi};
    let mut notes = Notes::default();
    while !rest.is_empty() {
        let e: PerPacketInfo = super::parse(rest, "ppi-short")?;
        let size = e.size.get() as usize;
        if size < ppi::HEADER_SIZE || !size.is_multiple_of(4) {
            return Err(error("ppi-size"));
        }
        let value = super::part(rest, e.value_offset.get() as usize, 4, "ppi-value");
        let value = value.map(|value| value.first_chunk().map_or(0, |w| u32::from_le_bytes(*w)));
        match e.kind.get() {
            ppi::CHECKSUM => notes.checksum = Some(value?),
            ppi::LSO => notes.large_send = Some(value?),
            ppi::IEEE_8021Q => notes.vlan = Some(value?),
            ppi::IPSEC => return Err(error("ipsec-not-offered")),
            _ => {}
        }
        rest = rest.get(size..).ok_or(error("ppi-size"))?;
    }
    Ok(notes)
}

/// A large send of so many bytes, cut into finished segments.
#[cfg(test)]
pub(super) fn finished_segments(payload: usize, size: u32) -> Vec<Vec<u8>> {
    tests::cut(payload, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: Enabled = Enabled {
        tcp: [true; 2],
        udp: [true; 2],
        large_send: [true; 2],
        coalesce: [false; 2],
        verdict: [[true; 2]; 2],
    };
    const LIMITS: Limits = Limits {
        mtu: 1514,
        large_send: 62780,
    };

    /// TCP over IPv4 with `payload` bytes, as a driver leaves it to the NIC.
    fn frame(payload: usize) -> Vec<u8> {
        let mut frame = alloc::vec![0; 54];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
        frame[46] = 0x50;
        frame[47] = 0x89;
        frame.extend((0..payload).map(|n| n as u8));
        let headers = Headers::of(&frame).unwrap();
        let sum = fold(headers.pseudo(&frame, 0));
        put(&mut frame, 50, &sum.to_be_bytes());
        frame
    }

    fn run(frame: &[u8], notes: Notes, enabled: &Enabled) -> Result<Vec<Vec<u8>>, NicError> {
        let mut out = Vec::new();
        finish(frame, &notes, enabled, LIMITS, |frame| {
            out.push(frame.to_vec())
        })
        .map(|()| out)
    }

    pub fn cut(payload: usize, size: u32) -> Vec<Vec<u8>> {
        let mut large = frame(payload);
        large[47] = 0x18;
        let notes = Notes {
            large_send: Some(size | 34 << 20 | 1 << 30),
            ..Notes::default()
        };
        run(&large, notes, &ON).unwrap()
    }

    fn right(frame: &[u8]) -> bool {
        let headers = Headers::of(frame).unwrap();
        let transport = &frame[headers.transport..];
        fold(headers.pseudo(frame, transport.len()) + sum(transport)) == 0xffff
            && fold(sum(&frame[14..34])) == 0xffff
    }

    #[test]
    fn segments_have_their_own_sums() {
        let large = frame(5000);
        let notes = Notes {
            large_send: Some(1000 | 34 << 20 | 1 << 30),
            ..Notes::default()
        };
        let out = run(&large, notes, &ON).unwrap();
        assert_eq!(out.len(), 5);
        assert!(out.iter().all(|segment| right(segment)));
        let payload: Vec<u8> = out
            .iter()
            .flat_map(|segment| &segment[54..])
            .copied()
            .collect();
        assert_eq!(payload, large[54..]);
        assert_eq!([out[0][47], out[1][47], out[4][47]], [0x80, 0, 0x09]);
        // Not switched on, of the wrong version, from the wrong place, of nothing, with
        // lengths of the guest's own, in one segment.
        let wrong = |value| Notes {
            large_send: Some(value),
            ..Notes::default()
        };
        assert!(run(&large, notes, &Enabled::default()).is_err());
        for value in [
            1000 | 34 << 20,
            1000 | 34 << 20 | 3 << 30,
            1000 | 38 << 20 | 1 << 30,
            34 << 20 | 1 << 30,
            5000 | 34 << 20 | 1 << 30,
        ] {
            assert!(run(&large, wrong(value), &ON).is_err(), "{value:#x}");
        }
        let mut lengths = large.clone();
        lengths[17] = 1;
        assert!(run(&lengths, notes, &ON).is_err());
    }

    #[test]
    fn a_checksum_is_filled_in_if_it_was_switched_on() {
        let mut one = frame(100);
        let headers = Headers::of(&one).unwrap();
        let pseudo = fold(headers.pseudo(&one, 120));
        put(&mut one, 50, &pseudo.to_be_bytes());
        let header = !fold(sum(&one[14..34]));
        put(&mut one, 24, &header.to_be_bytes());
        let notes = |value| Notes {
            checksum: Some(value),
            ..Notes::default()
        };
        let out = run(&one, notes(5 | 34 << 16), &ON).unwrap();
        assert!(right(&out[0]));
        let mut frame = out[0].clone();
        put(&mut frame, 16, &140u16.to_be_bytes());
        assert_eq!(verdict(&frame, &ON), checksum::RX_TCP_SUCCEEDED);
        assert_eq!(verdict(&frame, &Enabled::default()), 0);
        frame[100] ^= 1;
        assert_eq!(verdict(&frame, &ON), checksum::RX_TCP_FAILED);
        frame[20] = 0x20;
        assert_eq!(verdict(&frame, &ON), 0);
        assert!(run(&one, notes(5 | 34 << 16), &Enabled::default()).is_err());
        for value in [6 | 34 << 16, 5 | 33 << 16, 9 | 34 << 16, 17, 13 | 34 << 16] {
            assert!(run(&one, notes(value), &ON).is_err(), "{value:#x}");
        }
        // Bits that only say what it is.
        assert_eq!(run(&one, notes(1), &ON).unwrap(), [one]);
    }

    #[test]
    fn what_was_not_offered_cannot_be_switched_on() {
        let mut parameters = OffloadParameters {
            tcp_ipv4_checksum: 4,
            lso_v2_ipv6: 2,
            rsc_ipv4: 2,
            rsc_ipv6: 1,
            ..Default::default()
        };
        parameters.header.object_type = object::DEFAULT;
        parameters.header.size = 28.into();
        let mut enabled = Enabled::default();
        assert!(enabled.set(parameters.as_bytes(), false, false));
        assert_eq!(enabled, Enabled::default());
        assert!(enabled.set(parameters.as_bytes(), true, true));
        assert_eq!(
            (enabled.tcp, enabled.large_send, enabled.coalesce),
            ([true, false], [false, true], [true, false])
        );
        parameters.header.size = 29.into();
        assert!(!enabled.set(parameters.as_bytes(), true, true));
    }
}
