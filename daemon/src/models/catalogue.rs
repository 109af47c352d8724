//! The models that can be had by name: `daemon/catalogue.toml`, which is compiled in.

use serde::Deserialize;

/// One model of the catalogue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// The name, then its aliases.
    pub(crate) names: Vec<String>,
    pub(crate) title: String,
    pub(crate) licence: String,
    /// Its file name in the models folder.
    pub(crate) file: String,
    /// Where its public hub has the file.
    pub(crate) url: String,
    pub(crate) bytes: Option<u64>,
    /// In lower-case hexadecimal; absent where nobody could compute it from the file.
    pub(crate) sha256: Option<String>,
    /// Another way to get the file where the hub cannot be reached.
    pub(crate) wheel: Option<Wheel>,
}

/// A file that Python wheels carry in parts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    /// What to ask pip for; `{}` is the number of the part, counted from 1.
    pub(crate) requirement: String,
    pub(crate) parts: u32,
    /// How the name of the member in the wheel ends.
    pub(crate) member: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    model: Vec<Entry>,
}

/// The catalogue that was compiled in cannot be parsed. A test makes sure that this does not happen.
#[derive(Debug, thiserror::Error)]
#[error("the catalogue: {0}")]
pub(crate) struct Unreadable(#[from] toml::de::Error);

/// The whole catalogue in its own order.
pub(crate) fn entries() -> Result<Vec<Entry>, Unreadable> {
    let catalogue: Catalogue = toml::from_str(include_str!("../../catalogue.toml"))?;
    Ok(catalogue.model)
}

/// Finds the entry of a name or alias, whatever its case.
pub(crate) fn find(name: &str) -> Result<Option<Entry>, Unreadable> {
    let wanted = name.to_ascii_lowercase();
    Ok(entries()?
        .into_iter()
        .find(|entry| entry.names.contains(&wanted)))
}

/// The name in the catalogue that is most like one that is not.
pub(crate) fn nearest(name: &str) -> Result<Option<String>, Unreadable> {
    let wanted = name.to_ascii_lowercase();
    let names = entries()?.into_iter().flat_map(|entry| entry.names);
    let alike = names.map(|known| (strsim::jaro_winkler(&wanted, &known), known));
    let nearest = alike.max_by(|a, b| a.0.total_cmp(&b.0));
    Ok(nearest.map(|(_, known)| known))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
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
}
