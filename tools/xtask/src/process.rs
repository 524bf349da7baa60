//! Child processes: run one to its end and keep what it said, or keep one alive
//! while others watch it. Every long-lived child is known to [`end_all`], so that
//! Ctrl-C, SIGTERM and a timeout take it along.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

static CHILDREN: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());
static SCRATCH: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a waiting thread looks after its child.
const POLL: Duration = Duration::from_millis(10);

/// Ends all guarded children on Ctrl-C, SIGTERM and SIGHUP, then the program.
pub fn install_handler() -> Result<()> {
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::SeqCst);
        end_all();
        let scratch = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
        for dir in scratch.iter() {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(dir);
        }
        eprintln!("\nxtask: interrupted");
        std::process::exit(130);
    })
    .context("cannot install the Ctrl-C handler")
}

fn end_all() {
    let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    for child in children.iter() {
        let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
        // Already gone is as good as killed.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A temporary folder that goes with its owner, and on Ctrl-C.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new one.
    pub fn new() -> Result<Scratch> {
        let mut known = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
        if INTERRUPTED.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        let dir = tempfile::Builder::new()
            .prefix("undercroft")
            .tempdir()
            .context("cannot create a temporary folder")?;
        known.push(dir.path().to_owned());
        Ok(Scratch(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut known = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|dir| dir != self.0.path());
    }
}

/// A child that is killed when it is dropped, interrupted or told to end.
pub struct Guarded(Arc<Mutex<Child>>);

impl Guarded {
    /// Starts `command` and registers it.
    pub fn spawn(command: &mut Command) -> Result<Guarded> {
        let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        if INTERRUPTED.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let child = Arc::new(Mutex::new(child));
        children.push(child.clone());
        Ok(Guarded(child))
    }

    /// Access to the pipes, before any thread waits.
    pub fn with<T>(&self, f: impl FnOnce(&mut Child) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The status if the child has ended.
    pub fn poll(&self) -> Result<Option<ExitStatus>> {
        self.with(Child::try_wait)
            .context("cannot wait for a child process")
    }

    /// The status, once the child has ended. Others can end it meanwhile.
    fn wait(&self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Kills the child and collects it.
    pub fn end(&self) {
        self.with(|child| {
            let _ = child.kill();
            let _ = child.wait();
        });
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
        let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

/// Runs `command` to its end with no input; returns its standard output, or an
/// error that ends with the last lines it wrote to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let raw = output_bytes(command)?;
    Ok(String::from_utf8_lossy(&raw).into_owned())
}

/// As [`output`], for output that is not text.
pub fn output_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = Guarded::spawn(command)?;
    let (out, complaint) = child.with(|child| (child.stdout.take(), child.stderr.take()));
    // Both at the same time, so that neither pipe is ever full.
    let complaint = std::thread::spawn(move || all_of(complaint));
    let out = all_of(out);
    let complaint = complaint.join().unwrap_or_default();
    let status = child.wait()?;
    if !status.success() {
        let said = [complaint.as_slice(), out.as_slice()]
            .into_iter()
            .map(|raw| String::from_utf8_lossy(raw).trim().to_owned())
            .find(|text| !text.is_empty())
            .unwrap_or_default();
        bail!("{program} failed ({status}): {}", last_lines(&said, 6));
    }
    Ok(out)
}

/// What comes out of a pipe; what came before it broke, if it did.
fn all_of(pipe: Option<impl Read>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut all);
    }
    all
}

/// Runs `command` with its output shown to the user; fails if it fails.
pub fn shown(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    ended(&Guarded::spawn(command.stdin(Stdio::null()))?, &program)
}

/// Waits for `child`; an error if it fails.
fn ended(child: &Guarded, program: &str) -> Result<()> {
    let status = child.wait()?;
    if !status.success() {
        bail!("{program} failed ({status})");
    }
    Ok(())
}

/// As [`shown`]; every line of standard output also goes to `line`.
pub fn shown_by_line(command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let out = child.with(|child| child.stdout.take());
    for text in out
        .into_iter()
        .flat_map(|out| BufReader::new(out).split(b'\n'))
    {
        let text = text.with_context(|| format!("cannot read the output of {program}"))?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        line(&text);
    }
    ended(&child, &program)
}

/// Processor time of a process that runs, where Linux tells it.
pub fn cpu_seconds(id: u32) -> Option<f64> {
    let [user, system, ..] = ticks(&id.to_string())?;
    Some((user + system) as f64 / TICKS)
}

/// Processor time of all children of this program that have ended, and of theirs; 0 where
/// Linux does not tell it.
pub fn cpu_seconds_of_children() -> f64 {
    ticks("self").map_or(0.0, |[.., user, system]| (user + system) as f64 / TICKS)
}

/// Clock ticks, 100 a second on every x86 Linux.
const TICKS: f64 = 100.0;

/// Fields 14 to 17 of a process's line.
fn ticks(process: &str) -> Option<[u64; 4]> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, field 2, stands in parentheses and may hold spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some([next()?, next()?, next()?, next()?])
}

/// The last `n` lines of `text`.
pub fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// Finds `program` on PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_says_why() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn processor_time_is_told_of_what_runs() {
        assert!(cpu_seconds(std::process::id()).is_some());
        assert_eq!(cpu_seconds(u32::MAX), None);
    }

    #[test]
    fn a_guarded_child_dies_with_its_guard() {
        let child = Guarded::spawn(Command::new("sleep").arg("60")).unwrap();
        assert!(child.poll().unwrap().is_none());
        child.end();
        assert!(child.poll().unwrap().is_some());
    }
}
