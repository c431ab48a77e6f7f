//! Lines off a socket, bounded in length and in time.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const CHUNK: usize = 16 * 1024;

/// A stream that must be done by a deadline, however slowly its peer goes.
pub(super) struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    pub(super) fn new(stream: &'a UnixStream, within: Duration) -> Timed<'a> {
        Timed { stream, deadline: Instant::now() + within }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(into).map_err(as_timeout)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket's time-out is reported as "would block".
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// What [`Lines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its newline.
    Whole(Vec<u8>),
    /// No newline within the limit: where the next line begins is unknown.
    TooLong,
    /// The stream ended inside a line.
    Half,
    End,
}

/// Cuts a stream into lines; holds at most `limit` bytes and one chunk.
pub(super) struct Lines {
    limit: usize,
    held: Vec<u8>,
    /// How much of `held` is known to have no newline.
    searched: usize,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Lines {
        Lines { limit, held: Vec::new(), searched: 0 }
    }

    /// Whether a line has begun.
    pub(super) fn begun(&self) -> bool {
        !self.held.is_empty()
    }

    pub(super) fn next(&mut self, from: &mut impl Read) -> io::Result<Line> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(line) = self.take_line() {
                return Ok(if line.len() < self.limit { Line::Whole(line) } else { Line::TooLong });
            }
            if self.held.len() >= self.limit {
                return Ok(Line::TooLong);
            }
            match from.read(&mut chunk) {
                Ok(0) => return Ok(if self.begun() { Line::Half } else { Line::End }),
                Ok(count) => self.held.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        match self.held[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let rest = self.held.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                line.pop();
                self.searched = 0;
                Some(line)
            }
            None => {
                self.searched = self.held.len();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of one size.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        for size in 1..=12 {
            let mut stream = Pieces(b"one\n\nthree\nfou", size);
            let mut lines = Lines::new(8);
            for expected in ["one", "", "three"] {
                assert_eq!(lines.next(&mut stream).unwrap(), Line::Whole(expected.into()));
            }
            assert_eq!(lines.next(&mut stream).unwrap(), Line::Half);
        }
        assert_eq!(Lines::new(8).next(&mut Pieces(b"", 1)).unwrap(), Line::End);
    }

    #[test]
    fn the_limit_counts_the_newline_and_bounds_what_is_held() {
        for size in [1, 3, 100_000] {
            assert_eq!(Lines::new(4).next(&mut Pieces(b"abc\n", size)).unwrap(), Line::Whole("abc".into()));
            assert_eq!(Lines::new(4).next(&mut Pieces(b"abcd\n", size)).unwrap(), Line::TooLong);
        }
        let endless = vec![b'x'; 1 << 20];
        let mut lines = Lines::new(100);
        assert_eq!(lines.next(&mut Pieces(&endless, usize::MAX)).unwrap(), Line::TooLong);
        assert!(lines.held.len() < 100 + CHUNK + 1);
    }
}
