//! The models that can be had by name: `daemon/catalogue.toml`, compiled in.

use super::failure::Failure;
use serde::Deserialize;

/// One model of the catalogue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// the name, then its aliases
    pub(crate) names: Vec<String>,
    /// for people
    pub(crate) title: String,
    /// SPDX
    pub(crate) licence: String,
    /// file name in the models folder
    pub(crate) file: String,
    /// the file on its public hub
    pub(crate) url: String,
    /// length of the file
    pub(crate) bytes: Option<u64>,
    /// lower-case hex; absent where nobody could compute it from the file
    pub(crate) sha256: Option<String>,
    /// the way round a hub that cannot be reached
    pub(crate) wheel: Option<Wheel>,
}

/// A file carried by Python wheels, in parts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    /// what to ask pip for; `{}` is the number of the part, from 1
    pub(crate) requirement: String,
    /// how many
    pub(crate) parts: u32,
    /// how the member's name ends
    pub(crate) member: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    model: Vec<Entry>,
}

/// The whole catalogue, in its order.
pub(crate) fn entries() -> Result<Vec<Entry>, Failure> {
    toml::from_str::<Catalogue>(include_str!("../../catalogue.toml"))
        .map(|catalogue| catalogue.model)
        .map_err(|error| Failure::Run(format!("the catalogue: {error}")))
}

/// The entry of a name or alias, without regard to case.
pub(crate) fn find(name: &str) -> Result<Option<Entry>, Failure> {
    let wanted = name.to_ascii_lowercase();
    Ok(entries()?
        .into_iter()
        .find(|entry| entry.names.contains(&wanted)))
}

/// The error for a name that is in no entry: it names the nearest.
pub(crate) fn unknown(name: &str) -> Failure {
    let names: Vec<String> = match entries() {
        Ok(entries) => entries.into_iter().flat_map(|entry| entry.names).collect(),
        Err(failure) => return failure,
    };
    let wanted = name.to_ascii_lowercase();
    let nearest = names
        .iter()
        .map(|known| (strsim::jaro_winkler(&wanted, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = nearest.map_or(String::new(), |(_, known)| {
        format!("; the nearest is `{known}`")
    });
    Failure::Use(format!(
        "no model `{name}` in the catalogue{hint} (`glowplug pull` lists them)"
    ))
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
        assert!(
            unknown("smoll").to_string().contains("`smol`"),
            "{}",
            unknown("smoll")
        );
        assert!(
            unknown("deepseek")
                .to_string()
                .contains("`deepseek-r1-distill-qwen-1.5b`")
        );
    }
}
