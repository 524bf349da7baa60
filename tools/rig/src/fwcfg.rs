//! Files that QEMU hands over (`-fw_cfg name=…,file=…`), through the two ports of its
//! firmware configuration device (QEMU `docs/specs/fw_cfg.rst`).
use alloc::vec::Vec;

/// Item that begins with the device's name.
const SIGNATURE: u16 = 0;
/// Item with the list of files.
const DIRECTORY: u16 = 0x19;
/// Bytes of an entry in the list: size and item in big-endian, two bytes reserved,
/// name of 56 bytes, ended by a zero.
const ENTRY: usize = 64;
/// Most entries that are looked at; QEMU has a few dozen.
const MAX_ENTRIES: u32 = 4096;

/// Why there is no such file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No such device.
    Device,
    /// No file of this name.
    File,
    /// It has more bytes than the reader takes.
    TooLong(u32),
}

impl core::fmt::Display for Missing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Missing::Device => f.write_str("no fw_cfg device"),
            Missing::File => f.write_str("QEMU was given no such file (-fw_cfg name=…,file=…)"),
            Missing::TooLong(size) => write!(f, "the file has {size} bytes, which is too many"),
        }
    }
}

/// The device's two ports.
pub trait Device {
    /// Chooses an item; reading starts at its first byte.
    fn select(&mut self, item: u16);
    /// The item's next byte; zeros behind its end.
    fn next(&mut self) -> u8;
}

/// Reads the file `name`, if it has `most` bytes at most.
pub fn read(device: &mut impl Device, name: &str, most: u32) -> Result<Vec<u8>, Missing> {
    device.select(SIGNATURE);
    if bytes(device) != *b"QEMU" {
        return Err(Missing::Device);
    }
    device.select(DIRECTORY);
    let entries = u32::from_be_bytes(bytes(device)).min(MAX_ENTRIES);
    for _ in 0..entries {
        let entry: [u8; ENTRY] = bytes(device);
        let (head, named) = entry.split_at(8);
        let named = named.split(|b| *b == 0).next().unwrap_or_default();
        let [a, b, c, d, e, f, _, _] = head else {
            return Err(Missing::Device);
        };
        if named != name.as_bytes() {
            continue;
        }
        let size = u32::from_be_bytes([*a, *b, *c, *d]);
        if size > most {
            return Err(Missing::TooLong(size));
        }
        device.select(u16::from_be_bytes([*e, *f]));
        return Ok((0..size).map(|_| device.next()).collect());
    }
    Err(Missing::File)
}

fn bytes<const N: usize>(device: &mut impl Device) -> [u8; N] {
    core::array::from_fn(|_| device.next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Fake {
        items: BTreeMap<u16, Vec<u8>>,
        item: u16,
        at: usize,
    }

    impl Device for Fake {
        fn select(&mut self, item: u16) {
            (self.item, self.at) = (item, 0);
        }
        fn next(&mut self) -> u8 {
            self.at += 1;
            let item = self.items.get(&self.item);
            item.and_then(|i| i.get(self.at - 1)).copied().unwrap_or(0)
        }
    }

    fn with(files: &[(&str, u16, &[u8])]) -> Fake {
        let mut fake = Fake::default();
        fake.items.insert(SIGNATURE, b"QEMU".to_vec());
        let mut list = (files.len() as u32).to_be_bytes().to_vec();
        for (name, item, content) in files {
            let mut entry = (content.len() as u32).to_be_bytes().to_vec();
            entry.extend(item.to_be_bytes());
            entry.extend([0; 2]);
            entry.extend(name.as_bytes());
            entry.resize(ENTRY, 0);
            list.extend(entry);
            fake.items.insert(*item, content.to_vec());
        }
        fake.items.insert(DIRECTORY, list);
        fake
    }

    #[test]
    fn the_named_file_is_read() {
        let mut fake = with(&[("etc/a", 0x20, b"no"), ("opt/x", 0x21, b"yes")]);
        assert_eq!(read(&mut fake, "opt/x", 3), Ok(b"yes".to_vec()));
        assert_eq!(read(&mut fake, "opt/x", 2), Err(Missing::TooLong(3)));
        assert_eq!(read(&mut fake, "opt", 3), Err(Missing::File));
        assert_eq!(read(&mut Fake::default(), "opt/x", 3), Err(Missing::Device));
    }

    #[test]
    fn a_list_without_end_is_not_followed() {
        let mut fake = with(&[]);
        fake.items.insert(DIRECTORY, vec![0xff; 4]);
        assert_eq!(read(&mut fake, "opt/x", 3), Err(Missing::File));
    }
}
