//! One QEMU run: started, watched, ended in time. COM1 is QEMU's standard output,
//! COM2 (the record channel) a unix socket that we listen on.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::guest::marks::Marks;
use crate::nic::Nic;
use crate::process::{Guarded, Scratch, last_lines};
use crate::records::Records;

/// Longest line that is kept of what a guest writes without a newline.
const LONGEST_LINE: usize = 4096;
/// Bytes of console kept for error messages.
const KEPT_CONSOLE: usize = 256 << 10;
const TICK: Duration = Duration::from_millis(20);
/// What pipes may take to run dry after QEMU has ended.
const DRAIN: Duration = Duration::from_secs(2);

/// What QEMU is to boot.
pub struct Boot {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// QEMU's `-kernel`: the rig or, in a plain boot, the guest's kernel.
    pub kernel: PathBuf,
    /// QEMU's `-initrd`: the image or the guest's initrd, if it has one.
    pub initrd: Option<PathBuf>,
    /// QEMU's `-append`.
    pub append: String,
    /// Memory of the QEMU machine in MiB.
    pub memory: u32,
    /// Where the rig's trace goes.
    pub trace: Option<PathBuf>,
    /// Whether COM2 carries records and port 0xf4 ends the run.
    pub rig: bool,
    /// When to give up.
    pub timeout: Duration,
    /// Whether the console is shown as it comes.
    pub show: bool,
    /// What only some runs have.
    pub extras: Extras,
}

/// Called with the name of each mark as it comes.
pub type OnMark = Box<dyn Fn(&str)>;

/// Called with each line of a guest under load.
pub type OnSoak = Box<dyn Fn(&str)>;

/// What only some runs have.
#[derive(Default)]
pub struct Extras {
    /// Files that QEMU hands over (`-fw_cfg`): name and path.
    pub files: Vec<(&'static str, PathBuf)>,
    /// The boot file that DHCP names: a word for the guest that no image measures.
    pub boot_file: Option<String>,
    /// Processors that run guests; 0 is the usual one.
    pub cpus: u32,
    /// QEMU's card; the rig drives virtio's.
    pub nic: Nic,
    /// Who wants to hear of marks at once.
    pub on_mark: Option<OnMark>,
    /// Who wants to hear of a guest under load at once.
    pub on_soak: Option<OnSoak>,
}

/// What came out.
pub struct Ran {
    /// QEMU's exit status; `None` if we killed it or a signal did.
    pub status: Option<i32>,
    /// Whether the time was up.
    pub timed_out: bool,
    /// Seconds from the start of QEMU to its end.
    pub seconds: f64,
    /// The guest's story.
    pub marks: Marks,
    /// What rig and paravisor recorded.
    pub records: Records,
    /// The console's last part.
    pub console: String,
    /// What QEMU itself complained about.
    pub complaint: String,
}

enum Event {
    Console(Instant, Vec<u8>),
    Record(Instant, Vec<u8>),
    Complaint(Vec<u8>),
}

/// Boots and waits for the end.
pub fn boot(boot: &Boot) -> Result<Ran> {
    let dir = Scratch::new()?;
    let socket = dir.path().join("records");
    let listener = UnixListener::bind(&socket).context("cannot open the record socket")?;

    let mut command = Command::new(&boot.qemu);
    command
        .args(arguments(boot, &socket))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let child = Guarded::spawn(&mut command)?;

    let (sender, receiver) = channel();
    let (out, err) = child.with(|child| (child.stdout.take(), child.stderr.take()));
    pump(out, sender.clone(), |bytes| {
        Event::Console(Instant::now(), bytes)
    });
    pump(err, sender.clone(), Event::Complaint);
    // QEMU connects while it starts. If it never does, accept() stays behind until
    // the socket goes with its folder; it holds nothing but a thread.
    std::thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            read_all(stream, &sender, |bytes| {
                Event::Record(Instant::now(), bytes)
            });
        }
    });

    let mut watch = Watch::new(started, boot.show, &boot.extras);
    let mut timed_out = false;
    let mut status = None;
    loop {
        watch.take(&receiver, TICK);
        if let Some(end) = child.poll()? {
            status = end.code();
            break;
        }
        if started.elapsed() > boot.timeout {
            timed_out = true;
            child.end();
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    // Wakes the accept() above if QEMU died before it connected.
    drop(UnixStream::connect(&socket));
    let drained = Instant::now();
    while drained.elapsed() < DRAIN && watch.take(&receiver, TICK) {}
    Ok(watch.finish(status, timed_out, seconds))
}

fn arguments(boot: &Boot, socket: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    add(&["-M", "q35", "-cpu", "EPYC,phys-bits=48"]);
    // Several processors run at the same time or not at all as they would on hardware.
    // The rig leaves the first of several alone (its module `cpu` says why).
    let cpus = match boot.extras.cpus.max(1) {
        several @ 2.. if boot.rig => several + 1,
        cpus => cpus,
    };
    let accel = if cpus > 1 { "tcg,thread=multi" } else { "tcg" };
    let cpus = cpus.to_string();
    add(&["-accel", accel]);
    add(&["-m", &format!("{}M", boot.memory), "-smp", &cpus]);
    add(&["-nodefaults", "-display", "none", "-no-reboot"]);
    let boot_file = boot.extras.boot_file.iter();
    let boot_file: String = boot_file.map(|name| format!(",bootfile={name}")).collect();
    add(&["-netdev", &format!("user,id=n0{boot_file}")]);
    let card = boot.extras.nic.device();
    add(&["-device", &format!("{card},netdev=n0,romfile=")]);
    add(&[
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    add(&[
        "-chardev",
        &format!("socket,id=records,path={}", socket.display()),
    ]);
    add(&["-serial", "chardev:records"]);
    // A comma in an option's value is written twice.
    let quoted = |file: &Path| file.display().to_string().replace(',', ",,");
    for (name, file) in &boot.extras.files {
        add(&["-fw_cfg", &format!("name={name},file={}", quoted(file))]);
    }
    if let Some(file) = &boot.trace {
        add(&[
            "-chardev",
            &format!("file,id=trace,path={}", quoted(file)),
            "-device",
            "virtio-serial-pci,disable-legacy=on",
            "-device",
            "virtconsole,chardev=trace",
        ]);
    }
    if boot.rig {
        add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    }
    add(&["-append", &boot.append]);
    args.extend(["-kernel".into(), boot.kernel.clone().into_os_string()]);
    if let Some(initrd) = &boot.initrd {
        args.extend(["-initrd".into(), initrd.clone().into_os_string()]);
    }
    args
}

fn pump<R: Read + Send + 'static>(
    from: Option<R>,
    to: Sender<Event>,
    event: impl Fn(Vec<u8>) -> Event + Send + 'static,
) {
    if let Some(from) = from {
        std::thread::spawn(move || read_all(from, &to, event));
    }
}

fn read_all(mut from: impl Read, to: &Sender<Event>, event: impl Fn(Vec<u8>) -> Event) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 || to.send(event(buffer[..n].to_vec())).is_err() {
            return;
        }
    }
}

/// Bytes cut into lines.
#[derive(Default)]
struct Lines {
    part: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            match byte {
                b'\n' => {
                    line(String::from_utf8_lossy(&self.part).trim_end_matches('\r'));
                    self.part.clear();
                }
                other if self.part.len() < LONGEST_LINE => self.part.push(*other),
                _ => {}
            }
        }
    }
}

struct Watch<'a> {
    on_mark: Option<&'a OnMark>,
    on_soak: Option<&'a OnSoak>,
    started: Instant,
    show: bool,
    console_lines: Lines,
    record_lines: Lines,
    ran: Ran,
}

impl<'a> Watch<'a> {
    fn new(started: Instant, show: bool, extras: &'a Extras) -> Watch<'a> {
        let ran = Ran {
            status: None,
            timed_out: false,
            seconds: 0.0,
            marks: Marks::default(),
            records: Records::default(),
            console: String::new(),
            complaint: String::new(),
        };
        Watch {
            on_mark: extras.on_mark.as_ref(),
            on_soak: extras.on_soak.as_ref(),
            started,
            show,
            console_lines: Lines::default(),
            record_lines: Lines::default(),
            ran,
        }
    }

    /// Takes what has come; waits up to `wait` for the first. False if nobody will
    /// send any more.
    fn take(&mut self, receiver: &Receiver<Event>, wait: Duration) -> bool {
        let mut event = match receiver.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        loop {
            self.event(&event);
            match receiver.try_recv() {
                Ok(next) => event = next,
                Err(_) => return true,
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let since = |at: &Instant| at.duration_since(self.started).as_secs_f64();
        match event {
            Event::Console(at, bytes) => {
                if self.show {
                    // Raw, so that half a line is seen too. A closed pipe is no reason to stop.
                    let mut out = std::io::stdout().lock();
                    let _ = out.write_all(bytes).and_then(|()| out.flush());
                }
                let (seconds, ran) = (since(at), &mut self.ran);
                if ran.console.len() < KEPT_CONSOLE {
                    ran.console.push_str(&String::from_utf8_lossy(bytes));
                }
                let on_soak = self.on_soak;
                self.console_lines.push(bytes, |line| {
                    let told = ran.marks.soak.len();
                    ran.marks.line(line, seconds);
                    for (_, line) in ran.marks.soak.iter().skip(told) {
                        if let Some(tell) = on_soak {
                            tell(line);
                        }
                    }
                });
            }
            Event::Record(at, bytes) => {
                let (seconds, ran) = (since(at), &mut self.ran);
                let (show, on_mark) = (self.show, self.on_mark);
                self.record_lines.push(bytes, |line| {
                    let marks = ran.records.marks.len();
                    let text = ran.records.line(line, seconds);
                    if ran.records.marks.len() > marks
                        && let (Some(tell), Some(name)) = (on_mark, &ran.records.last_mark)
                    {
                        tell(name);
                    }
                    if let Some(text) = text
                        && show
                    {
                        eprintln!("  {text}");
                    }
                });
            }
            Event::Complaint(bytes) => {
                self.ran.complaint.push_str(&String::from_utf8_lossy(bytes));
            }
        }
    }

    fn finish(mut self, status: Option<i32>, timed_out: bool, seconds: f64) -> Ran {
        // What TCG lacks of an EPYC is known and no complaint.
        self.ran.complaint = self
            .ran
            .complaint
            .lines()
            .filter(|line| !line.contains("TCG doesn't support requested feature"))
            .collect::<Vec<_>>()
            .join("\n");
        self.ran.status = status;
        self.ran.timed_out = timed_out;
        self.ran.seconds = seconds;
        self.ran
    }
}

impl Ran {
    /// The console's last lines, for an error message.
    pub fn tail(&self) -> String {
        last_lines(self.console.trim_end(), 12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_across_reads_and_bounded() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        lines.push(b"one\r\ntw", |l| seen.push(l.to_owned()));
        lines.push(b"o\n", |l| seen.push(l.to_owned()));
        lines.push(&vec![b'x'; 3 * LONGEST_LINE], |l| seen.push(l.to_owned()));
        lines.push(b"\n", |l| seen.push(l.to_owned()));
        assert_eq!(seen[..2], ["one", "two"]);
        assert_eq!(seen[2].len(), LONGEST_LINE);
    }
}
