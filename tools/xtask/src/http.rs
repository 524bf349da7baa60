//! The web server which the test guest talks to: gives out one file, takes one
//! back. Bound to the loopback only; QEMU's user networking brings the guest here
//! as 10.0.2.2. One thread a connection, every read with a limit.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::guest::Errand;
use crate::soak::blocks::{Blocks, Pace, STEP};

/// Size of the file, both ways.
pub const FILE_SIZE: usize = 8 << 20;
/// Size of a piece, which a guest fetches again and again.
const PIECE_SIZE: usize = 16 << 10;
/// Pieces that a guest must have fetched after the end of a scenario before the next
/// one is the last.
const FETCHES_AFTER: u32 = 1;
/// Port that is tried first: the guest's command line is part of the measured
/// image, so a port that stays the same gives a digest that stays the same.
const PREFERRED_PORT: u16 = 28080;
const LONGEST_HEADER: u64 = 16 << 10;
const IO_TIMEOUT: Duration = Duration::from_secs(60);

/// What the server saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Served {
    /// Times the whole file was written out.
    pub downloads: u32,
    /// Uploads whose content was right.
    pub uploads_ok: u32,
    /// Uploads that were short or wrong.
    pub uploads_bad: u32,
    /// Blocks of a guest under load, by number: `None` if right, else what was wrong.
    #[serde(skip)]
    pub blocks_up: BTreeMap<u32, Option<String>>,
    /// How they went: to the guest, and from it.
    #[serde(skip)]
    pub pace: [Pace; 2],
}

/// What the server knows of a guest that fetches until a scenario is over.
#[derive(Debug, Default)]
pub struct Fetches {
    over: AtomicBool,
    after: AtomicU32,
    whole: AtomicU32,
}

impl Fetches {
    /// The scenario is over: what is fetched from now on counts.
    pub fn scenario_over(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Pieces that were written out whole.
    pub fn whole(&self) -> u32 {
        self.whole.load(Ordering::SeqCst)
    }

    /// Gives out a piece; behind it stands whether the guest has shown enough.
    fn answer(&self, stream: &mut TcpStream, piece: &[u8]) -> std::io::Result<()> {
        let over = self.over.load(Ordering::SeqCst);
        let enough = self.after.load(Ordering::SeqCst) >= FETCHES_AFTER;
        let word: &[u8] = if enough { b"enough" } else { b"more" };
        respond(stream, "200 OK", &[piece, word].concat())?;
        self.whole.fetch_add(1, Ordering::SeqCst);
        self.after.fetch_add(u32::from(over), Ordering::SeqCst);
        Ok(())
    }
}

type Guests = Arc<Mutex<BTreeMap<String, Arc<Fetches>>>>;

/// A running server; it lives as long as the program.
pub struct Server {
    port: u16,
    file: Arc<Vec<u8>>,
    sum: String,
    piece_sum: String,
    served: Arc<Mutex<Served>>,
    guests: Guests,
}

impl Server {
    /// Binds and starts to serve.
    pub fn start() -> Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PREFERRED_PORT))
            .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("cannot open a port on 127.0.0.1 for the test web server")?;
        let port = listener
            .local_addr()
            .context("the web server has no address")?
            .port();
        let file = Arc::new(content());
        let sum = hex(&Sha256::digest(file.as_slice()));
        let expected = hex(&Sha256::digest(upload_of(&file)));
        let served = Arc::new(Mutex::new(Served::default()));
        let shared = served.clone();
        let piece_sum = hex(&Sha256::digest(&file[..PIECE_SIZE]));
        let guests = Guests::default();
        let known = guests.clone();
        let given = file.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (file, shared, expected) = (given.clone(), shared.clone(), expected.clone());
                let known = known.clone();
                std::thread::spawn(move || {
                    // A client that goes away is the client's business.
                    let _ = answer(stream, &file, &expected, &shared, &known);
                });
            }
        });
        Ok(Server {
            port,
            file,
            sum,
            piece_sum,
            served,
            guests,
        })
    }

    /// What the guest's command line must say.
    pub fn append(&self, errand: Errand) -> String {
        let (file, sum) = match errand {
            Errand::Transfer | Errand::Enlightened => ("/file", &self.sum),
            Errand::Scenario => ("", &self.piece_sum),
        };
        format!("uc.url=http://10.0.2.2:{}{file} uc.sha={sum}", self.port)
    }

    /// A guest that will fetch `/NAME/piece`.
    pub fn expect(&self, name: &str) -> Arc<Fetches> {
        let fetches = Arc::new(Fetches::default());
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.insert(name.to_owned(), fetches.clone());
        fetches
    }

    /// SHA-256 of each turn of the block of a guest under load.
    pub fn block_sums(&self) -> Vec<String> {
        Blocks::of(&self.file).sums()
    }

    /// What was served so far; resets the counts.
    pub fn take(&self) -> Served {
        std::mem::take(&mut *self.served.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn answer(
    mut stream: TcpStream,
    file: &[u8],
    expected: &str,
    served: &Mutex<Served>,
    guests: &Guests,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = reader.by_ref().take(LONGEST_HEADER);
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut length = 0u64;
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 || line == "\r\n" || line == "\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut words = request.split_whitespace();
    let count = |f: &dyn Fn(&mut Served)| {
        f(&mut served.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let (method, path) = (words.next(), words.next());
    let guest = path
        .and_then(|path| path.strip_prefix('/')?.strip_suffix("/piece"))
        .and_then(|name| {
            let guests = guests.lock().unwrap_or_else(PoisonError::into_inner);
            guests.get(name).cloned()
        });
    match (method, path) {
        (Some("GET"), _) if guest.is_some() => {
            let piece = file.get(..PIECE_SIZE).unwrap_or(file);
            if let Some(guest) = guest {
                guest.answer(&mut stream, piece)?;
            }
        }
        (Some("GET"), Some("/file")) => {
            respond(&mut stream, "200 OK", file)?;
            count(&|s| s.downloads += 1);
        }
        (Some("GET"), Some(path)) if Blocks::number(path, "/down/").is_some() => {
            let number = Blocks::number(path, "/down/").unwrap_or_default();
            let [first, second] = Blocks::of(file).turned(number);
            head_of(&mut stream, "200 OK", first.len() + second.len())?;
            for step in [first, second].into_iter().flat_map(|p| p.chunks(STEP)) {
                stream.write_all(step)?;
                count(&|s| s.pace[0].step());
            }
        }
        (Some("POST"), Some(path)) if Blocks::number(path, "/up/").is_some() => {
            let number = Blocks::number(path, "/up/").unwrap_or_default();
            let wrong = Blocks::of(file).compare(number, length, &mut reader, || {
                count(&|s| s.pace[1].step());
            })?;
            let good = wrong.is_none();
            let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
            served.blocks_up.insert(number, wrong);
            drop(served);
            respond(&mut stream, "200 OK", if good { b"ok\n" } else { b"bad\n" })?;
        }
        (Some("POST"), Some("/upload")) => {
            let good = length == FILE_SIZE as u64 && sum_of(&mut reader, length)? == expected;
            count(&|s| {
                if good {
                    s.uploads_ok += 1
                } else {
                    s.uploads_bad += 1
                }
            });
            respond(&mut stream, "200 OK", if good { b"ok\n" } else { b"bad\n" })?;
        }
        _ => respond(&mut stream, "404 Not Found", b"no such thing\n")?,
    }
    stream.flush()
}

fn respond(stream: &mut TcpStream, status: &str, body: &[u8]) -> std::io::Result<()> {
    head_of(stream, status, body.len())?;
    stream.write_all(body)
}

fn head_of(stream: &mut TcpStream, status: &str, length: usize) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
    )
}

fn sum_of(reader: &mut impl Read, length: u64) -> std::io::Result<String> {
    let mut sum = Sha256::new();
    let mut left = reader.take(length);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match left.read(&mut buffer)? {
            0 => return Ok(hex(&sum.finalize())),
            n => sum.update(&buffer[..n]),
        }
    }
}

/// Bytes that look random and are always the same (SplitMix64 from a fixed seed),
/// so that no compression, zero page or shifted copy can pass for them.
fn content() -> Vec<u8> {
    let mut state = 0x0055_6e64_6572_6372_u64;
    let mut out = Vec::with_capacity(FILE_SIZE);
    while out.len() < FILE_SIZE {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out
}

/// What the guest makes of the file and sends back: the halves swapped, and one
/// in place of every zero byte.
fn upload_of(file: &[u8]) -> Vec<u8> {
    let (first, second) = file.split_at(file.len() / 2);
    second
        .iter()
        .chain(first)
        .map(|byte| if *byte == 0 { 1 } else { *byte })
        .collect()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(port: u16, request: &[&[u8]]) -> Vec<u8> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        for part in request {
            stream.write_all(part).unwrap();
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_guest_fetches_until_its_scenario_is_over() {
        let server = Server::start().unwrap();
        let fetches = server.expect("one");
        let word = || {
            let answer = talk(server.port, &[b"GET /one/piece HTTP/1.1\r\n\r\n"]);
            let at = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let (piece, word) = answer[at..].split_at(PIECE_SIZE);
            assert_eq!(hex(&Sha256::digest(piece)), server.piece_sum);
            String::from_utf8(word.to_vec()).unwrap()
        };
        assert_eq!([word(), word()], ["more", "more"]);
        fetches.scenario_over();
        // What was fetched before does not count.
        assert_eq!([word(), word()], ["more", "enough"]);
        assert_eq!(fetches.whole(), 4);
        let other = talk(server.port, &[b"GET /two/piece HTTP/1.1\r\n\r\n"]);
        assert!(other.starts_with(b"HTTP/1.1 404"));
    }

    #[test]
    fn gives_the_file_and_judges_the_upload() {
        let server = Server::start().unwrap();
        let answer = talk(server.port, &[b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n"]);
        let body = &answer[answer.len() - FILE_SIZE..];
        assert_eq!(hex(&Sha256::digest(body)), server.sum);

        let head = format!("POST /upload HTTP/1.1\r\nContent-Length: {FILE_SIZE}\r\n\r\n");
        let good = talk(server.port, &[head.as_bytes(), &upload_of(body)]);
        assert!(good.ends_with(b"\r\n\r\nok\n"));
        // The same bytes in the first order are an echo, not what was asked for.
        let echo = talk(server.port, &[head.as_bytes(), body]);
        assert!(echo.ends_with(b"\r\n\r\nbad\n"));
        let short = talk(
            server.port,
            &[b"POST /upload HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"],
        );
        assert!(short.ends_with(b"bad\n"));
        let served = server.take();
        assert_eq!(
            (served.downloads, served.uploads_ok, served.uploads_bad),
            (1, 1, 2)
        );
    }
}
