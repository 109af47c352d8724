//! All tools of the daemon's own, and who may use which.

use std::sync::Arc;

use super::definition::{Definition, Definitions};

/// The owner's tools, and those that were made of catalogues. The owner's come first, and their names are theirs alone.
#[derive(Debug, Default)]
pub struct Toolbox {
    written: Definitions,
    found: Definitions,
}

impl Toolbox {
    #[must_use]
    pub fn new(written: &[Arc<Definition>]) -> Self {
        Self {
            written: written.to_vec(),
            found: Vec::new(),
        }
    }

    /// Takes the tools of the catalogues as they are now.
    pub fn found(&mut self, found: Vec<Definition>) {
        let is_new = |tool: &Definition| {
            let mut written = self.written.iter();
            !written.any(|written| written.tool.name() == tool.tool.name())
        };
        self.found = found.into_iter().filter(is_new).map(Arc::new).collect();
    }

    /// The tools that a client may use.
    #[must_use]
    pub fn allowed(&self, client: &str) -> Definitions {
        let all = self.written.iter().chain(&self.found);
        all.filter(|tool| tool.is_for(client)).cloned().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::tools::definition::Written;

    fn tool(name: &str, clients: &[&str]) -> Definition {
        let written = Written {
            name: name.to_owned(),
            topic: format!("a/{name}"),
            clients: clients.iter().map(|c| (*c).to_owned()).collect(),
            ..Written::default()
        };
        Definition::new(written, "base").unwrap()
    }

    #[test]
    fn a_found_tool_takes_no_name_of_the_owners() {
        let mut toolbox = Toolbox::new(&[Arc::new(tool("a", &["x"])), Arc::new(tool("b", &[]))]);
        toolbox.found(vec![tool("b", &["*"]), tool("c", &["*"])]);
        let names = |client: &str| {
            let names = toolbox.allowed(client);
            names
                .iter()
                .map(|t| t.tool.name().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (names("x"), names("y")),
            (vec!["a".into(), "c".into()], vec!["c".to_owned()])
        );
    }
}
