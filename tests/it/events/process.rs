//! `watershed events replicate` as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// For busy machines.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// A folder with a configuration.
pub struct Site {
    pub folder: TempDir,
    pub config: PathBuf,
}

impl Site {
    /// With a file of any content.
    pub fn with(name: &str, text: &str) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join(name);
        std::fs::write(&config, text).expect("written");
        Site { folder, config }
    }

    /// With `[events]`.
    pub fn new(source: &str, destinations: &[&str]) -> Site {
        let text =
            format!("[events]\nsource = {source:?}\ndestinations = {destinations:?}\nconnect_timeout = \"5s\"\n");
        Site::with("events.toml", &text)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env_remove("WATERSHED_LOG");
        // What this machine knows of passwords is no part of a test.
        command.env_remove("PGUSER").env_remove("PGPASSWORD").env("PGPASSFILE", self.folder.path().join("pgpass"));
        command.args(["events", "replicate", "-c"]).arg(&self.config).args(arguments);
        command
    }

    /// Runs it to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    /// Starts it; its stdout goes to the file `stdout` of the folder.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        let stdout = std::fs::File::create(self.folder.path().join("stdout")).expect("a file");
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, heard) = (BufReader::new(child.stderr.take().expect("stderr is piped")), Arc::clone(&said));
        let hearing = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                heard.lock().expect("nobody panics").push_str(&(line + "\n"));
            }
        });
        Running { child, said, hearing: Some(hearing) }
    }
}

/// A process that copies; killed when dropped.
pub struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    hearing: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// What it has said on stderr.
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics").clone()
    }

    /// Waits until it has said that.
    pub fn says(&mut self, text: &str) {
        let said = Arc::clone(&self.said);
        until(&format!("it says {text:?}"), || {
            let said = said.lock().expect("nobody panics").clone();
            let ended = self.child.try_wait().expect("it is a child");
            assert!(said.contains(text) || ended.is_none(), "ended with {ended:?}:\n{said}");
            said.contains(text).then_some(()).ok_or(said)
        });
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end and returns its exit code.
    pub fn ends(&mut self) -> i32 {
        let code = until("it ends", || {
            self.child
                .try_wait()
                .expect("it is a child")
                .ok_or_else(|| self.said.lock().expect("nobody panics").clone())
        });
        if let Some(hearing) = self.hearing.take() {
            hearing.join().expect("it hears all");
        }
        code.code().unwrap_or_else(|| panic!("killed: {}", self.said()))
    }

    /// Where it serves metrics, once it has said so.
    pub fn address(&mut self) -> String {
        self.says("metrics on http://");
        let said = self.said();
        let after = said.split("metrics on http://").nth(1).expect("said");
        after.split('/').next().expect("an address").to_string()
    }

    /// Bytes of memory that it has.
    pub fn resident(&self) -> u64 {
        let path = Path::new("/proc").join(self.child.id().to_string()).join("status");
        let text = std::fs::read_to_string(path).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("it has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is there.
#[track_caller]
pub fn until<T, W: std::fmt::Display>(what: &str, mut look: impl FnMut() -> Result<T, W>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() > deadline => panic!("not in time: {what}\n{why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Asks a web server: status and body.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string());
    (code, body.unwrap_or_default())
}
