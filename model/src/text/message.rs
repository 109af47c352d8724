//! What a conversation is made of.

/// One chat message as the template sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// who speaks
    pub role: Role,
    /// what; may be empty for an assistant turn
    pub content: String,
}

impl Message {
    /// What the user said.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            content: content.into(),
        }
    }
}

/// OpenAI's roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// instructions
    System,
    /// the person
    User,
    /// the model
    Assistant,
    /// a tool's result
    Tool,
}

impl Role {
    /// The name that templates and requests use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}
