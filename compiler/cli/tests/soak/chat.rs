//! `chat` of an executable behind pipes: what is said to it, what it says, and Ctrl-C.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a process that has something to do may say nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at outputs on which nothing came.
const NAP: Duration = Duration::from_micros(300);

/// Computing that is surely an answer's: whatever threads did before, they have long slept.
const COMPUTING: Duration = Duration::from_millis(1);

/// One of the process' outputs, with what came and was not taken yet.
struct Output {
    pipe: UnixStream,
    bytes: Vec<u8>,
    open: bool,
}

impl Output {
    /// Takes what is there now; whether anything was.
    fn drain(&mut self) -> bool {
        let (before, mut part) = (self.bytes.len(), [0; 1 << 14]);
        while self.open {
            match self.pipe.read(&mut part) {
                Ok(0) => self.open = false,
                Ok(count) => self.bytes.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("an output of the chat: {error}"),
            }
        }
        self.bytes.len() > before
    }
}

/// A running chat.
pub struct Chat {
    child: Child,
    input: Option<UnixStream>,
    out: Output,
    err: Output,
}

fn output() -> (Output, Stdio) {
    let (pipe, far) = UnixStream::pair().unwrap();
    pipe.set_nonblocking(true).unwrap();
    narrow(&far);
    (Output { pipe, bytes: vec![], open: true }, OwnedFd::from(far).into())
}

/// Lets the other end hold as few writes as the system can: whoever writes then waits for whoever
/// reads, and is still at its answer when that one has seen the beginning.
fn narrow(end: &UnixStream) {
    let (bytes, size) = (1, size_of::<libc::c_int>() as libc::socklen_t);
    let value: *const libc::c_int = &bytes;
    // SAFETY: the value outlives the call, which reads as many bytes as are named.
    let set = unsafe {
        libc::setsockopt(end.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, value.cast(), size)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

impl Chat {
    pub fn start(executable: &Path, args: &[&str]) -> Chat {
        let (input, stdin) = UnixStream::pair().unwrap();
        let (stdin, (out, stdout), (err, stderr)) = (OwnedFd::from(stdin), output(), output());
        // What a process does not take for so long it never will.
        input.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut command = Command::new(executable);
        let command = command.arg("chat").args(args).stdin(stdin).stdout(stdout).stderr(stderr);
        Chat { child: command.spawn().unwrap(), input: Some(input), out, err }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said on both outputs and was not taken.
    fn heard(&self) -> String {
        let text = |output: &Output| String::from_utf8_lossy(&output.bytes).into_owned();
        format!("{:?} on standard output, {:?} on standard error", text(&self.out), text(&self.err))
    }

    /// Sends a line.
    pub fn send(&mut self, line: &[u8]) -> Result<(), String> {
        let input = self.input.as_mut().expect("the input is open");
        let sent = input.write_all(&[line, b"\n"].concat());
        sent.map_err(|e| format!("{e}: {:?}, {}", self.child.try_wait(), self.heard()))
    }

    /// Waits until `done` says so of what came on both outputs.
    fn wait(
        &mut self,
        what: &str,
        done: impl Fn(&Chat) -> Result<bool, String>,
    ) -> Result<(), String> {
        // Counted by naps, or a machine that was asleep would seem to have waited.
        let mut patience = PATIENCE;
        loop {
            let open = self.out.open || self.err.open;
            let more = [self.out.drain(), self.err.drain()].contains(&true);
            if done(self)? {
                return Ok(());
            }
            if !open || patience.is_zero() {
                let state = self.child.try_wait();
                return Err(format!("{what:?} did not come ({state:?}): {}", self.heard()));
            }
            if more {
                patience = PATIENCE;
            } else {
                std::thread::sleep(NAP);
                patience = patience.saturating_sub(NAP);
            }
        }
    }

    /// Waits for an answer that is `whole`, to the byte; takes it.
    pub fn answer(&mut self, whole: &str) -> Result<(), String> {
        self.begun(whole, whole.len())?;
        self.out.bytes.clear();
        Ok(())
    }

    /// Waits until at least `bytes` of an answer that is `whole` came.
    pub fn begun(&mut self, whole: &str, bytes: usize) -> Result<(), String> {
        self.wait("the answer", |chat| {
            if whole.as_bytes().starts_with(&chat.out.bytes) {
                return Ok(chat.out.bytes.len() >= bytes);
            }
            Err(format!("a fresh run says {whole:?}, this one {}", chat.heard()))
        })
    }

    /// Waits for a note, to the byte; takes it.
    pub fn noted(&mut self, note: &str) -> Result<(), String> {
        self.wait(note, |chat| {
            if note.as_bytes().starts_with(&chat.err.bytes) {
                return Ok(chat.err.bytes.len() == note.len());
            }
            Err(format!("expected {note:?}: {}", chat.heard()))
        })?;
        self.err.bytes.clear();
        Ok(())
    }

    /// Nothing was said that nobody waited for.
    pub fn silent(&mut self) -> Result<(), String> {
        self.out.drain();
        self.err.drain();
        let silent = self.out.bytes.is_empty() && self.err.bytes.is_empty();
        if silent { Ok(()) } else { Err(format!("unasked: {}", self.heard())) }
    }

    /// Processor time of the first thread, and that of the workers that compute for it. Threads that
    /// render a template come and go.
    fn times(&self) -> (Duration, Duration) {
        let first = self.pid().to_string();
        let mut times = (Duration::ZERO, Duration::ZERO);
        for thread in fs::read_dir(format!("/proc/{first}/task")).unwrap().map(|t| t.unwrap()) {
            let read = |file| fs::read_to_string(thread.path().join(file));
            let (Ok(name), Ok(text)) = (read("comm"), read("schedstat")) else { continue };
            let time = Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap());
            if thread.file_name() == *first {
                times.0 += time;
            } else if name.starts_with("worker-") {
                times.1 += time;
            }
        }
        times
    }

    /// Time that went into computing.
    pub fn computed(&self) -> Duration {
        self.times().1
    }

    /// Waits until it computes an answer that is `whole`, given [`Chat::computed`] of before.
    pub fn computing(&mut self, before: Duration, whole: &str) -> Result<(), String> {
        self.wait("computing", |chat| {
            Ok(chat.out.bytes.len() >= whole.len() || chat.computed() >= before + COMPUTING)
        })
    }

    /// Sends a signal to the first thread, so that it does nothing more before it has met it.
    fn signal(&self, signal: i32) {
        let first = self.pid() as i32;
        // SAFETY: numbers alone; the process is this one's child, and was not waited for.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, first, first, signal) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    /// Waits until the first thread took so much time more, or said something.
    pub fn busy(&mut self, time: Duration) -> Result<(), String> {
        let before = self.times().0;
        self.wait("work", |chat| Ok(!chat.err.bytes.is_empty() || chat.times().0 >= before + time))
    }

    /// Stops the process where it is.
    fn hold(&mut self) -> Result<(), String> {
        self.signal(libc::SIGSTOP);
        let path = format!("/proc/{}/stat", self.pid());
        self.wait("the stop", |_| {
            let stat = fs::read_to_string(&path).map_err(|e| e.to_string())?;
            Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        })?;
        self.out.drain();
        self.err.drain();
        Ok(())
    }

    /// Presses Ctrl-C if fewer than `before` bytes of an answer were said, and nothing else.
    /// Whether it did.
    ///
    /// The process stands still while that is found out, or the answer might end in between, and
    /// Ctrl-C, when nothing is answered, the process.
    pub fn press_ctrl_c(&mut self, before: usize) -> Result<bool, String> {
        self.hold()?;
        let pressed = self.out.bytes.len() < before && self.err.bytes.is_empty();
        if pressed {
            self.signal(libc::SIGINT);
        }
        self.signal(libc::SIGCONT);
        Ok(pressed)
    }

    /// Waits until an answer has stopped; takes what was said of it.
    pub fn stopped(&mut self) -> Result<String, String> {
        // The note follows the answer.
        self.noted("stopped\n")?;
        self.out.drain();
        let said = std::mem::take(&mut self.out.bytes);
        String::from_utf8(said).map_err(|e| e.to_string())
    }

    /// Ends the chat, by a word or by the end of its input; it must say nothing more.
    pub fn end(mut self, word: bool) -> Result<(), String> {
        if word {
            self.send(b"/exit")?;
        } else {
            self.input = None;
        }
        self.wait("the end", |chat| Ok(!chat.out.open && !chat.err.open))?;
        self.silent()?;
        let status = self.child.wait().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
