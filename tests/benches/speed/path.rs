//! What all measured paths have in common.

use criterion::{Bencher, Criterion};
use std::time::{Duration, Instant};

/// A way that frames take. One call of [`Path::measured`] moves [`Path::frames`]
/// frames; what surrounds it (the host's part, the guest's part) is not measured.
pub trait Path {
    /// Frames of one call.
    fn frames(&self) -> usize;
    /// Bytes of each.
    fn bytes(&self) -> usize;
    /// What the other parties do before a call.
    fn prepare(&mut self) {}
    /// The path itself.
    fn measured(&mut self);
    /// What the other parties do after a call. Panics if a frame is missing.
    fn check(&mut self) {}
    /// The yardstick: plain copies of as many frames of the same size.
    fn copied(&mut self);
}

/// What a path took.
pub struct Times {
    /// ns a frame on the path.
    pub path: f64,
    /// ns for a plain copy of a frame.
    pub copy: f64,
}

/// Times path and yardstick one after the other. `None`: nothing was to be timed (a
/// test run, a filter).
///
/// What counts is the fastest call, of tens of microseconds: other work on the machine
/// makes a call slower, never faster, and finds one in its way often enough on a
/// machine that is shared.
pub fn time(criterion: &mut Criterion, name: &str, path: &mut dyn Path) -> Option<Times> {
    for _ in 0..4 {
        turn(path);
    }
    let (mut fastest, mut copied) = (Duration::MAX, Duration::MAX);
    let mut group = criterion.benchmark_group(name);
    group.bench_function("path", |b| each(b, &mut fastest, || turn(path)));
    group.bench_function("memcpy", |b| {
        each(b, &mut copied, || {
            let start = Instant::now();
            path.copied();
            start.elapsed()
        });
    });
    group.finish();
    let frames = path.frames() as f64;
    let of = |time: Duration| (time != Duration::MAX).then(|| time.as_nanos() as f64 / frames);
    Some(Times {
        path: of(fastest)?,
        copy: of(copied)?,
    })
}

fn each(bencher: &mut Bencher<'_>, fastest: &mut Duration, mut one: impl FnMut() -> Duration) {
    bencher.iter_custom(|calls| {
        (0..calls)
            .map(|_| {
                let time = one();
                *fastest = time.min(*fastest);
                time
            })
            .sum()
    });
}

fn turn(path: &mut dyn Path) -> Duration {
    path.prepare();
    let start = Instant::now();
    path.measured();
    let time = start.elapsed();
    path.check();
    time
}

/// Runs the path `calls` times behind a function by whose name callgrind knows when
/// to count. Some turns before it bring every table to its size.
pub fn count(path: &mut dyn Path, calls: usize) {
    for _ in 0..8 {
        turn(path);
    }
    for _ in 0..calls {
        path.prepare();
        collected(path);
        path.check();
    }
}

#[inline(never)]
fn collected(path: &mut dyn Path) {
    path.measured();
}
