//! The recipes of `cross/recipes`, as their pages say: their own configurations, access rules and programs, on Mosquitto.

use glowplug_tests::schemas::judge;
use glowplug_tests::world::broker::Mosquitto;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::daemon::{Daemon, glowplug};
use glowplug_tests::{Real, real_model};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const PASSWORD: &str = "of-everybody";

/// A recipe that runs. Fields in this order: programs go before their broker, the folder last.
struct Recipe {
    programs: Vec<Daemon>,
    daemon: Daemon,
    broker: Mosquitto,
    source: PathBuf,
    folder: TempDir,
}

impl Recipe {
    /// Starts the broker and the daemon of a recipe, and before the daemon these programs of it, each as a user.
    fn start(name: &str, users: &[&str], before: &[(&str, &str)]) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../cross/recipes")
            .join(name);
        let read = |file: &str| fs::read_to_string(source.join(file)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let known: Vec<_> = users.iter().map(|user| (*user, PASSWORD)).collect();
        let broker =
            Mosquitto::start_as(folder.path(), &known, &read("acl"), &read("mosquitto.conf"));
        let password = folder.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        let model = real_model(Real::Smol);
        let mut config = read("config.toml");
        let value = |key: &str| {
            let line = config.lines().find_map(|line| line.strip_prefix(key))?;
            line.split('"').nth(1).map(str::to_owned)
        };
        let base = value("base_topic").unwrap_or_else(|| "glowplug".to_owned());
        let status = format!("{base}/{}/status", value("node").unwrap());
        let name = config
            .lines()
            .find(|line| line.starts_with("name = "))
            .unwrap()
            .to_owned();
        for (there, here) in [
            ("127.0.0.1:1883", format!("127.0.0.1:{}", broker.port)),
            (
                "/etc/glowplug/mqtt-password",
                password.display().to_string(),
            ),
            (&*name, format!("path = \"{}\"", model.display())),
            (
                "[engine]\n",
                "[engine]\nthreads = { prefill = 1, decode = 1 }\n".to_owned(),
            ),
        ] {
            assert!(config.contains(there), "no `{there}` in {config}");
            config = config.replacen(there, &here, 1);
        }
        let file = folder.path().join("glowplug.toml");
        fs::write(&file, config).unwrap();
        let state = folder.path().join("state");
        let mut recipe = Self {
            programs: Vec::new(),
            daemon: Daemon::run(Command::new("true"), &state, &[]),
            broker,
            source,
            folder,
        };
        for (program, user) in before {
            recipe.run(program, user, &[], "");
            recipe.says("ready");
        }
        recipe.daemon = Daemon::run(
            glowplug(&["serve", "--config", file.to_str().unwrap()]),
            &state,
            &[],
        );
        // not by the name of a program: the broker lets a name in once
        let mut client = recipe.client_as("watch", users[1]);
        client.subscribe(&status);
        client.until("online", |m| (m.json()["state"] == "online").then_some(()));
        recipe
    }

    /// Starts a program of the recipe as this user, with these lines on stdin.
    fn run(&mut self, program: &str, user: &str, args: &[&str], lines: &str) {
        let path = |file: &str| self.folder.path().join(file);
        let stdin = path("stdin");
        fs::write(&stdin, lines).unwrap();
        let mut command = Command::new("sh");
        // what a program says is read on stderr
        command.args(["-c", "exec python3 \"$@\" >&2", "sh"]);
        command
            .arg(self.source.join(program))
            .args(["--user", user]);
        command.args(["--port", &self.broker.port.to_string()]);
        command.arg("--password-file").arg(path("password"));
        command
            .args(args)
            .stdin(Stdio::from(File::open(&stdin).unwrap()));
        self.programs
            .push(Daemon::run(command, &path("state"), &[]));
    }

    /// What stands behind this word, in a line of the program that was started last.
    fn says(&mut self, word: &str) -> String {
        let program = self.programs.last_mut().unwrap();
        program.line(word, |line| {
            line.strip_prefix(word).map(|rest| rest.trim().to_owned())
        })
    }

    /// The program that was started last ends by itself, and well.
    fn ends(&mut self) {
        let mut program = self.programs.pop().unwrap();
        let ended = program.ended();
        assert!(ended.success(), "{}", program.said());
    }

    fn client(&self, user: &str) -> Client {
        self.client_as(user, user)
    }

    fn client_as(&self, name: &str, user: &str) -> Client {
        Client::connect(self.broker.port, Version::V5, name, Some((user, PASSWORD))).unwrap()
    }
}

#[test]
fn a_car_sets_what_was_said_and_says_it() {
    let mut car = Recipe::start("car", &["glowplug", "voice", "drive", "body"], &[]);
    let schema = fs::read_to_string(car.source.join("command.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut body = car.client("body");
    body.subscribe("vehicle/set/#");

    // the second line breaks into the answer to the first
    car.run(
        "voice.py",
        "voice",
        &[],
        "It is cold in here.\nSwitch the dome light on.\n",
    );
    for _ in 0..2 {
        let set = car.says("set:");
        let (path, value) = set.split_once(' ').unwrap();
        let value: Value = serde_json::from_str(value).unwrap();
        let command = json!({"set": [{"path": path, "value": value}]});
        judge(&schema, &command.to_string()).unwrap();
        let topic = format!("vehicle/set/{}", path.replace('.', "/"));
        let heard = body.until(&topic, |m| (m.topic == topic).then(|| m.json()));
        assert_eq!(heard["value"], value);
    }
    car.ends();

    car.run("voice.py", "voice", &[], "Tell me about the sea.\n");
    car.says("say:");
    car.ends();

    // while it drives nobody changes the model
    car.run("drive.py", "drive", &[], "");
    car.says("ready");
    for (speed, on) in [(50, true), (0, false)] {
        let speed = json!({"value": speed}).to_string();
        body.publish(&Message::new(
            "vehicle/signal/Vehicle/Speed".to_owned(),
            speed,
        ));
        let said: Value = serde_json::from_str(&car.says("inhibit:")).unwrap();
        assert_eq!(said["inhibit"]["on"], on, "{said}");
    }
}

#[test]
fn a_house_switches_a_lamp_of_the_catalogue() {
    let users = ["glowplug", "panel", "zigbee2mqtt"];
    let mut house = Recipe::start("home", &users, &[("lamp.py", "zigbee2mqtt")]);
    house.run("panel.py", "panel", &[], "Light in the kitchen!\n");
    house.says("call:");
    house.says("result:");
    house.says("say:");
    house.ends();
    // the lamps heard it
    let lamps = ["kitchen", "hall", "heater"];
    let said = house.programs[0].said();
    assert!(
        lamps
            .iter()
            .any(|lamp| said.contains(&format!("{lamp} {{"))),
        "{said}"
    );
}

#[test]
fn a_terminal_explains_an_alarm_from_the_manual_and_writes_an_order() {
    let users = ["glowplug", "manual", "plc", "operator-panel"];
    let mut cell = Recipe::start("factory", &users, &[("manual.py", "manual")]);
    let schema = fs::read_to_string(cell.source.join("order.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    cell.run("terminal.py", "operator-panel", &["--alarms", "1"], "");
    cell.says("ready");
    let topic = "acme/plant1/packaging/line3/cell2/alarm/23".to_owned();
    cell.client("plc")
        .publish(&Message::new(topic, "sealing jaws cold".to_owned()));
    cell.says("explained:");
    judge(&schema, &cell.says("order:")).unwrap();
    let said = cell.programs[1].said();
    cell.ends();
    assert!(cell.programs[0].said().contains("searched:"), "{said}");
}
