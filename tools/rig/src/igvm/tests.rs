//! Hand-made files, good and bad.

use super::*;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

const MASK: u32 = 1;

/// A file from (type, structure) pairs and a data section.
fn file(structures: &[(u32, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (kind, body) in structures {
        headers.extend_from_slice(&kind.to_le_bytes());
        headers.extend_from_slice(&(body.len() as u32).to_le_bytes());
        headers.extend_from_slice(body);
        headers.resize(headers.len().next_multiple_of(8), 0);
    }
    let mut fixed = FixedHeader {
        magic: U32::new(MAGIC),
        format_version: U32::new(FORMAT_VERSION_1),
        variable_header_offset: U32::new(24),
        variable_header_size: U32::new(headers.len() as u32),
        total_file_size: U32::new((24 + headers.len() + data.len()) as u32),
        checksum: U32::new(0),
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(fixed.as_bytes());
    crc.update(&headers);
    fixed.checksum = U32::new(crc.finalize());
    [fixed.as_bytes(), &headers, data].concat()
}

fn platform() -> (u32, Vec<u8>) {
    let info = SupportedPlatform {
        compatibility_mask: U32::new(MASK),
        highest_vtl: 2,
        platform_type: platform_type::SEV_SNP,
        platform_version: U16::new(1),
        shared_gpa_boundary: U64::new(1 << 46),
    };
    (header_type::SUPPORTED_PLATFORM, info.as_bytes().to_vec())
}

fn policy() -> (u32, Vec<u8>) {
    let info = GuestPolicy {
        policy: U64::new(0x3001f),
        compatibility_mask: U32::new(MASK),
        reserved: U32::new(0),
    };
    (header_type::GUEST_POLICY, info.as_bytes().to_vec())
}

fn page(gpa: u64, offset: u32, mask: u32, flags: u32) -> (u32, Vec<u8>) {
    let info = PageData {
        gpa: U64::new(gpa),
        compatibility_mask: U32::new(mask),
        file_offset: U32::new(offset),
        flags: U32::new(flags),
        data_type: U16::new(page_type::NORMAL),
        reserved: U16::new(0),
    };
    (header_type::PAGE_DATA, info.as_bytes().to_vec())
}

/// Offset of the data section of a file with platform, policy and `n` pages.
fn data_at(n: usize) -> u32 {
    (24 + 24 + 24 + 32 * n) as u32
}

fn first_error(bytes: &[u8]) -> ErrorKind {
    match File::parse(bytes) {
        Err(error) => error.kind,
        Ok(file) => {
            file.directives()
                .find_map(Result::err)
                .expect("an error somewhere")
                .kind
        }
    }
}

#[test]
fn pages_come_in_file_order_and_foreign_ones_are_skipped() {
    let structures = [
        platform(),
        policy(),
        page(0x2000, data_at(3), MASK, 0),
        page(0x3000, 0, 2, 0),
        page(0x1000, 0, MASK | 2, PAGE_FLAG_UNMEASURED),
    ];
    let bytes = file(&structures, &[0xaa; 4096]);
    let file = File::parse(&bytes).unwrap();
    assert_eq!((file.policy, file.platform.highest_vtl), (0x3001f, 2));
    let all: Vec<_> = file.directives().map(Result::unwrap).collect();
    assert_eq!(all.len(), 2);
    assert!(
        matches!(all[0], Directive::PageData { gpa: 0x2000, data: Some(d), .. } if d[0] == 0xaa)
    );
    assert!(
        matches!(all[1], Directive::PageData { gpa: 0x1000, flags, data: None, .. } if flags.unmeasured)
    );
}

#[test]
fn bad_directives_are_named() {
    let with = |d: (u32, Vec<u8>)| file(&[platform(), policy(), d], &[0; 4096]);
    let at = data_at(1);
    let cases = [
        (page(0x1001, 0, MASK, 0), ErrorKind::Alignment),
        (page(1 << 52, 0, MASK, 0), ErrorKind::Alignment),
        (page(0, at + 1, MASK, 0), ErrorKind::DataRange),
        (page(0, 8, MASK, 0), ErrorKind::DataRange),
        (page(0, u32::MAX, MASK, 0), ErrorKind::DataRange),
        (page(0, at, MASK, PAGE_FLAG_2MB), ErrorKind::PageKind),
        (page(0, at, MASK, 1 << 31), ErrorKind::PageKind),
        ((0x3ff, vec![0; 24]), ErrorKind::UnknownType(0x3ff)),
        ((0x2ff, vec![0; 24]), ErrorKind::UnknownType(0x2ff)),
        (
            (header_type::PAGE_DATA, vec![0; 16]),
            ErrorKind::StructureSize,
        ),
    ];
    for (directive, expected) in cases {
        assert_eq!(first_error(&with(directive)), expected);
    }
    // An optional unknown structure is nothing to complain about.
    let bytes = with((0x3ff | header_type::OPTIONAL, vec![0; 24]));
    assert_eq!(File::parse(&bytes).unwrap().directives().count(), 0);
}

#[test]
fn bad_headers_are_named() {
    let good = file(&[platform(), policy(), page(0, 0, MASK, 0)], &[1]);
    assert!(File::parse(&good).is_ok());
    let patched = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        first_error(&bytes)
    };
    assert_eq!(patched(0, 0), ErrorKind::Magic);
    assert_eq!(patched(4, 2), ErrorKind::Version(2));
    assert!(matches!(patched(16, 0), ErrorKind::FileSize { .. }));
    assert!(matches!(patched(8, 20), ErrorKind::HeaderRange));
    assert!(matches!(patched(15, 0xff), ErrorKind::HeaderRange));
    assert!(matches!(patched(40, 9), ErrorKind::Checksum { .. }));
    assert_eq!(first_error(&[]), ErrorKind::Truncated);
    assert_eq!(
        first_error(&file(&[policy(), platform()], &[])),
        ErrorKind::Order
    );
    assert_eq!(first_error(&file(&[platform()], &[])), ErrorKind::NoPolicy);
    assert_eq!(first_error(&file(&[], &[])), ErrorKind::NoSnpPlatform);
    let late = file(&[platform(), policy(), page(0, 0, MASK, 0), policy()], &[]);
    assert_eq!(first_error(&late), ErrorKind::Order);
    let twice = file(&[platform(), platform(), policy()], &[]);
    assert_eq!(first_error(&twice), ErrorKind::NoSnpPlatform);
}

#[test]
fn an_area_is_declared_exactly_once() {
    let area = |index: u32| {
        let info = ParameterArea {
            number_of_bytes: U64::new(0x2000),
            parameter_area_index: U32::new(index),
            file_offset: U32::new(0),
        };
        (header_type::PARAMETER_AREA, info.as_bytes().to_vec())
    };
    let bytes = file(&[platform(), policy(), area(0), area(1), area(1)], &[]);
    let file = File::parse(&bytes).unwrap();
    assert_eq!(file.parameter_area(0), Ok(0x2000));
    assert_eq!(file.parameter_area(1).unwrap_err().kind, ErrorKind::Area(1));
    assert_eq!(file.parameter_area(2).unwrap_err().kind, ErrorKind::Area(2));
}

#[test]
fn every_prefix_and_every_flipped_bit_ends_in_a_result() {
    let structures = [platform(), policy(), page(0x2000, data_at(1), MASK, 0)];
    let bytes = file(&structures, &[0xaa; 4096]);
    for end in 0..bytes.len() {
        assert!(File::parse(&bytes[..end]).is_err());
    }
    for bit in 0..data_at(1) as usize * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(
            File::parse(&bytes).is_err(),
            "bit {bit} is covered by the checksum"
        );
        // With the checksum made right again the structures must hold.
        bytes[20..24].fill(0);
        let sum = crc32fast::hash(&bytes[..data_at(1) as usize]).to_le_bytes();
        bytes[20..24].copy_from_slice(&sum);
        if let Ok(file) = File::parse(&bytes) {
            let _ = crate::digest::measure(&file);
        }
    }
}
