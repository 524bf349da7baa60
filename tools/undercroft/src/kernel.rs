//! A Linux kernel as a bzImage: checked for the 64-bit entry, split into the
//! protected-mode part and the zero page.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst`, sections "The Real-Mode
//! Kernel Header" and "64-bit Boot Protocol".

use crate::{Error, Input};
use abi::linux_boot::{
    BOOT_FLAG, BootParams, ENTRY_64_OFFSET, HEADER_MAGIC, LOADER_UNDEFINED, LOADFLAG_LOADED_HIGH,
    PROTOCOL_XLOADFLAGS, SECTOR, SETUP_HEADER_OFFSET, SETUP_SECTS_DEFAULT, SetupHeader,
    XLF_KERNEL_64,
};
use loader::layout::{self, Range};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A kernel that can be started at its 64-bit entry.
#[derive(Debug)]
pub struct Kernel<'a> {
    /// The setup header, bytes beyond its own end zeroed.
    pub header: SetupHeader,
    /// The protected-mode part, to be placed at [`layout::KERNEL_LOAD`].
    pub code: &'a [u8],
}

impl<'a> Kernel<'a> {
    /// Checks a bzImage.
    pub fn parse(input: &'a Input) -> Result<Kernel<'a>, Error> {
        let problem = |problem: String| Error::Kernel {
            name: input.name.clone(),
            problem,
        };
        let file = input.bytes.as_slice();
        let header = read_header(file).map_err(problem)?;
        let sects = match header.setup_sects {
            0 => SETUP_SECTS_DEFAULT,
            n => n,
        };
        let start = (usize::from(sects) + 1) * SECTOR;
        let size = header.syssize.get() as usize * 16;
        let code = file
            .get(start..)
            .and_then(|rest| rest.get(..size))
            .ok_or_else(|| {
                problem(format!(
                    "truncated: the header promises {} bytes, the file has {}; copy it again",
                    start + size,
                    file.len()
                ))
            })?;
        if code.len() as u64 <= ENTRY_64_OFFSET {
            return Err(problem(
                "its protected-mode part ends before the 64-bit entry; is it a real kernel?".into(),
            ));
        }
        let kernel = Kernel { header, code };
        kernel.check_placement().map_err(problem)?;
        Ok(kernel)
    }

    /// The linear memory that the kernel uses from its load address until it has
    /// read the memory map.
    pub fn init_size(&self) -> u64 {
        u64::from(self.header.init_size.get()).max(self.code.len() as u64)
    }

    fn check_placement(&self) -> Result<(), String> {
        // A relocatable kernel moves up to its preferred address and counts from there.
        let start = self.header.pref_address.get().max(layout::KERNEL_LOAD);
        let room = layout::KERNEL.end.saturating_sub(start);
        if self.init_size() > room {
            return Err(format!(
                "it needs {} MiB from {start:#x} on (init_size {:#x}), the layout leaves {} MiB; use a smaller kernel",
                self.init_size().div_ceil(1 << 20),
                self.header.init_size.get(),
                room >> 20
            ));
        }
        let relocatable = self.header.relocatable_kernel != 0;
        let preferred = self.header.pref_address.get();
        if !relocatable && preferred != layout::KERNEL_LOAD {
            return Err(format!(
                "not relocatable and made for address {preferred:#x}, we load at {:#x}; build it with CONFIG_RELOCATABLE=y",
                layout::KERNEL_LOAD
            ));
        }
        let alignment = u64::from(self.header.kernel_alignment.get());
        if alignment > 1 && !layout::KERNEL_LOAD.is_multiple_of(alignment) {
            return Err(format!(
                "it asks for an alignment of {alignment:#x}, our load address {:#x} has less",
                layout::KERNEL_LOAD
            ));
        }
        Ok(())
    }

    /// The zero page: the kernel's own header and what we know when the image is
    /// built. Memory map and ACPI address follow at run time.
    pub fn boot_params(&self, initrd: Option<Range>) -> BootParams {
        let mut params = BootParams::new_zeroed();
        params.hdr = self.header;
        params.hdr.type_of_loader = LOADER_UNDEFINED;
        params.hdr.code32_start.set(layout::KERNEL_LOAD as u32);
        params.hdr.cmd_line_ptr.set(layout::CMDLINE.start as u32);
        // Both fit: the layout ends below 2 GiB.
        if let Some(initrd) = initrd {
            params.hdr.ramdisk_image.set(initrd.start as u32);
            params.hdr.ramdisk_size.set(initrd.len() as u32);
        } else {
            params.hdr.ramdisk_image.set(0);
            params.hdr.ramdisk_size.set(0);
        }
        params.hdr.setup_data.set(0);
        params
    }
}

/// Reads and judges the setup header.
fn read_header(file: &[u8]) -> Result<SetupHeader, String> {
    const NOT_A_KERNEL: &str = "not a Linux bzImage (no \"HdrS\" at 0x202 and 0xAA55 at 0x1fe); give the bzImage that distributions install as /boot/vmlinuz-*, not an ELF vmlinux or a compressed file";
    let raw = file.get(SETUP_HEADER_OFFSET..).unwrap_or_default();
    let Some(raw) = raw.get(..size_of::<SetupHeader>()) else {
        return Err(NOT_A_KERNEL.into());
    };
    let mut raw = raw.to_vec();
    let (header, _) = SetupHeader::read_from_prefix(&raw).map_err(|e| e.to_string())?;
    if header.boot_flag.get() != BOOT_FLAG || header.header.get() != HEADER_MAGIC {
        return Err(NOT_A_KERNEL.into());
    }
    let version = header.version.get();
    if version < PROTOCOL_XLOADFLAGS {
        return Err(format!(
            "boot protocol {}.{}, at least 2.12 (Linux 3.8) is needed; use a newer kernel",
            version >> 8,
            version & 0xff
        ));
    }
    if header.xloadflags.get() & XLF_KERNEL_64 == 0 {
        return Err(
            "no 64-bit entry (xloadflags bit 0 is clear); use a kernel for x86-64".to_string(),
        );
    }
    if header.loadflags & LOADFLAG_LOADED_HIGH == 0 {
        return Err("a zImage that must be loaded low; use a bzImage".into());
    }
    // The header ends where the jump at 0x200 leads; what follows is code.
    let end = 0x202 + usize::from(file.get(0x201).copied().unwrap_or(0)) - SETUP_HEADER_OFFSET;
    if let Some(code) = raw.get_mut(end..) {
        code.fill(0);
    }
    SetupHeader::read_from_bytes(&raw).map_err(|e| e.to_string())
}

/// One page with the command line and its NUL.
pub fn command_line_page(kernel: &Kernel<'_>, text: &str) -> Result<Vec<u8>, Error> {
    let page = layout::CMDLINE.len() as usize;
    let longest = match kernel.header.cmdline_size.get() as usize {
        0 => 255,
        n => n.min(page - 1),
    };
    if text.len() > longest {
        return Err(Error::CommandLine(format!(
            "{} bytes, this kernel takes at most {longest}; shorten it",
            text.len()
        )));
    }
    if let Some(at) = text.bytes().position(|b| b == 0) {
        return Err(Error::CommandLine(format!(
            "a NUL byte at position {at}; remove it"
        )));
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(page, 0);
    Ok(bytes)
}

/// Checks an initrd; returns where it goes.
pub fn place_initrd(kernel: &Kernel<'_>, initrd: &Input) -> Result<Range, Error> {
    let problem = |problem: String| {
        Err(Error::Initrd {
            name: initrd.name.clone(),
            problem,
        })
    };
    let size = initrd.bytes.len() as u64;
    if size == 0 {
        return problem("the file is empty; leave --initrd out to start without one".into());
    }
    let last = layout::MEMORY_MAX - layout::MEMORY_ABOVE_INITRD;
    // Older headers leave the field at zero: 0x37ffffff is then the limit.
    let kernel_max = match kernel.header.initrd_addr_max.get() {
        0 => 0x37ff_ffff,
        n => u64::from(n),
    };
    let limit = last.min(kernel_max.saturating_add(1)) - layout::INITRD_LOAD;
    if size > limit {
        return problem(format!(
            "{} MiB, there is room for {} MiB at most; make it smaller",
            size.div_ceil(1 << 20),
            limit >> 20
        ));
    }
    Ok(Range {
        start: layout::INITRD_LOAD,
        end: layout::INITRD_LOAD + size,
    })
}

/// The least guest RAM with which `initrd` fits and can be unpacked.
pub fn memory_min(initrd: Option<Range>) -> u64 {
    initrd.map_or(layout::MEMORY_MIN, |initrd| {
        (initrd.end + layout::MEMORY_ABOVE_INITRD)
            .next_multiple_of(layout::MEMORY_ALIGN)
            .max(layout::MEMORY_MIN)
    })
}

/// The zero page as bytes.
pub fn boot_params_page(params: &BootParams) -> Vec<u8> {
    params.as_bytes().to_vec()
}
