//! Masks for one vocabulary.

use super::calls;
use super::constraint::Constraint;
use super::schema::{self, Schema};
use super::vocabulary::Vocabulary;
use super::written::{Form, Tags, Written};
use super::{Format, SchemaError, regex};
use crate::text::{Convention, TextError, Tokenizer, Tools};
use glowplug_firmware_config::limits::{CONSTRAINT_STATES_MAX, GRAMMAR_SYMBOLS_MAX};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use std::sync::Arc;
use toktrie::{InferenceCapabilities, TokEnv};

/// Within a string any of these tokens may come, so that a mask there need not look at each of them. With this one set the tables
/// of 151,936 tokens have 32 MB, and a mask within a string takes 5 µs; without 19 MB and 33 µs, with llguidance's own four
/// 71 MB and 6 µs (Intel, 2 cores).
const SLICE: &str = r#"[^"\\\x00-\x1F\x7F]{1,30}"#;

/// Compiles formats for one vocabulary. It is built once for a model and shared by its requests.
pub struct Constrainer {
    vocabulary: Arc<Vocabulary>,
    factory: ParserFactory,
}

impl Constrainer {
    /// Makes the masks' tables for a model whose logits are `vocab` long.
    ///
    /// # Errors
    /// [`TextError::Vocabulary`] if the vocabulary has no end token, or is larger than the logits.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: usize) -> Result<Self, TextError> {
        let vocabulary = Arc::new(Vocabulary::new(tokenizer, vocab)?);
        let env: TokEnv = Arc::<Vocabulary>::clone(&vocabulary);
        let capabilities = InferenceCapabilities {
            ff_tokens: true,
            ..InferenceCapabilities::default()
        };
        let mut factory = ParserFactory::new(&env, capabilities, &[SLICE.to_owned()])
            .map_err(|error| TextError::vocabulary("tokenizer.ggml.tokens", error.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = CONSTRAINT_STATES_MAX;
        limits.max_grammar_size = GRAMMAR_SYMBOLS_MAX;
        // errors would quote what was written so far
        limits.verbose_errors = false;
        Ok(Self {
            vocabulary,
            factory,
        })
    }

    /// Compiles a format, with bounded work, states and memory. It may take tens of milliseconds: not for the thread that
    /// decodes.
    ///
    /// # Errors
    /// [`SchemaError`] if the format is not one that is enforced, or is too much.
    pub fn compile(&self, format: &Format) -> Result<Constraint, SchemaError> {
        let grammar = match format {
            Format::JsonObject => TopLevelGrammar::from_json_schema(Schema::any_object().grammar()),
            Format::JsonSchema(text) => {
                TopLevelGrammar::from_json_schema(schema::read(text)?.grammar())
            }
            Format::Regex(text) => TopLevelGrammar::from_regex(&regex(text)?),
        };
        let is_json = !matches!(format, Format::Regex(_));
        self.build(grammar, is_json.then_some(Form::Whole))
    }

    /// Compiles an answer that is one to `most` calls, as `tools` wants them, and nothing else.
    ///
    /// # Errors
    /// As [`Self::compile`]; the place begins with `tools[INDEX].function.parameters`.
    pub fn compile_calls(
        &self,
        convention: Convention,
        tools: &Tools,
        most: usize,
    ) -> Result<Constraint, SchemaError> {
        let tokenizer = &self.vocabulary.tokenizer;
        let grammar = calls::answer(convention, tools, most, tokenizer)?;
        self.calls(convention, tools, grammar)
    }

    /// Compiles one call as the model writes it within an answer, from its mark or brace on. Where a call begins, the engine
    /// restarts it and gives it what [`crate::text::CallSplitter::open_call`] has.
    ///
    /// # Errors
    /// As [`Self::compile_calls`].
    pub fn compile_call(
        &self,
        convention: Convention,
        tools: &Tools,
    ) -> Result<Constraint, SchemaError> {
        let grammar = calls::within(convention, tools, &self.vocabulary.tokenizer)?;
        self.calls(convention, tools, grammar)
    }

    fn calls(
        &self,
        convention: Convention,
        tools: &Tools,
        grammar: String,
    ) -> Result<Constraint, SchemaError> {
        let form = match convention {
            Convention::Tagged => Form::Tagged(Tags::of(&tools.list)),
            _ => Form::Objects,
        };
        let built = self.build(TopLevelGrammar::from_lark(grammar), Some(form));
        built.map_err(|error| SchemaError {
            message: format!("has a schema of which {error}").replace(": ", " "),
            place: "tools".to_owned(),
        })
    }

    fn build(
        &self,
        grammar: TopLevelGrammar,
        form: Option<Form>,
    ) -> Result<Constraint, SchemaError> {
        let parser = self.factory.create_parser(grammar);
        let parser = parser.map_err(|error| refusal(&format!("{error:#}")))?;
        let matcher = Matcher::new(Ok(parser));
        let constraint = Constraint::new(matcher, &self.vocabulary, form.map(Written::new));
        constraint.map_err(|error| SchemaError::whole(error.to_string()))
    }
}

/// What the compiler says somewhere in its errors, and its place and its sentence in words of ours: those of the compiler quote what
/// it was given.
const REFUSALS: [(&str, &str, &str); 5] = [
    (
        "oneOf constraints",
        "oneOf",
        "is only enforced where it is plain that no two alternatives allow the same",
    ),
    (
        "patternProperty regexes",
        "patternProperties",
        "has two patterns that may match the same name",
    ),
    (
        "min/maxProperties",
        "maxProperties",
        "is only enforced where all `properties` are required",
    ),
    (
        "circular references",
        "$ref",
        "refers to what it is a part of, beside other keywords",
    ),
    ("Unsatisfiable", "", "allows nothing"),
];

/// Why the compiler refuses something.
fn refusal(error: &str) -> SchemaError {
    let known = REFUSALS.iter().find(|(begins, ..)| error.contains(begins));
    match known {
        Some((_, place, message)) => SchemaError {
            place: (*place).to_owned(),
            message: (*message).to_owned(),
        },
        None => SchemaError::whole("is more than the compiler takes"),
    }
}
