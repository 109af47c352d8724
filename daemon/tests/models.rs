//! What the binary says of models: of files that are here, and of the catalogue's that are not.
//!
//! Needs the model `smol`: `cargo run --release -- pull smol`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};
use std::process::{Command, Stdio};

fn glowplug(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glowplug"));
    command.args(args).stdin(Stdio::null());
    command
}

/// The result of a command that must succeed, as JSON.
fn json(args: &[&str]) -> Value {
    let output = glowplug(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The path of the model that the tests run.
fn smol() -> String {
    let list = json(&["pull", "--json"]);
    let mut list = list.as_array().unwrap().iter();
    let smol = list.find(|entry| entry["name"] == "smollm2-135m").unwrap();
    assert_eq!(
        smol["present"], true,
        "run `cargo run --release -- pull smol`"
    );
    smol["path"].as_str().unwrap().to_owned()
}

#[test]
fn inspect_knows_what_is_in_the_file() {
    let inspected = json(&["inspect", &smol(), "--json"]);
    assert_eq!(inspected["bytes"], 98_362_432);
    assert_eq!(inspected["metadata"]["general.architecture"], "llama");
    assert_eq!(inspected["tensors"].as_array().unwrap().len(), 272);
    assert_eq!(inspected["types"]["Q4_1"]["tensors"], 210);
    assert_eq!(inspected["unsupported"], Value::Array(vec![]));
    // on any level its blocks have kernels, but on the one that is the definition
    let kernels = |isa: &str| match isa {
        "scalar" => "definition",
        _ => "packed",
    };
    let isa = inspected["isa"].as_str().unwrap();
    assert_eq!(inspected["speed"][0]["type"], "Q4_1");
    assert_eq!(inspected["speed"][0]["kernels"], kernels(isa));
    assert_eq!(inspected["speed"][0]["matrices"], 210);
    let plan = json(&["plan", &smol(), "--json"]);
    assert_eq!(
        inspected["plan"]["lines"]["weights"],
        plan["lines"]["weights"]
    );
    assert_eq!(inspected["served"], inspected["plan"]["fits"]);
}

#[test]
fn a_plan_needs_no_file_of_the_catalogue() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |name: &str| {
        let args = ["plan", name, "--board", "raspberry-pi-5-8g", "--json"];
        let mut command = glowplug(&args);
        let output = command
            .env("GLOWPLUG_MODELS", folder.path())
            .output()
            .unwrap();
        let plan = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code(), plan)
    };
    let (code, planned) = plan("smol");
    assert_eq!(
        (code, &planned["lines"]["weights"]),
        (Some(0), &json!(98_362_432))
    );
    assert_eq!(plan("qwen3-0.6b").0, Some(0));
    assert_eq!(plan("qwen3.5-0.8b").0, Some(0));
    for name in ["a/b:c.gguf", "a/../b:c.gguf", "nobody"] {
        assert_eq!(plan(name), (Some(2), Value::Null), "{name}");
    }
}
