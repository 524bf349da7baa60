//! A writer for the "newc" cpio format, which Linux unpacks as its first root
//! file system (Documentation/driver-api/early-userspace/buffer-format.rst).
//! Same entries in the same order give the same bytes: no times, no owners, inode
//! numbers count from 1.

/// The archive so far.
pub struct Cpio {
    out: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHAR_DEVICE: u32 = 0o020_000;
const ALIGN: usize = 4;
/// Linux reads the initrd in pages; padding to one keeps the image page-exact.
const BLOCK: usize = 4096;

impl Cpio {
    /// An empty archive.
    pub fn new() -> Cpio {
        Cpio {
            out: Vec::new(),
            inode: 0,
        }
    }

    /// A directory. Parents must come first.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// A regular file; `executable` sets mode 755, else 644.
    pub fn file(&mut self, name: &str, executable: bool, data: &[u8]) {
        let mode = if executable { 0o755 } else { 0o644 };
        self.entry(name, FILE | mode, (0, 0), data);
    }

    /// A symbolic link at `name` that points to `to`.
    pub fn symlink(&mut self, name: &str, to: &str) {
        self.entry(name, SYMLINK | 0o777, (0, 0), to.as_bytes());
    }

    /// A character device.
    pub fn char_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHAR_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Ends the archive and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = u32::MAX; // wraps to 0 for the trailer
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.pad(BLOCK);
        self.out
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.inode = self.inode.wrapping_add(1);
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let fields: [u32; 13] = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            u32::try_from(data.len()).expect("an initrd file is below 4 GiB"),
            0, // device of the archive, major
            0, // and minor
            device.0,
            device.1,
            u32::try_from(name.len() + 1).expect("a name is short"),
            0, // checksum, unused in newc
        ];
        self.out.extend_from_slice(b"070701");
        for field in fields {
            self.out
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        self.pad(ALIGN);
        self.out.extend_from_slice(data);
        self.pad(ALIGN);
    }

    fn pad(&mut self, to: usize) {
        self.out.resize(self.out.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut cpio = Cpio::new();
        cpio.directory("bin");
        cpio.file("bin/a", true, b"hello");
        cpio.symlink("bin/b", "a");
        cpio.char_device("console", 5, 1);
        cpio.finish()
    }

    #[test]
    fn same_entries_give_the_same_bytes() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % BLOCK, 0);
    }

    #[test]
    fn headers_are_where_newc_wants_them() {
        let raw = sample();
        assert_eq!(&raw[..6], b"070701");
        assert_eq!(&raw[110..114], b"bin\0");
        // 110 + 4 = 114, padded to 116: the next header.
        assert_eq!(&raw[116..122], b"070701");
        assert_eq!(&raw[116 + 110..116 + 116], b"bin/a\0");
        assert_eq!(&raw[232..237], b"hello");
    }

    /// An independent reader agrees, if the machine has one.
    #[test]
    fn busybox_or_cpio_lists_the_same_names() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let Ok(mut child) = Command::new("cpio")
            .args(["-t", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            return;
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            "bin\nbin/a\nbin/b\nconsole\n"
        );
    }
}
