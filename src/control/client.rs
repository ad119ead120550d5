//! The asking end of the control channel.
//!
//! Source: the design's section on FUSE facts (control channel).
//! Invariants: the daemon is found by the device number of its mount, from mountinfo, never through the mount.

use super::{Reply, Request, address, write_line};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a daemon that is well may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection to the daemon of one mount.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// # Errors
    /// `ConnectionRefused` when no daemon listens.
    pub fn connect(device: (u32, u32)) -> io::Result<Self> {
        Ok(Self {
            stream: BufReader::new(UnixStream::connect_addr(&address(device)?)?),
        })
    }

    /// # Errors
    /// What the daemon refuses; or it is stopped and says nothing (a sync may take as long as it needs).
    pub fn ask(&mut self, request: Request) -> io::Result<serde_json::Value> {
        let may_take_long = matches!(request, Request::Sync | Request::Evict);
        let patience = (!may_take_long).then_some(PATIENCE);
        self.stream.get_mut().set_read_timeout(patience)?;
        write_line(self.stream.get_mut(), &request)?;
        self.reply()
    }

    /// After `Request::Umount` and the unmount: waits until the daemon has written everything and is gone.
    pub fn wait_for_end(&mut self) -> io::Result<()> {
        self.stream.get_mut().set_read_timeout(None)?;
        let outcome = self.reply();
        // What it says comes before it closes the device; what the socket says comes after.
        let _ = io::copy(&mut Read::take(&mut self.stream, u64::MAX), &mut io::sink());
        outcome.map(|_| ())
    }

    fn reply(&mut self) -> io::Result<serde_json::Value> {
        let mut line = String::new();
        if let Err(error) = self.stream.read_line(&mut line) {
            return Err(match error.kind() {
                io::ErrorKind::WouldBlock => {
                    io::Error::new(io::ErrorKind::TimedOut, "the daemon does not answer")
                }
                _ => error,
            });
        }
        if line.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the daemon died",
            ));
        }
        match serde_json::from_str(&line)? {
            Reply::Ok(value) => Ok(value),
            Reply::Error(message) => Err(io::Error::other(message)),
        }
    }
}
