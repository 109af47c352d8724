//! The embedded broker behind TLS, beyond loopback, which asks its clients for certificates: Paho and Mosquitto's programs
//! come in, and who speaks something else is told so in the log.

use super::authority::{Authority, HERE};
use glowplug_tests::world::NODE;
use glowplug_tests::world::client::{Client, PATIENCE, Version};
use glowplug_tests::world::daemon::{Daemon, glowplug};
use glowplug_tests::{Real, real_model};
use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

#[test]
fn paho_and_mosquitto_rr_come_in_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let broker = authority.issue("broker", &HERE, |_| {});
    let client = authority.issue("a-client", &[], |_| {});
    let config = folder.path().join("glowplug.toml");
    let text = format!(
        "node = \"{NODE}\"\n[mqtt]\nmetrics_interval_s = 1\n[broker]\nlisten = \"0.0.0.0:0\"\n\
         tls = {{ cert_file = {:?}, key_file = {:?}, ca_file = {:?} }}\n\
         [model]\npath = {:?}\ncontext = 512\n\
         [engine]\nthreads = {{ prefill = 1, decode = 1 }}\nmax_tokens = 16\n",
        broker.cert,
        broker.key,
        authority.file,
        real_model(Real::Smol)
    );
    std::fs::write(&config, text).unwrap();
    let state = folder.path().join("state");
    let mut daemon = Daemon::serve(&config, &state, &[]);
    let port = daemon.line("where its broker is", |line| {
        let (_, address) = line.split_once("mqtts://0.0.0.0:")?;
        address.split(';').next()?.to_owned().into()
    });
    let loaded = |line: &str| line.contains("the model is loaded").then_some(());
    daemon.line("that it serves", loaded);
    let password = std::fs::read_to_string(state.join("glowplug/local-password")).unwrap();
    let password = password.trim_end();

    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/whole/clients/paho_client.py"
    );
    let out = Command::new("python3")
        .args([script, &port, password, NODE, "local"])
        .args([&authority.file, &client.cert, &client.key])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(said.trim(), "5: ok\n3.1.1: ok", "{out:?}");

    let requested = format!("glowplug/{NODE}/chat/me/request");
    let answered = format!("glowplug/{NODE}/chat/me/reply/1");
    let mosquitto_rr = |certificate: bool| {
        let mut rr = Command::new("mosquitto_rr");
        rr.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-u",
            "local",
            "-P",
            password,
        ])
        .args(["-i", "me", "-V", "mqttv5", "-q", "1", "-W", "180"])
        .args(["-t", &requested, "-e", &answered, "--cafile"])
        .arg(&authority.file)
        .args([
            "-m",
            r#"{"messages":[{"role":"user","content":"Say hello."}],"stream":false}"#,
        ]);
        if certificate {
            rr.arg("--cert")
                .arg(&client.cert)
                .arg("--key")
                .arg(&client.key);
        }
        rr.output().unwrap()
    };
    let out = mosquitto_rr(true);
    let frame: serde_json::Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}"));
    assert_eq!(frame["object"], "chat.completion");
    assert!(!mosquitto_rr(false).status.success(), "no certificate");

    // a certificate that was renewed by another authority is shown to the next client
    let next = Authority::new(folder.path(), "next");
    let ask = |ca: &Authority| {
        glowplug(&[
            "ask",
            "Say hello.",
            "--node",
            NODE,
            "--client",
            "cli",
            "--broker",
        ])
        .arg(format!("mqtts://localhost:{port}"))
        .env("XDG_STATE_HOME", &state)
        .arg("--ca")
        .arg(&ca.file)
        .arg("--cert")
        .arg(&client.cert)
        .arg("--key")
        .arg(&client.key)
        .output()
        .unwrap()
    };
    let out = ask(&authority);
    assert!(out.status.success(), "{out:?}");
    next.issue("broker", &HERE, |_| {});
    let out = ask(&next);
    assert!(out.status.success(), "{out:?}");

    // who says nothing keeps nobody out, and only so many are waited for
    let silent: Vec<TcpStream> = (0..80)
        .map(|_| TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap())
        .collect();
    let out = ask(&next);
    assert!(out.status.success(), "{out:?}");
    let mut first = &silent[0];
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    // an end or a reset, long before the time that a handshake may take
    assert!(!matches!(first.read(&mut [0]), Ok(1..)));

    // plain MQTT is not let in, and the log says what it was
    let port = port.parse().unwrap();
    assert!(Client::connect(port, Version::V3, "me", Some(("local", password))).is_err());
    daemon.line("who speaks plain MQTT", |line| {
        line.contains("plain MQTT where the embedded broker has TLS")
            .then_some(())
    });
}
