//! The control channel of a running daemon: a unix socket on which it answers while it serves.
//!
//! Source: the design's section on FUSE facts (control channel); unix(7) on abstract names and SO_PEERCRED.
//! Invariants: one line of JSON asks, one answers; only root and the owner of the daemon are heard; the mount
//! itself is never touched, so a client gets its answer although every worker hangs.

pub mod client;
pub mod holders;
pub mod signals;
pub mod stats;

use crate::sync::{Mutex, Rank};
use rustix::net::sockopt::socket_peercred;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONGEST_LINE: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Everything durable.
    Sync,
    Info,
    /// Gauges and counts.
    Stats,
    /// Every inode and clean block that can leave memory does.
    Evict,
    /// The last log records.
    Log,
    /// Answered twice: at once, and when the daemon has written everything after the unmount.
    Umount,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Ok(serde_json::Value),
    Error(String),
}

/// What the daemon lets the channel do.
pub trait Served: Send + Sync {
    fn sync(&self) -> Result<(), String>;
    fn info(&self) -> serde_json::Value;
    /// Takes no lock that anybody holds while it waits.
    fn stats(&self) -> serde_json::Value;
    fn evict(&self) -> serde_json::Value;
    fn log(&self) -> Vec<String>;
}

/// The abstract name of the socket of the mount with this device number.
pub fn address(device: (u32, u32)) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("uext4-{}:{}", device.0, device.1))
}

/// The serving end.
pub struct Server {
    state: Arc<Mutex<State>>,
}

enum State {
    Running { waiting: Vec<UnixStream> },
    Finished(Reply),
}

/// How long the daemon before us may take to end: the kernel gives a mount's number out again once it is unmounted, while
/// that one still writes and answers for it.
const PREDECESSOR: Duration = Duration::from_secs(10);

fn bind(device: (u32, u32)) -> io::Result<UnixListener> {
    let end = Instant::now() + PREDECESSOR;
    loop {
        match UnixListener::bind_addr(&address(device)?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound,
        }
    }
}

impl Server {
    /// Serves on a thread of its own until the process ends.
    pub fn start(device: (u32, u32), served: Arc<dyn Served>) -> io::Result<Self> {
        let listener = bind(device)?;
        let state = Arc::new(Mutex::new(
            Rank::Leaf,
            State::Running {
                waiting: Vec::new(),
            },
        ));
        let shared = Arc::clone(&state);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, served) = (Arc::clone(&shared), Arc::clone(&served));
                    // A client that asks for a sync must not keep another one waiting.
                    let builder = std::thread::Builder::new().name("control-client".into());
                    if let Err(error) = builder.spawn(move || serve(stream, &state, &*served)) {
                        log::warn!("control: {error}");
                    }
                }
            })?;
        Ok(Self { state })
    }

    /// Everything is written, or could not be: tells those who wait for the unmount.
    pub fn finish(&self, outcome: Result<(), String>) {
        let reply = outcome.map_or_else(Reply::Error, |()| Reply::Ok(serde_json::Value::Null));
        let before = std::mem::replace(&mut *self.state.lock(), State::Finished(reply.clone()));
        if let State::Running { waiting } = before {
            for mut stream in waiting {
                let _ = write_line(&mut stream, &reply);
            }
        }
    }
}

fn serve(mut stream: UnixStream, state: &Mutex<State>, served: &dyn Served) {
    match answer(&mut stream, served) {
        Ok(Request::Umount) => {
            let reply = match &mut *state.lock() {
                State::Running { waiting } => return waiting.push(stream),
                State::Finished(reply) => reply.clone(),
            };
            let _ = write_line(&mut stream, &reply);
        }
        Ok(_) => {}
        Err(error) => log::debug!("control: {error}"),
    }
}

fn answer(stream: &mut UnixStream, served: &dyn Served) -> io::Result<Request> {
    let peer = socket_peercred(&*stream)?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        write_line(
            stream,
            &Reply::Error("only root and the mount's owner may ask".into()),
        )?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(Read::take(&*stream, LONGEST_LINE)).read_line(&mut line)?;
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            write_line(stream, &Reply::Error(format!("not a request: {error}")))?;
            return Err(error.into());
        }
    };
    let reply = match request {
        Request::Sync => served
            .sync()
            .map_or_else(Reply::Error, |()| Reply::Ok(serde_json::Value::Null)),
        Request::Info => Reply::Ok(served.info()),
        Request::Stats => Reply::Ok(served.stats()),
        Request::Evict => Reply::Ok(served.evict()),
        Request::Log => Reply::Ok(served.log().into()),
        Request::Umount => Reply::Ok(std::process::id().into()),
    };
    write_line(stream, &reply)?;
    Ok(request)
}

fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::client::Client;
    use super::*;

    struct Fake;
    impl Served for Fake {
        fn sync(&self) -> Result<(), String> {
            Err("disk on fire".into())
        }
        fn info(&self) -> serde_json::Value {
            serde_json::json!({ "source": "a.img" })
        }
        fn stats(&self) -> serde_json::Value {
            serde_json::json!({ "inodes": 5 })
        }
        fn evict(&self) -> serde_json::Value {
            7.into()
        }
        fn log(&self) -> Vec<String> {
            vec!["one".into()]
        }
    }

    #[test]
    fn requests_are_answered() {
        // No mount has this number.
        let device = (4095, std::process::id() % (1 << 20));
        let server = Server::start(device, Arc::new(Fake)).unwrap();
        let ask = |request| Client::connect(device).unwrap().ask(request);
        assert_eq!(ask(Request::Info).unwrap()["source"], "a.img");
        assert_eq!(ask(Request::Log).unwrap()[0], "one");
        assert_eq!(ask(Request::Stats).unwrap()["inodes"], 5);
        assert_eq!(ask(Request::Evict).unwrap(), 7);
        assert!(
            ask(Request::Sync)
                .unwrap_err()
                .to_string()
                .contains("disk on fire")
        );

        let mut early = Client::connect(device).unwrap();
        assert_eq!(early.ask(Request::Umount).unwrap(), std::process::id());
        server.finish(Ok(()));
        early.wait_for_end().unwrap();
        let mut late = Client::connect(device).unwrap();
        late.ask(Request::Umount).unwrap();
        late.wait_for_end().unwrap();
    }
}
