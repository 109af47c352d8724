//! The real binary as a process: started, watched, signalled, and never left behind.

use super::client::PATIENCE;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The binary beside this test's own.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("glowplug");
    assert!(
        path.is_file(),
        "{} is not there: `cargo test --release --workspace` builds it",
        path.display()
    );
    path
}

/// `glowplug …` without what this machine's environment would change.
pub fn glowplug(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        let ours = name.to_string_lossy().starts_with("GLOWPLUG_");
        if ours && name != "GLOWPLUG_MODELS" {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// `glowplug serve`, and what it says on stderr. Stderr is a file: what the daemon wrote before it answered is in it when the
/// answer is here.
pub struct Daemon {
    child: Child,
    stderr: File,
    /// All that was read of the file.
    said: Vec<u8>,
    /// Where the lines begin that were not looked at.
    seen: usize,
}

impl Daemon {
    /// With this configuration file and these variables; its state goes below `state`.
    pub fn serve(config: &Path, state: &Path, env: &[(&str, &Path)]) -> Self {
        let command = glowplug(&["serve", "--config", config.to_str().unwrap()]);
        Self::run(command, state, env)
    }

    /// With this command, which becomes `glowplug serve`.
    pub fn run(mut command: Command, state: &Path, env: &[(&str, &Path)]) -> Self {
        let stderr = tempfile::tempfile().unwrap();
        let child = command
            .env("XDG_STATE_HOME", state)
            .env_remove("STATE_DIRECTORY")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_PID")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(stderr.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            stderr,
            said: Vec::new(),
            seen: 0,
        }
    }

    /// Waits for a line on stderr that gives a value.
    pub fn line<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            // asked before reading: what it said at its end is read too
            let alive = self.alive();
            self.read();
            while let Some(end) = self.said[self.seen..].iter().position(|b| *b == b'\n') {
                let line = String::from_utf8_lossy(&self.said[self.seen..self.seen + end]);
                let found = pick(&line);
                self.seen += end + 1;
                if let Some(found) = found {
                    return found;
                }
            }
            assert!(
                alive && Instant::now() < until,
                "the daemon never said {what}; it said {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything it said until now.
    pub fn said(&mut self) -> String {
        self.read();
        self.seen = self.said.len();
        String::from_utf8_lossy(&self.said).trim_end().to_owned()
    }

    fn read(&mut self) {
        let mut more = [0; 4096];
        // at an offset of our own: the file's is where the daemon writes next
        while let Ok(bytes @ 1..) = self.stderr.read_at(&mut more, self.said.len() as u64) {
            self.said.extend_from_slice(&more[..bytes]);
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Is the process still there?
    pub fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal by its name, such as `TERM` or `KILL`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status();
        assert!(sent.unwrap().success(), "kill -{name}");
    }

    /// Waits for its end by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon said:\n{}", self.said());
        }
    }
}
