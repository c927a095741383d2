//! A node as a real process on real files, and the shell that writes to its database.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use watershed::testing::free_port;
use watershed::testing::postgres::Cluster;

/// How long any condition is waited for, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// The folder of a tree, removed at the end unless the test failed.
pub struct Ground {
    dir: tempfile::TempDir,
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("--- what is left of the tree: {}", self.dir.path().display());
        }
    }
}

impl Ground {
    pub fn new() -> Ground {
        Ground { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A site with an empty database of a PostgreSQL server; `schema` is run in `psql`.
    pub fn server_site(&self, name: &str, cluster: &Cluster, schema: &str) -> Site {
        let dir = self.path().join(name);
        fs::create_dir_all(&dir).expect("a folder");
        let server = Some(cluster.database());
        let site = Site { name: name.into(), port: free_port(), dir, process: None, extra: String::new(), server };
        site.sql(schema);
        site
    }

    /// A site without a database.
    pub fn log_site(&self, name: &str) -> Site {
        let dir = self.path().join(name);
        fs::create_dir_all(&dir).expect("a folder");
        let server = Some(String::new());
        Site { name: name.into(), port: free_port(), dir, process: None, extra: String::new(), server }
    }

    /// A site with an empty SQLite database; `schema` is run in the shell.
    pub fn site(&self, name: &str, schema: &str) -> Site {
        let dir = self.path().join(name);
        fs::create_dir_all(&dir).expect("a folder");
        let site =
            Site { name: name.into(), port: free_port(), dir, process: None, extra: String::new(), server: None };
        site.sql(schema);
        site
    }
}

/// One node.
pub struct Site {
    pub name: String,
    pub port: u16,
    pub dir: PathBuf,
    process: Option<Child>,
    extra: String,
    /// The URL of a server's database instead of a file; empty: no database.
    server: Option<String>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("node.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- log of {}:\n{}", self.name, lines[lines.len().saturating_sub(12)..].join("\n"));
        }
    }
}

impl Site {
    /// Writes the configuration: `sections` after `[node]` and `[database]`.
    pub fn configure(&mut self, parent: Option<u16>, sections: &str) {
        self.extra = sections.into();
        let parent = match parent {
            Some(port) => {
                format!("[parent]\nurl = \"127.0.0.1:{port}\"\nretry = {{ first = \"0.1s\", max = \"1s\" }}\n")
            }
            None => String::new(),
        };
        let database = match self.server.as_deref() {
            None => "[database]\nurl = \"sqlite:shop.db\"\n".to_owned(),
            Some("") => String::new(),
            Some(url) => format!("[database]\nurl = \"{url}\"\n"),
        };
        let text = format!(
            "[node]\nname = \"{}\"\ndata_dir = \"data\"\nlisten = \"127.0.0.1:{}\"\n\n{parent}\n{database}\n{sections}\n",
            self.name, self.port
        );
        fs::write(self.config(), text).expect("a configuration");
    }

    /// The database is at another address from now on; `configure` says so to the node.
    pub fn moves(&mut self, url: String) {
        self.server = Some(url);
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("watershed.toml")
    }

    pub fn database(&self) -> PathBuf {
        self.dir.join("shop.db")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts the process; its log goes to `node.log`.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.dir.join("node.log")).expect("a log file");
        let errors = log.try_clone().expect("a log file");
        let process = Command::new(binary())
            .args(["run", "-c"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        self.process = Some(process.expect("the binary starts"));
    }

    /// The process, which runs.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Starts and waits until it is ready.
    pub fn up(&mut self) {
        self.start();
        self.wait_healthy();
    }

    pub fn wait_healthy(&mut self) {
        let started = Instant::now();
        while self.get("/healthz").is_none_or(|(code, _)| code != 200) {
            if let Some(process) = &mut self.process
                && let Ok(Some(status)) = process.try_wait()
            {
                panic!("{} has ended: {status}", self.name);
            }
            assert!(started.elapsed() < DEADLINE, "{} does not become healthy", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn wait_ready(&self) {
        wait(&format!("{} is ready", self.name), || self.get("/readyz").is_some_and(|(code, _)| code == 200));
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGTERM, and the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut process = self.process.take()?;
        let pid = process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
        process.wait().expect("it ends").code()
    }

    /// SIGHUP: the configuration is read again.
    pub fn reload(&self) {
        let pid = self.process.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
    }

    /// A source as `source ls --json` shows it.
    pub fn source(&self, name: &str) -> serde_json::Value {
        let output = self.watershed(&["source", "ls", "--json"]);
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let sources = all["sources"].as_array().cloned().unwrap_or_default();
        sources.into_iter().find(|source| source["name"] == name).unwrap_or_default()
    }

    /// Waits until a source is in that state.
    pub fn wait_source(&self, name: &str, state: &str) {
        wait(&format!("{name} is {state} at {}", self.name), || self.source(name)["state"] == state);
    }

    /// Runs a command that must succeed; its output and errors.
    pub fn does(&self, args: &[&str]) -> String {
        let output = self.watershed(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?} at {}: {text}", self.name);
        text
    }

    /// Waits for a line of the log.
    pub fn wait_log(&self, text: &str) {
        wait(&format!("{} logs {text:?}", self.name), || self.log().contains(text));
    }

    /// Waits for a problem in the status.
    pub fn wait_problem(&self, text: &str) {
        wait(&format!("{} says {text:?}", self.name), || self.status()["problems"].to_string().contains(text));
    }

    /// A number of the status's counters.
    pub fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().unwrap_or_default()
    }

    /// The database's URL.
    pub fn url(&self) -> String {
        match &self.server {
            Some(url) => url.clone(),
            None => format!("sqlite:{}", self.database().display()),
        }
    }

    /// Waits for a link's state.
    pub fn wait_link(&self, name: &str, state: &str) {
        wait(&format!("{name} is {state} at {}", self.name), || {
            let status = self.status();
            let links = status["links"].as_array().cloned().unwrap_or_default();
            links.iter().any(|link| link["name"] == name && link["state"] == state)
        });
    }

    /// Waits for a process that ends by itself; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let mut process = self.process.take()?;
        let started = Instant::now();
        loop {
            if let Some(status) = process.try_wait().expect("a child") {
                return status.code();
            }
            if started.elapsed() > DEADLINE {
                let _ = process.kill();
                panic!("{} should have ended by itself", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("node.log")).unwrap_or_default()
    }

    /// A GET on loopback: status and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .into();
        let mut response = agent.get(format!("http://127.0.0.1:{}{path}", self.port)).call().ok()?;
        Some((response.status().as_u16(), response.body_mut().read_to_string().ok()?))
    }

    pub fn status(&self) -> serde_json::Value {
        let body = self.get("/v1/status").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// Runs the command line with this site's configuration.
    pub fn watershed(&self, args: &[&str]) -> Output {
        watershed(args, Some(&self.config()))
    }

    /// SQL in the `sqlite3` shell, a process of its own; gives its output.
    pub fn sql(&self, sql: &str) -> String {
        let started = Instant::now();
        loop {
            let output = self.try_sql(sql);
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("locked") && started.elapsed() < DEADLINE, "{}: {sql}: {error}", self.name);
        }
    }

    pub fn try_sql(&self, sql: &str) -> Output {
        if let Some(url) = &self.server {
            let mut shell = Command::new("psql");
            shell.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, url]);
            return shell.output().expect("psql is installed");
        }
        let mut shell = Command::new("sqlite3");
        shell.args(["-bail", "-batch", "-cmd", ".timeout 20000"]).arg(self.database()).arg(sql);
        shell.output().expect("the sqlite3 shell is installed")
    }
}

/// The program under test: the one that was built with the tests, or `WATERSHED_TEST_BINARY`.
fn binary() -> PathBuf {
    std::env::var_os("WATERSHED_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_watershed").into(), PathBuf::from)
}

/// Runs the command line.
pub fn watershed(args: &[&str], config: Option<&Path>) -> Output {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    if let Some(config) = config {
        command.arg("-c").arg(config);
    }
    command.output().expect("the binary starts")
}

/// Waits for a condition.
pub fn wait(what: &str, condition: impl FnMut() -> bool) {
    wait_for(what, DEADLINE, condition);
}

/// Waits for a condition that may take longer than others.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < deadline, "it does not come about: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a query gives the same at every site.
pub fn wait_equal(sql: &str, sites: &[&Site]) -> String {
    let mut last = Vec::new();
    let started = Instant::now();
    loop {
        let results: Vec<String> = sites.iter().map(|site| site.sql(sql)).collect();
        if results.iter().all(|result| *result == results[0]) {
            return results[0].clone();
        }
        assert!(started.elapsed() < DEADLINE, "{sql}: {results:?} (before: {last:?})");
        last = results;
        std::thread::sleep(Duration::from_millis(50));
    }
}
