//! Every way in which certificates are wrong has its sentence, which names the file and the cause.

use super::authority::{self, Authority, HERE, Issued};
use glowplug_tests::world::broker::{Mosquitto, free_port};
use glowplug_tests::world::daemon::{Daemon, glowplug};
use glowplug_tests::world::tiny;
use std::path::Path;
use std::time::Duration;

/// Brokers that show one certificate each, and the one of plain MQTT.
struct Brokers {
    lines: String,
}

impl Brokers {
    /// A listener with this certificate; gives its port.
    fn add(&mut self, own: &Issued, more: &str) -> u16 {
        let port = free_port();
        self.lines += &format!(
            "listener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\n{more}\n",
            own.cert.display(),
            own.key.display()
        );
        port
    }
}

/// What `ask` says of it.
fn said(url: &str, ca: &Path, own: Option<(&Path, &Path)>) -> String {
    let mut ask = glowplug(&["ask", "the rain", "--node", "n1", "--broker", url]);
    ask.arg("--ca").arg(ca);
    if let Some((cert, key)) = own {
        ask.arg("--cert").arg(cert).arg("--key").arg(key);
    }
    let out = ask.output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn each_fault_of_a_certificate_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let theirs = Authority::new(folder.path(), "theirs");
    let mut brokers = Brokers {
        lines: String::new(),
    };
    let good = ours.issue("good", &HERE, |_| {});
    let itself = ours.itself("itself");
    let asks = format!(
        "cafile {}\nrequire_certificate true\nuse_identity_as_username true",
        ours.file.display()
    );
    // what the broker shows, and words of the sentence
    let shown: Vec<(u16, &Path, &[&str])> = vec![
        (
            brokers.add(&ours.issue("late", &HERE, authority::not_yet_valid), ""),
            &ours.file,
            &["valid from 3001-02-03 00:00 UTC", "clock"],
        ),
        (
            brokers.add(&ours.issue("early", &HERE, authority::expired), ""),
            &ours.file,
            &["expired at 2002-03-04 00:00 UTC", "clock"],
        ),
        (
            brokers.add(&ours.issue("localhost", &[], |_| {}), ""),
            &ours.file,
            &["no subject alternative name", "`localhost`"],
        ),
        (
            brokers.add(&ours.issue("other", &["broker.lan"], |_| {}), ""),
            &ours.file,
            &[
                "for broker.lan and not for `localhost`",
                "`mqtt.server_name`",
            ],
        ),
        (
            brokers.add(&ours.version_1("old"), ""),
            &ours.file,
            &["X.509 version 1"],
        ),
        (
            brokers.add(&theirs.issue("foreign", &HERE, |_| {}), ""),
            &ours.file,
            &["issued by nobody in", "ours.pem", "`mqtt.ca_file`"],
        ),
        (
            brokers.add(&itself, ""),
            &itself.cert,
            &["an authority's certificate as its own"],
        ),
        (
            brokers.add(&ours.issue_by_a_leaf("grandchild"), ""),
            &ours.file,
            &["issued by a leaf"],
        ),
        (
            brokers.add(
                &ours.issue("client", &HERE, authority::for_clients_alone),
                "",
            ),
            &ours.file,
            &["not meant for servers"],
        ),
    ];
    let well = brokers.add(&good, "");
    let asking = brokers.add(&good, &asks);
    let mosquitto = Mosquitto::start_with(folder.path(), &brokers.lines, "");
    let url = |port: u16| format!("mqtts://localhost:{port}");
    let mut failures = Vec::new();
    let mut check = |said: &str, words: &[&str]| {
        if !words.iter().all(|word| said.contains(word)) {
            failures.push(format!("{words:?}: {said}"));
        }
    };
    for (port, ca, words) in shown {
        check(&said(&url(port), ca, None), words);
    }

    // our own files
    let text = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let missing = folder.path().join("missing.pem");
    let empty = text("empty.pem", "no certificate\n");
    let locked = text(
        "locked.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let alice = ours.issue("alice", &[], |_| {});
    let bob = ours.issue("bob", &[], |_| {});
    check(
        &said(&url(well), &missing, None),
        &["cannot read", "missing.pem", "`mqtt.ca_file`"],
    );
    check(
        &said(&url(well), &empty, None),
        &["empty.pem", "no certificate in PEM"],
    );
    check(
        &said(&url(well), &good.cert, None),
        &["good.pem", "holds a leaf", "authority"],
    );
    check(
        &said(&url(well), &ours.file, Some((&alice.cert, &bob.key))),
        &["bob.key", "is not the key of", "alice.pem"],
    );
    check(
        &said(&url(well), &ours.file, Some((&alice.cert, &locked))),
        &["locked.key", "encrypted"],
    );
    check(
        &said(&url(well), &ours.file, Some((&alice.cert, &empty))),
        &["empty.pem", "no private key"],
    );

    // what the broker says of ours
    check(
        &said(&url(asking), &ours.file, None),
        &["without a certificate", "`mqtt.cert_file`"],
    );
    let stranger = theirs.issue("stranger", &[], |_| {});
    let pair = |of: &'_ Issued| (of.cert.clone(), of.key.clone());
    for (own, cause) in [
        (pair(&stranger), "no authority"),
        (
            pair(&ours.issue("over", &[], authority::expired)),
            "expired",
        ),
    ] {
        let own = (own.0.as_path(), own.1.as_path());
        let name = own.0.file_name().unwrap().to_str().unwrap().to_owned();
        check(
            &said(&url(asking), &ours.file, Some(own)),
            &["does not take the certificate", &name, cause],
        );
    }

    // the wrong kind of port
    check(
        &said(&url(mosquitto.port), &ours.file, None),
        &["plain MQTT on this port", "`mqtt://`"],
    );
    let plain = glowplug(&["ask", "the rain", "--node", "n1", "--broker"])
        .arg(format!("mqtt://localhost:{well}"))
        .output()
        .unwrap();
    check(
        &String::from_utf8(plain.stderr).unwrap(),
        &["speaks TLS on this port", "`mqtts://`"],
    );
    assert!(failures.is_empty(), "{failures:#?}");
}

/// A daemon that cannot come in tries for ever, and says why once.
#[test]
fn a_daemon_says_it_once_and_comes_in_when_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let good = ours.issue("good", &HERE, |_| {});
    let mut brokers = Brokers {
        lines: String::new(),
    };
    let port = brokers.add(&good, "");
    let _mosquitto = Mosquitto::start_with(folder.path(), &brokers.lines, "");
    let model = folder.path().join("model.gguf");
    tiny().write(&model).unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::copy(&good.cert, &ca).unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, glowplug_tests::world::broker::DAEMON.1).unwrap();
    let mut command = glowplug(&["serve"]);
    command
        .env("GLOWPLUG_MQTT_URL", format!("mqtts://127.0.0.1:{port}"))
        .env(
            "GLOWPLUG_MQTT_USERNAME",
            glowplug_tests::world::broker::DAEMON.0,
        )
        .env("GLOWPLUG_MODEL_CONTEXT", "256");
    let mut daemon = Daemon::run(
        command,
        &folder.path().join("state"),
        &[
            ("GLOWPLUG_MODEL_PATH", &model),
            ("GLOWPLUG_MQTT_CA_FILE", &ca),
            ("GLOWPLUG_MQTT_PASSWORD_FILE", &password),
        ],
    );
    let leaf = |line: &str| line.contains("holds a leaf").then_some(());
    daemon.line("what is wrong", leaf);
    // some tries more; how many does not matter
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.said().matches("holds a leaf").count(), 1);
    std::fs::copy(&ours.file, &ca).unwrap();
    let up = |line: &str| line.contains("connected to the broker").then_some(());
    daemon.line("that it is connected", up);
    assert_eq!(daemon.said().matches("holds a leaf").count(), 1);
}
