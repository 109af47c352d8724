//! The messages that a conversation is made of.

/// One chat message as the template sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks in this message.
    pub role: Role,
    /// The text; may be empty for an assistant.
    pub content: String,
    /// The tools that an assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// Which call this is the result of; only of a tool.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message of nothing but text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// Bytes of its text, its calls included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let calls = self.tool_calls.iter().map(ToolCall::bytes);
        let id = self.tool_call_id.as_ref().map_or(0, String::len);
        self.content.len() + id + calls.sum::<usize>()
    }
}

/// A call of a tool, as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Tells it from all other calls of its conversation; the result names it.
    pub id: String,
    /// The tool that is called.
    pub name: String,
    /// The arguments, which are the text of a JSON object.
    pub arguments: String,
}

impl ToolCall {
    /// Bytes that it costs: its text and its own size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.id.len() + self.name.len() + self.arguments.len() + size_of::<Self>()
    }
}

/// Who speaks, by OpenAI's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person who asks.
    User,
    /// The model that answers.
    Assistant,
    /// The result of a tool.
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
