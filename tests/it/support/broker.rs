//! A broker process of one's own.

use super::{Group, PATIENCE, eventually};
use parking_lot::Mutex;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running broker with a temporary data folder. Killed when dropped; its log is shown if the test fails,
/// and a panic in it fails the test.
pub struct Broker {
    process: Child,
    folder: Arc<TempDir>,
    flags: Vec<String>,
    port: u16,
    log: Log,
    errors: Log,
}

/// The lines on standard output or standard error so far.
type Log = Arc<Mutex<Vec<String>>>;

/// A broker that ended instead of serving.
#[derive(Debug)]
pub struct Refused {
    pub exit_code: Option<i32>,
    /// What stands on standard error.
    pub text: String,
}

impl Broker {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more flags.
    pub fn with(flags: &[&str]) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::on(folder, flags, 0).unwrap_or_else(|refused| panic!("the broker does not start: {refused:?}"))
    }

    /// With a file of settings, for those that are no flags.
    pub fn with_config(toml: &str) -> Self {
        Self::try_with_config(toml).unwrap_or_else(|refused| panic!("the broker does not start: {refused:?}"))
    }

    /// With a limit of open files.
    pub fn with_descriptors(limit: u32) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let command = command(folder.path(), 0);
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\"")).arg(command.get_program());
        limited.args(command.get_args()).env_clear().env("RUST_BACKTRACE", "1");
        limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Self::listening(limited.spawn().unwrap(), folder, Vec::new());
        started.unwrap_or_else(|refused| panic!("the broker does not start: {refused:?}"))
    }

    /// Started by a supervisor that listens on this socket (sd_notify(3)).
    pub fn supervised(socket: &Path) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let process = command(folder.path(), 0).env("NOTIFY_SOCKET", socket).spawn().unwrap();
        let started = Self::listening(process, folder, Vec::new());
        started.unwrap_or_else(|refused| panic!("the broker does not start: {refused:?}"))
    }

    /// The same, if it starts.
    pub fn try_with(flags: &[String]) -> Result<Self, Refused> {
        Self::on(Arc::new(TempDir::new().unwrap()), flags.to_vec(), 0)
    }

    /// With a file of settings, if it starts.
    pub fn try_with_config(toml: &str) -> Result<Self, Refused> {
        let folder = Arc::new(TempDir::new().unwrap());
        let file = folder.path().join("leveret.toml");
        std::fs::write(&file, toml).unwrap();
        let flags = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
        Self::on(folder, flags, 0)
    }

    /// In a control group.
    pub fn in_group(group: &Group, flags: &[&str]) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let command = command(folder.path(), 0);
        let mut inside = Command::new("sh");
        inside.arg("-c").arg(format!("echo $$ >{} && exec \"$0\" \"$@\"", group.door().display()));
        inside.arg(command.get_program()).args(command.get_args()).args(flags).env_clear().env("RUST_BACKTRACE", "1");
        inside.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Self::listening(inside.spawn().unwrap(), folder, Vec::new());
        started.unwrap_or_else(|refused| panic!("the broker does not start: {refused:?}"))
    }

    fn on(folder: Arc<TempDir>, flags: Vec<String>, port: u16) -> Result<Self, Refused> {
        let process = command(folder.path(), port).args(&flags).spawn().unwrap();
        Self::listening(process, folder, flags)
    }

    fn listening(mut process: Child, folder: Arc<TempDir>, flags: Vec<String>) -> Result<Self, Refused> {
        let (log, errors) = (Log::default(), Log::default());
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let keep = Arc::clone(&errors);
        let reading = std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| keep.lock().push(line)));
        let (told, ports) = mpsc::channel();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let keep = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, port)) = line.split_once("started TCP listener on 127.0.0.1:") {
                    // Nobody waits any more if the test is over.
                    let _ = told.send(port.trim().parse().unwrap());
                }
                keep.lock().push(line);
            }
        });
        match ports.recv_timeout(PATIENCE) {
            Ok(port) => Ok(Self { process, folder, flags, port, log, errors }),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let exit_code = end(&mut process).code();
                reading.join().unwrap();
                Err(Refused { exit_code, text: errors.lock().join("\n") })
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = process.kill();
                panic!("no listener in time; the log: {:?}", log.lock());
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens on another of this machine's addresses, which was given with `--bind`.
    pub fn listener_on(&self, address: IpAddr) -> SocketAddr {
        eventually("a listener on another address", || {
            let log = self.log.lock();
            let shown = log.iter().filter_map(|line| line.split_once("started TCP listener on "));
            shown.filter_map(|(_, shown)| shown.trim().parse::<SocketAddr>().ok()).find(|shown| shown.ip() == address)
        })
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it speaks TLS.
    pub fn tls_port(&self) -> u16 {
        let told = "started TLS (SSL) listener on 127.0.0.1:";
        eventually("a listener for TLS", || {
            self.log.lock().iter().find_map(|line| line.split_once(told)?.1.trim().parse().ok())
        })
    }

    /// Where the management API is; only with a flag for it, such as `--http-port 0`.
    pub fn http_port(&self) -> u16 {
        let log = self.log.lock();
        let port = log.iter().find_map(|line| line.split_once("started HTTP listener on ")?.1.rsplit(':').next());
        port.expect("the broker serves HTTP").trim().parse().unwrap()
    }

    /// Where metrics are; only with a flag for it, such as `--metrics-port 127.0.0.1:0`.
    pub fn metrics_port(&self) -> u16 {
        let told = "started Prometheus listener on 127.0.0.1:";
        eventually("a listener for metrics", || {
            self.log.lock().iter().find_map(|line| line.split_once(told)?.1.trim().parse().ok())
        })
    }

    pub fn uri(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// As from power loss, but that the operating system lives on.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks for an end, and waits for it.
    pub fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// Asks for an end.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Has it read again what it can.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.process.id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        eventually("the broker's end", || self.process.try_wait().unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Starts it again on the same folder and port, after [`Broker::kill`] or [`Broker::stop`].
    pub fn restart(&mut self) {
        self.try_restart().unwrap_or_else(|refused| panic!("the broker does not start again: {refused:?}"));
    }

    pub fn try_restart(&mut self) -> Result<(), Refused> {
        assert!(!self.is_running());
        let (folder, flags) = (Arc::clone(&self.folder), self.flags.clone());
        let mut next = Self::on(Arc::clone(&folder), flags.clone(), self.port);
        if next.as_ref().is_err_and(|refused| refused.exit_code == Some(i32::from(leveret::server::exit::PORT))) {
            // Some client was given the port for its own end meanwhile.
            next = Self::on(folder, flags, 0);
        }
        *self = next?;
        Ok(())
    }

    /// Starts again with a library between it and the system, and these variables.
    pub fn restart_preloaded(&mut self, library: &Path, variables: &[(&str, &str)]) {
        assert!(!self.is_running());
        let mut command = command(self.folder.path(), 0);
        command.env("LD_PRELOAD", library).envs(variables.iter().copied()).args(&self.flags);
        let started = Self::listening(command.spawn().unwrap(), Arc::clone(&self.folder), self.flags.clone());
        *self = started.unwrap_or_else(|refused| panic!("the broker does not start again: {refused:?}"));
    }

    /// Starts again with other flags.
    pub fn restart_with(&mut self, flags: &[&str]) {
        self.try_restart_with(flags).unwrap_or_else(|refused| panic!("the broker does not start again: {refused:?}"));
    }

    pub fn try_restart_with(&mut self, flags: &[&str]) -> Result<(), Refused> {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self.try_restart()
    }

    /// A second broker that is meant to end at once: on `folder` and `port`.
    pub fn refused(folder: &Path, port: u16) -> Refused {
        refusal(command(folder, port).spawn().unwrap())
    }

    /// A broker process on `folder` that nobody waits for.
    pub fn launch(folder: &Path) -> Child {
        command(folder, 0).stdout(Stdio::null()).spawn().unwrap()
    }

    /// What stands on standard error; a panic does.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().clone()
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// Memory that the process holds, octets.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The most memory that the process ever held, octets.
    pub fn resident_bytes_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Octets that the process ever read, from files and sockets.
    pub fn octets_read(&self) -> u64 {
        let counts = std::fs::read_to_string(format!("/proc/{}/io", self.process.id())).unwrap();
        counts.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    /// Octets of the files in the data folder but for the ballast.
    pub fn octets_stored(&self) -> u64 {
        let files = self.folder().read_dir().unwrap().flatten();
        // Some go while they are looked at.
        let found = files.filter(|file| file.file_name() != "ballast").filter_map(|file| file.metadata().ok());
        found.map(|found| found.len()).sum()
    }

    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            for (name, lines) in [("log", &self.log), ("standard error", &self.errors)] {
                let lines = lines.lock();
                let from = lines.len().saturating_sub(40);
                eprintln!("the broker's {name} ends with:\n{}", lines[from..].join("\n"));
            }
        } else {
            let errors = self.errors.lock();
            assert!(errors.is_empty(), "the broker panicked:\n{}", errors.join("\n"));
        }
    }
}

fn command(folder: &Path, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    // Variables of whoever runs the tests must not configure the broker. Panics are shown in full, and whoever is not root
    // may count the process's descriptors.
    command.env_clear().env("RUST_BACKTRACE", "1").arg("--data-dir").arg(folder);
    command.args(["--core-dumps", "true"]);
    command.args(["--bind", "127.0.0.1", "--http-port", "none", "--metrics-port", "none", "--amqp-port"]);
    command.arg(port.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a process that must end by itself.
fn end(process: &mut Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            let _ = process.kill();
            panic!("a broker that should have been refused runs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn refusal(mut process: Child) -> Refused {
    let exit_code = end(&mut process).code();
    let mut text = String::new();
    process.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    Refused { exit_code, text }
}
