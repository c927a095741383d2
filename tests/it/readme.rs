//! The quick start in `README.md`, word for word: only the ports are others, and nothing waits for a person.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::tree::site::{DEADLINE, free_port};

/// The shell blocks of the section, in order.
fn blocks(section: &str) -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(readme).expect("README.md is there");
    let start = text.find(&format!("## {section}\n")).unwrap_or_else(|| panic!("README.md has no section {section:?}"));
    let rest = &text[start + 3..];
    let section = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    let (_, fenced) = section.split_once("```sh\n").unwrap_or_else(|| panic!("{section:?} has no shell block"));
    fenced.split("```sh\n").map(|block| block.split("```").next().unwrap_or_default().to_owned()).collect()
}

struct Shell {
    dir: tempfile::TempDir,
    ports: [String; 2],
}

impl Shell {
    fn command(&self, script: &str, folder: &Path) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_watershed")).parent().expect("a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        let script = script.replace("7070", &self.ports[0]).replace("7071", &self.ports[1]);
        let mut command = Command::new("sh");
        command.args(["-euc", &script]).env("PATH", path).current_dir(folder).stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str, folder: &Path) -> Output {
        self.command(script, folder).output().expect("sh is there")
    }
}

struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[track_caller]
fn well(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out.into_owned()
}

#[test]
fn the_quick_start_does_what_it_says() {
    let blocks = blocks("Quick start");
    let [prepare, run, write, look] = &blocks[..] else { panic!("the quick start has {} blocks", blocks.len()) };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let shell = Shell { dir, ports: [free_port().to_string(), free_port().to_string()] };
    let folder = shell.dir.path().join("quick-start");
    well(&shell.run(prepare, shell.dir.path()));
    assert!(folder.is_dir(), "the first block makes the folder quick-start");
    let lines: Vec<&str> = run.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 2, "each node has its own terminal");
    let start = |line: &&str| {
        let mut command = shell.command(&format!("exec {line}"), &folder);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    };
    let _running = Running(lines.iter().map(start).collect());
    let started = Instant::now();
    // The triggers that capture must be there before the first row, or it comes with the first copy: either way it comes.
    well(&shell.run(write, &folder));
    loop {
        let output = shell.run(look, &folder);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && out.contains("1|rope") && out.contains("1|Ada") && out.contains("connected") {
            return;
        }
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(started.elapsed() < DEADLINE, "the quick start does not come to its end: {out}\n{err}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
