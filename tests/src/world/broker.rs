//! Debian's Mosquitto, with users and the ACL that the protocol recommends.

use super::client::PATIENCE;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The daemon's user and the operator's, each with its password.
pub const DAEMON: (&str, &str) = ("glowplug", "of-the-daemon");
pub const OPERATOR: (&str, &str) = ("operator", "of-the-operator");
/// Every client's; its user is its segment.
pub const PASSWORD: &str = "of-the-clients";
/// The clients that there are, and `c0` to `c63`.
const CLIENTS: &str = "admin after alice bob c carol dave eve homeassistant info late mallory me panel paho paho3 victim watch";

/// The ACL that README.md gives, as it stands there.
pub fn acl() -> &'static str {
    let readme = include_str!("../../../README.md");
    let mut blocks = readme.split("```text\n").skip(1);
    blocks
        .find_map(|block| {
            block
                .split_once("```")
                .filter(|(acl, _)| acl.contains("%u"))
        })
        .expect("an ACL in README.md")
        .0
}

/// A broker that can be killed and started again on its port.
pub struct Mosquitto {
    child: Child,
    config: PathBuf,
    pub port: u16,
}

impl Mosquitto {
    /// On a free port, with its files in this folder.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, "", "")
    }

    /// With further lines of configuration, and further rules.
    pub fn start_with(folder: &Path, lines: &str, rules: &str) -> Self {
        let many: Vec<String> = (0..64).map(|n| format!("c{n}")).collect();
        let clients = CLIENTS.split(' ').chain(many.iter().map(String::as_str));
        let mut users = vec![DAEMON, OPERATOR];
        users.extend(clients.map(|user| (user, PASSWORD)));
        let config = format!(
            "listener 1883 127.0.0.1\nallow_anonymous false\n\
             password_file /etc/mosquitto/passwords\nacl_file /etc/mosquitto/acl\n{lines}\n"
        );
        Self::start_as(folder, &users, &format!("{}{rules}", acl()), &config)
    }

    /// With these users and their passwords, these rules, and a configuration that a reader could take: its port and the places of its files
    /// are put right.
    pub fn start_as(folder: &Path, users: &[(&str, &str)], acl: &str, config: &str) -> Self {
        let (passwords, acl_file) = (folder.join("passwords"), folder.join("acl"));
        std::fs::write(&acl_file, acl).unwrap();
        let users: Vec<String> = users.iter().map(|(u, p)| format!("{u}:{p}\n")).collect();
        std::fs::write(&passwords, users.concat()).unwrap();
        let made = Command::new("mosquitto_passwd")
            .arg("-U")
            .arg(&passwords)
            .output();
        let made = made.unwrap_or_else(|e| missing(&e));
        assert!(made.status.success(), "{made:?}");
        let port = free_port();
        // root drops to the user `mosquitto`, who may not read this folder, unless told not to
        let mut text = format!("user root\npersistence false\n{config}");
        for (there, here) in [
            ("listener 1883", format!("listener {port}")),
            ("/etc/mosquitto/passwords", passwords.display().to_string()),
            ("/etc/mosquitto/acl", acl_file.display().to_string()),
        ] {
            assert!(text.contains(there), "no `{there}` in {text}");
            text = text.replace(there, &here);
        }
        let config = folder.join("mosquitto.conf");
        std::fs::write(&config, text).unwrap();
        let child = spawn(&config);
        let broker = Self {
            child,
            config,
            port,
        };
        broker.wait();
        broker
    }

    /// SIGKILL, then another one on the same port.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.config);
        self.wait();
    }

    /// Waits until the broker listens.
    fn wait(&self) {
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(config: &std::path::Path) -> Child {
    // Debian installs it where not every user looks
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new("mosquitto")
        .env("PATH", path)
        .args(["-c", config.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| missing(&e))
}

fn missing<T>(why: &std::io::Error) -> T {
    panic!("{why}: these tests need Mosquitto, which `tests/run.sh` unpacks")
}

/// A port nobody has. Another process could take it before the broker does; the range is large.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
