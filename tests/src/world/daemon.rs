//! The real binary as a process: started, watched, signalled, and never left behind.

use super::client::PATIENCE;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
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

/// `glowplug serve`, and what it says on stderr.
pub struct Daemon {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Daemon {
    /// With this configuration file and these variables; its state goes below `state`.
    pub fn serve(config: &Path, state: &Path, env: &[(&str, &Path)]) -> Self {
        let command = glowplug(&["serve", "--config", config.to_str().unwrap()]);
        Self::run(command, state, env)
    }

    /// With this command, which becomes `glowplug serve`.
    pub fn run(mut command: Command, state: &Path, env: &[(&str, &Path)]) -> Self {
        let mut child = command
            .env("XDG_STATE_HOME", state)
            .env_remove("STATE_DIRECTORY")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_PID")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            said: Vec::new(),
        }
    }

    /// Waits for a line on stderr that gives a value.
    pub fn line<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the daemon never said {what}; it said {:#?}", self.said)
            };
            let found = pick(&line);
            self.said.push(line);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// Everything it said until now, or until its end if it has ended.
    pub fn said(&mut self) -> String {
        self.said.extend(self.lines.try_iter());
        self.said.join("\n")
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
                // stderr is closed: the rest of it has been read when the channel ends
                self.said.extend(self.lines.iter());
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
