//! A file that mixes formats on grids with Q4_K, through the command line.

use glowplug_tests::formats::grids::{ON_GRIDS, mixed};
use glowplug_tests::world::daemon::glowplug;
use serde_json::{Value, json};

fn json_of(args: &[&str]) -> Value {
    let mut command = glowplug(args);
    command.env("GLOWPLUG_MEMORY_BUDGET", "400000000");
    let out = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {stderr}");
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn it_is_looked_at_planned_packed_and_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, packed) = (path("mixed.gguf"), path("packed.gguf"));
    let bytes = mixed().bytes();
    std::fs::write(&model, &bytes).unwrap();

    let inspected = json_of(&["inspect", &model, "--json"]);
    assert_eq!(inspected["unsupported"], json!([]));
    for ty in ON_GRIDS {
        // each role has a type, in both layers
        assert_eq!(inspected["types"][ty.name()]["tensors"], 2, "{ty}");
    }
    let plan = json_of(&["plan", &model, "--json"]);
    assert_eq!(plan["fits"], true);
    assert_eq!(plan["lines"]["weights"], bytes.len());

    let out = glowplug(&["pack", &model, "-o", &packed]).output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    let inspected_packed = json_of(&["inspect", &packed, "--json"]);
    assert_eq!(inspected["types"], inspected_packed["types"]);

    let ask = |model: &str| {
        let args = [
            "--prompt",
            "the rain",
            "--temperature",
            "0",
            "--max-tokens",
            "12",
            "--json",
        ];
        json_of(&[&["generate", model, "--raw"], &args[..]].concat())
    };
    let (answer, same) = (ask(&model), ask(&packed));
    assert_eq!(answer["content"], same["content"]);
    assert_eq!(answer["usage"], same["usage"]);
    assert!(answer["usage"]["completion_tokens"].as_u64() > Some(0));
}
