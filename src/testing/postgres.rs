//! Throwaway PostgreSQL clusters: own folder, free port, unprivileged user; gone when dropped, and also when the
//! process that started them is killed.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start, stop, or notice a kill; generous, for busy machines.
const DEADLINE: Duration = Duration::from_secs(60);

/// Starts the server in the background, prints its process id, and ends it when stdin ends: when the cluster is dropped
/// or its process has died. In the second case nobody else removes the folder: a cluster in a `static` is never dropped.
const WATCH: &str = r#""$@" </dev/null & echo $!; exec >/dev/null; cat; kill -QUIT $!; wait
    if [ ! -d /proc/$PPID ]; then cd / && rm -rf "$OLDPWD"; fi"#;
/// A server of its own.
pub struct Cluster {
    folder: TempDir,
    bin: PathBuf,
    owner: Option<(u32, u32)>,
    port: u16,
    settings: Vec<(String, String)>,
    watch: Option<Child>,
    pid: u32,
    databases: AtomicU32,
}

/// Where the server's programs are: the newest of `/usr/lib/postgresql`, else on PATH.
fn binaries() -> io::Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .collect();
    found.sort();
    if let Some((_, bin)) = found.pop() {
        return Ok(bin);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bin = std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file());
    bin.ok_or_else(|| io::Error::other("no initdb found: install PostgreSQL's server (apt-get install postgresql-15)"))
}

/// The user and group that a server runs as when this process is root, which PostgreSQL refuses.
fn unprivileged() -> io::Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let fields: Vec<&str> = users.lines().find(|line| line.starts_with(&format!("{name}:")))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    found.map(Some).ok_or_else(|| io::Error::other("neither a user postgres nor nobody to run the server as"))
}

impl Cluster {
    /// A server for tests: it survives `kill -9`, but not the machine's crash (`fsync = off`).
    ///
    /// # Panics
    /// When no server can be started; the message says why.
    pub fn start() -> Cluster {
        Cluster::with(&[("fsync", "off"), ("shared_buffers", "32MB"), ("max_connections", "200")])
    }

    /// A server with settings of one's own, else as PostgreSQL comes.
    ///
    /// # Panics
    /// When no server can be started; the message says why.
    pub fn with(settings: &[(&str, &str)]) -> Cluster {
        Cluster::create(settings).unwrap_or_else(|error| panic!("a throwaway PostgreSQL: {error}"))
    }

    fn create(settings: &[(&str, &str)]) -> io::Result<Cluster> {
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut cluster = Cluster::empty(settings)?;
        cluster.run("initdb", |command| {
            command.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N", "-D"]);
        })?;
        cluster.up()?;
        Ok(cluster)
    }

    /// A folder without files of a server.
    fn empty(settings: Vec<(String, String)>) -> io::Result<Cluster> {
        let owner = unprivileged()?;
        let folder = TempDir::with_prefix("watershed-pg-")?;
        if let Some((uid, gid)) = owner {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let bin = binaries()?;
        Ok(Cluster { bin, owner, port: 0, settings, watch: None, pid: 0, databases: AtomicU32::new(0), folder })
    }

    /// Runs a program whose last argument is the data folder.
    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command)) -> io::Result<()> {
        let mut command = self.command(program);
        arguments(&mut command);
        let made = command.arg(self.data()).output()?;
        match made.status.success() {
            true => Ok(()),
            false => Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned())),
        }
    }

    /// A server that follows this one: its standby (`pg_basebackup -R`), on a port of its own.
    ///
    /// # Panics
    /// When it cannot be made or started; the message says why.
    pub fn standby(&self) -> Cluster {
        let mut standby = self.backup();
        let signal = standby.data().join("standby.signal");
        let file = standby.data().join("postgresql.auto.conf");
        let text = format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n", self.port);
        fs::write(&file, text).and_then(|()| fs::write(&signal, "")).expect("the standby's files are written");
        standby.restart();
        standby
    }

    /// A base backup of this server, put back on a port of its own; `restart` starts it.
    ///
    /// # Panics
    /// When it cannot be made; the message says why.
    pub fn backup(&self) -> Cluster {
        let made = || {
            let copy = Cluster::empty(self.settings.clone())?;
            let url = self.url("postgres");
            copy.run("pg_basebackup", |command| {
                command.args(["-c", "fast", "-X", "stream", "-d", &url, "-D"]);
            })?;
            Ok(copy)
        };
        made().unwrap_or_else(|error: io::Error| panic!("a backup of a throwaway PostgreSQL: {error}"))
    }

    /// The files as they are on the disk, replication slots too, as a snapshot of the disk has them; the server does not run.
    ///
    /// # Panics
    /// When they cannot be copied; the message says why.
    pub fn snapshot(&self) -> Cluster {
        assert!(self.watch.is_none(), "a server that runs writes its files");
        let made = || {
            let copy = Cluster::empty(self.settings.clone())?;
            let from = self.data();
            copy.run("cp", |command| {
                command.arg("-a").arg(&from);
            })?;
            Ok(copy)
        };
        made().unwrap_or_else(|error: io::Error| panic!("a snapshot of a throwaway PostgreSQL: {error}"))
    }

    /// One of the server's programs (`pgbench`, `pg_dump`, …), run as its user.
    pub fn command(&self, program: &str) -> Command {
        let ours = self.bin.join(program);
        self.as_owner(Command::new(if ours.is_file() { ours } else { program.into() }))
    }

    fn as_owner(&self, mut command: Command) -> Command {
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command.current_dir(self.folder.path()).env("LC_ALL", "C.UTF-8");
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn up(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            // A port that was free may be taken by now; and after a kill, the old server's processes go one by one.
            if self.port == 0 {
                self.port = super::free_port();
            }
            match self.try_up(deadline) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) if self.databases.load(Ordering::Relaxed) == 0 => self.port = 0,
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn try_up(&mut self, deadline: Instant) -> io::Result<()> {
        let log = fs::File::create(self.folder.path().join("server.log"))?;
        let mut command = self.as_owner(Command::new("sh"));
        command.args(["-c", WATCH, "sh"]).arg(self.bin.join("postgres")).arg("-D").arg(self.data());
        let settings =
            [("port", self.port.to_string()), ("unix_socket_directories", self.sockets().display().to_string())];
        let fixed = [("listen_addresses", "127.0.0.1".to_string()), ("logging_collector", "off".to_string())];
        for (name, value) in settings.iter().chain(&fixed) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut watch = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut line = String::new();
        BufReader::new(watch.stdout.take().expect("stdout is piped")).read_line(&mut line)?;
        self.pid = line.trim().parse().map_err(io::Error::other)?;
        self.watch = Some(watch);
        while Instant::now() < deadline {
            let ready = self.command("psql").args(["-XAtqc", "select 1", &self.url("postgres")]).output()?;
            if ready.status.success() {
                return Ok(());
            }
            if self.has_ended() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.end();
        Err(io::Error::other(self.log()))
    }

    fn has_ended(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return true };
        stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
    }

    /// The folder of the server's sockets, for URLs like `postgres://postgres@/db?host=FOLDER&port=PORT`.
    pub fn sockets(&self) -> &Path {
        self.folder.path()
    }

    /// The TCP port, on 127.0.0.1; the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database there, for the superuser `postgres`, over TCP.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The same over the server's socket.
    pub fn socket_url(&self, database: &str) -> String {
        format!("postgres://postgres@/{database}?host={}&port={}", self.sockets().display(), self.port)
    }

    /// Makes a database with a name of its own and returns its URL.
    pub fn database(&self) -> String {
        let name = format!("db{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("create database {name}"));
        self.url(&name)
    }

    /// What psql prints for statements: fields divided by `|`, a row a line. The database may be a name or a URL.
    ///
    /// # Panics
    /// When psql fails.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements).unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    /// What psql prints, or its words on stderr.
    ///
    /// # Errors
    /// psql fails.
    pub fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        let url = if database.contains("://") { database.to_string() } else { self.url(database) };
        let mut command = self.command("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statements, &url]);
        let output = command.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The server's log since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.end();
    }

    /// Stops it in good order, with a checkpoint.
    pub fn stop(&mut self) {
        self.signal("-INT");
        let deadline = Instant::now() + DEADLINE;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "a throwaway PostgreSQL does not stop: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.end();
    }

    /// Starts it again, on the same port.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.end();
        self.databases.fetch_max(1, Ordering::Relaxed);
        self.up().unwrap_or_else(|error| panic!("a throwaway PostgreSQL: {error}"));
    }

    fn signal(&self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.pid.to_string()]).status();
    }

    /// Ends the server (at once, without a checkpoint: the next start recovers) and waits for it.
    fn end(&mut self) {
        let Some(mut watch) = self.watch.take() else { return };
        drop(watch.stdin.take());
        let _ = watch.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_starts_answers_survives_a_kill_and_leaves_nothing() {
        let mut cluster = Cluster::start();
        let url = cluster.database();
        assert_eq!(cluster.sql(&url, "create table t (n int); insert into t values (1); select n from t"), "1\n");
        let folder = cluster.folder.path().to_path_buf();
        cluster.kill();
        assert!(cluster.try_sql(&url, "select 1").is_err());
        cluster.restart();
        assert_eq!(cluster.sql(&url, "select n from t"), "1\n");
        assert_eq!(cluster.sql(&cluster.socket_url("postgres"), "select 2"), "2\n");
        let pid = cluster.pid;
        drop(cluster);
        assert!(!folder.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
