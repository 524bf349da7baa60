//! The same kernel and initrd in plain QEMU: its own firmware, its own NIC,
//! no rig and no paravisor. Proves the guest's side and is the yardstick.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guest::{self, Errand};
use crate::http::Server;
use crate::machine::{self, Boot, Extras, Ran};
use crate::nic::Nic;
use crate::process::Scratch;
use crate::setup::{self, KernelVersion};

/// What every guest of ours is told; the user's own words come after and win.
pub const APPEND: &str = "console=ttyS0 quiet panic=-1";

/// A guest that is ready to boot: kernel and initrd as files, and the server that
/// it talks to.
pub struct TestGuest {
    /// The bzImage.
    pub kernel: PathBuf,
    /// The initrd; `None` boots without one.
    pub initrd: Option<PathBuf>,
    /// The whole command line.
    pub append: String,
    /// What to call the kernel in a report.
    pub name: String,
    /// The web server, if the default initrd is used.
    pub server: Option<Server>,
    nic: Nic,
    dir: Scratch,
}

/// The user's own parts of a guest.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// `--kernel`
    pub kernel: Option<PathBuf>,
    /// `--initrd`
    pub initrd: Option<PathBuf>,
    /// `--append`
    pub append: Option<String>,
}

impl TestGuest {
    /// Puts together a guest: Debian's kernel `version` and our initrd, unless the
    /// user has brought something else.
    pub fn new(version: KernelVersion, own: &Own, errand: Errand, nic: Nic) -> Result<TestGuest> {
        let dir = Scratch::new()?;
        for file in [&own.kernel, &own.initrd].into_iter().flatten() {
            if !file.is_file() {
                bail!("there is no file {}", file.display());
            }
        }
        let mut append = APPEND.to_owned();
        let mut server = None;
        let (kernel, name, initrd) = match (&own.kernel, &own.initrd) {
            (Some(kernel), initrd) => {
                (kernel.clone(), kernel.display().to_string(), initrd.clone())
            }
            (None, own_initrd) => {
                let guest = setup::guest(version, nic.flavour())?;
                let initrd = match own_initrd {
                    Some(initrd) => initrd.clone(),
                    None => {
                        let path = dir.path().join("initrd");
                        let initrd = guest::initrd(&guest.kernel, &guest.busybox, errand, nic)?;
                        std::fs::write(&path, initrd).context("cannot write the initrd")?;
                        let http = Server::start()?;
                        append = format!("{append} {}", http.append(errand));
                        server = Some(http);
                        path
                    }
                };
                let name = format!("{} (Debian {})", guest.kernel.release, guest.kernel.version);
                (guest.kernel.image, name, Some(initrd))
            }
        };
        if let Some(own) = &own.append {
            append = format!("{append} {own}");
        }
        Ok(TestGuest {
            kernel,
            initrd,
            append,
            name,
            server,
            nic,
            dir,
        })
    }

    /// The network card that it is made for.
    pub fn nic(&self) -> Nic {
        self.nic
    }

    /// A folder that lives as long as the guest.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Boots it in plain QEMU.
    pub fn boot_plain(&self, memory: u32, timeout: Duration, show: bool) -> Result<Ran> {
        machine::boot(&Boot {
            qemu: setup::qemu()?,
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            append: self.append.clone(),
            memory,
            trace: None,
            rig: false,
            timeout,
            show,
            extras: Extras {
                nic: self.nic,
                ..Extras::default()
            },
        })
    }
}
