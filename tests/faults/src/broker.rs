//! The broker under test, as a process of its own: Leveret's binary, or whatever commands start.

use crate::recorder::now_us;
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// What broker it is.
#[derive(Debug, Clone)]
pub enum Make {
    Leveret {
        binary: PathBuf,
    },
    /// Commands for a shell; they find the port in `$FAULTS_PORT` and the data folder in `$FAULTS_DATA`. `start` returns
    /// when the broker listens, `pid` prints its process.
    Commands {
        start: String,
        pid: String,
        stop: String,
    },
}

pub struct Broker {
    make: Make,
    pub port: u16,
    pub folder: PathBuf,
    /// What Leveret is started with, beside its folder and port.
    pub flags: Vec<String>,
    /// Variables for the next start: what the shim is to do.
    pub variables: Vec<(String, String)>,
    /// What starts it, before its own command: limits.
    pub wrapper: Vec<String>,
    /// What it writes on standard output and on standard error.
    pub log: PathBuf,
    child: Option<Child>,
}

/// How a broker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

impl End {
    fn of(status: ExitStatus) -> Self {
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or(0)), Self::Code)
    }
}

impl Broker {
    pub fn new(make: Make, port: u16, folder: PathBuf, log: PathBuf) -> Self {
        let (flags, variables, wrapper) = (Vec::new(), Vec::new(), Vec::new());
        Self { make, port, folder, flags, variables, wrapper, log, child: None }
    }

    pub fn is_leveret(&self) -> bool {
        matches!(self.make, Make::Leveret { .. })
    }

    /// Starts it, and waits until it listens. If it ends instead, the error is how.
    pub fn start(&mut self) -> io::Result<Result<(), End>> {
        self.launch()?;
        self.await_listener()
    }

    /// Starts it, and waits for nothing.
    pub fn launch(&mut self) -> io::Result<()> {
        let Make::Leveret { binary } = &self.make else { return self.run_start() };
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut arguments = self.wrapper.clone();
        arguments.push(binary.to_string_lossy().into_owned());
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).arg("--data-dir").arg(&self.folder);
        command.args(["--bind", "127.0.0.1", "--http-port", "none", "--metrics-port", "none", "--core-dumps", "true"]);
        command.args(["--amqp-port", &self.port.to_string()]).args(&self.flags);
        command.env_clear().env("RUST_BACKTRACE", "1").env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    pub fn await_listener(&mut self) -> io::Result<Result<(), End>> {
        let patience = Instant::now() + PATIENCE;
        loop {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return Ok(Ok(()));
            }
            if let Some(end) = self.ended()? {
                return Ok(Err(end));
            }
            if Instant::now() > patience {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the broker neither listens nor ends"));
            }
            std::thread::sleep(Duration::from_millis(4));
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> io::Result<Option<End>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status.map(End::of))
    }

    /// Waits for its end, or `None` if it does not come.
    pub fn await_end(&mut self, patience: Duration) -> io::Result<Option<End>> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Some(end) = self.ended()? {
                return Ok(Some(end));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(None)
    }

    /// As `kill -9`. When that was.
    pub fn kill(&mut self) -> io::Result<u64> {
        let at_us = now_us();
        self.signal(Signal::KILL)?;
        match &mut self.child {
            Some(child) => drop(child.wait()?),
            None => self.await_silence()?,
        }
        self.child = None;
        Ok(at_us)
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> io::Result<End> {
        if let Make::Commands { stop, .. } = &self.make {
            let status = self.shell(stop).status()?;
            self.await_silence()?;
            return Ok(End::of(status));
        }
        self.signal(Signal::TERM)?;
        self.await_end(PATIENCE)?.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "the broker does not stop"))
    }

    pub fn freeze(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = self.pid()? else { return Ok(()) };
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    pub fn pid(&self) -> io::Result<Option<Pid>> {
        let number = match (&self.make, &self.child) {
            (Make::Commands { pid, .. }, _) => {
                let output = self.shell(pid).stdout(Stdio::piped()).output()?;
                String::from_utf8_lossy(&output.stdout).trim().parse().ok()
            }
            (_, Some(child)) => i32::try_from(child.id()).ok(),
            _ => None,
        };
        Ok(number.and_then(Pid::from_raw))
    }

    /// Octets of its log, to look only at what is written later.
    pub fn log_mark(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    pub fn log_since(&self, mark: u64) -> String {
        let octets = std::fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(mark).map_or(octets.len(), |mark| mark.min(octets.len()));
        String::from_utf8_lossy(&octets[from..]).into_owned()
    }

    fn run_start(&self) -> io::Result<()> {
        let Make::Commands { start, .. } = &self.make else { return Ok(()) };
        let log = File::options().create(true).append(true).open(&self.log)?;
        let status = self.shell(start).stdout(log.try_clone()?).stderr(log).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other("the command that starts the broker failed")) }
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("FAULTS_PORT", self.port.to_string()).env("FAULTS_DATA", &self.folder);
        command.env("PORT", self.port.to_string());
        command
    }

    /// Until nobody listens any more.
    fn await_silence(&self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            if Instant::now() > end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the broker still listens"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
