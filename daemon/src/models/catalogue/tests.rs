//! The entries of the catalogue, by themselves and by their names.

use super::*;

#[test]
fn every_entry_is_whole() {
    let entries = entries().unwrap();
    let mut names: Vec<_> = entries.iter().flat_map(|e| e.names.clone()).collect();
    assert!(
        names.iter().all(|n| *n == n.to_ascii_lowercase()),
        "find() compares in lower case"
    );
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "a name stands twice");
    for entry in &entries {
        assert!(
            entry.url.ends_with(&format!("/{}", entry.file)),
            "{}",
            entry.file
        );
        // without them nothing is known of what it needs, but for architectures that have states beside pages
        assert!(
            entry.sizes.is_some() || entry.title.contains("Qwen3.5"),
            "{}",
            entry.file
        );
        assert_eq!(
            entry.bytes.is_some(),
            entry.sha256.is_some(),
            "{}: both or none",
            entry.file
        );
        if let Some(sha) = &entry.sha256 {
            assert!(
                sha.len() == 64
                    && sha
                        .bytes()
                        .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
            );
        }
        if let Some(wheel) = &entry.wheel {
            assert_eq!(
                wheel.parts > 1,
                wheel.requirement.contains("{}"),
                "{}",
                entry.file
            );
            assert!(
                entry.sha256.is_some(),
                "a wheel reports no hash to check against"
            );
        }
    }
}

#[test]
fn a_file_of_the_hub_has_an_entry_of_its_own() {
    let entry = hub_file("Org-1/some_repo.GGUF:folder/a-Q4_K_M.gguf")
        .unwrap()
        .unwrap();
    assert_eq!(entry.file, "Org-1--some_repo.GGUF--folder--a-Q4_K_M.gguf");
    assert_eq!(
        entry.url,
        format!("{HUB}/Org-1/some_repo.GGUF/resolve/main/folder/a-Q4_K_M.gguf")
    );
    assert!(
        entries()
            .unwrap()
            .iter()
            .all(|entry| entry.url.starts_with(HUB))
    );
    for name in ["smol", "a/b.gguf", "/models/x.gguf", ""] {
        assert!(hub_file(name).unwrap().is_none(), "{name}");
    }
    let long = "x".repeat(PART_MAX);
    let last = "x".repeat(FILE_MAX - 2 * PART_MAX - "----.gguf".len());
    assert!(hub_file(&format!("{long}/{long}:{last}.gguf")).is_ok());
    for (name, error) in [
        ("https://host/a:b.gguf", HubFileError::Repository),
        ("file:///etc/x.gguf", HubFileError::Repository),
        ("a:b.gguf", HubFileError::Repository),
        ("/a/b:c.gguf", HubFileError::Repository),
        ("../b:c.gguf", HubFileError::Repository),
        ("a/b/c:d.gguf", HubFileError::Repository),
        ("a/b?x:c.gguf", HubFileError::Repository),
        ("a b/c:d.gguf", HubFileError::Repository),
        ("a/é:d.gguf", HubFileError::Repository),
        (&format!("{long}x/b:c.gguf"), HubFileError::Repository),
        ("a/b:", HubFileError::File),
        ("a/b:../c.gguf", HubFileError::File),
        ("a/b:/c.gguf", HubFileError::File),
        ("a/b:c/d/e.gguf", HubFileError::File),
        ("a/b:c..gguf", HubFileError::File),
        ("a/b:.c.gguf", HubFileError::File),
        ("a/b:c.bin", HubFileError::File),
        ("a/b:c%2e.gguf", HubFileError::File),
        ("a/b:c\n.gguf", HubFileError::File),
        ("a/b:c:d.gguf", HubFileError::File),
        (&format!("a/b:{long}.gguf"), HubFileError::File),
        (&format!("{long}/{long}:{last}x.gguf"), HubFileError::Joined),
        ("a--b/c:d.gguf", HubFileError::Joined),
        ("a/b:c--d.gguf", HubFileError::Joined),
    ] {
        assert_eq!(hub_file(name).err(), Some(error), "{name}");
    }
}

#[test]
fn names_and_aliases() {
    for (name, file) in [
        ("smol", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("SmolLM2-135M", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        (
            "deepseek-r1-distill-qwen-1.5b",
            "DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf",
        ),
    ] {
        assert_eq!(find(name).unwrap().unwrap().file, file);
    }
    assert!(find("smo").unwrap().is_none());
    assert_eq!(nearest("smoll").unwrap().unwrap(), "smol");
    assert_eq!(
        nearest("deepseek").unwrap().unwrap(),
        "deepseek-r1-distill-qwen-1.5b"
    );
}
