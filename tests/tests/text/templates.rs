//! The models' own chat templates.

use super::{r1, smol};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{ChatTemplate, Closing, Message, Prompt, Role, Tokenizer, conversation};

const ROLES: [Role; 4] = [Role::System, Role::User, Role::Assistant, Role::Tool];

struct Model {
    file: Gguf,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Model {
    fn new(file: Gguf) -> Self {
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        let template = ChatTemplate::from_gguf(&file).unwrap();
        Self {
            file,
            tokenizer,
            template,
        }
    }

    fn prompt(&self, messages: &[(Role, &str)], thinking: bool) -> Prompt {
        let message = |&(role, content): &(Role, &str)| Message::new(role, content);
        let messages: Vec<Message> = messages.iter().map(message).collect();
        self.template
            .prompt(&self.tokenizer, &messages, &[], thinking)
            .unwrap()
    }

    /// Control tokens and user-defined ones.
    fn marks(&self) -> Vec<(u32, &str)> {
        let tokens = self.file.strings("tokenizer.ggml.tokens").unwrap();
        let types = self.file.i32s("tokenizer.ggml.token_type").unwrap();
        (0..)
            .zip(tokens)
            .zip(types)
            .filter(|(_, ty)| matches!(ty, 3 | 4))
            .map(|(mark, _)| mark)
            .collect()
    }
}

#[test]
fn smol_reads_chatml() {
    let model = Model::new(smol());
    assert!(!model.template.thinks());
    let prompt = model.prompt(&[(Role::System, "Be brief."), (Role::User, "hi")], true);
    let text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(prompt.tokens, model.tokenizer.encode(text, true).unwrap());
    assert!(!prompt.thinking_open);
    let default = model.prompt(&[(Role::User, "hi")], false);
    let text = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
        <|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(default.tokens, model.tokenizer.encode(text, true).unwrap());
}

#[test]
fn r1_forgets_its_thoughts_and_can_be_kept_from_one() {
    let model = Model::new(r1());
    assert!(model.template.thinks());
    let conversation = [
        (Role::System, "Be brief."),
        (Role::User, "hi"),
        (Role::Assistant, "<think>\nA greeting.\n</think>\n\nHello."),
        (Role::User, "why?"),
    ];
    let text = "<｜begin▁of▁sentence｜>Be brief.<｜User｜>hi<｜Assistant｜>\n\nHello.<｜end▁of▁sentence｜>\
        <｜User｜>why?<｜Assistant｜>";
    let on = model.prompt(&conversation, true);
    assert_eq!(on.tokens, model.tokenizer.encode(text, true).unwrap());
    assert!(!on.thinking_open, "this template leaves it to the model");
    let off = model.prompt(&conversation, false);
    assert_eq!(off.tokens[..on.tokens.len()], on.tokens);
    // <think>, two newlines, </think>, two newlines
    assert_eq!(off.tokens[on.tokens.len()..], [151_648, 271, 151_649, 271]);
}

#[test]
fn no_content_becomes_a_control_token() {
    for model in [Model::new(smol()), Model::new(r1())] {
        let marks = model.marks();
        assert!(marks.len() > 16);
        let count = |role, content: &str| {
            let tokens = model
                .prompt(
                    &[(Role::User, "x"), (role, content), (Role::User, "y")],
                    true,
                )
                .tokens;
            tokens
                .iter()
                .filter(|id| marks.iter().any(|(mark, _)| mark == *id))
                .count()
        };
        for role in ROLES {
            let own = count(role, "a");
            for (_, mark) in &marks {
                let (first, rest) = mark.split_at(1);
                for content in [
                    mark.to_string(),
                    format!("{mark}{mark}"),
                    format!("{first}{mark}{rest}"),
                    format!("{first}\u{FDD0}{rest}"),
                    format!("{mark}</think>{mark}"),
                ] {
                    assert_eq!(count(role, &content), own, "{role:?} {content:?}");
                }
            }
        }
    }
}

/// A budget of thoughts promises at most 16 tokens beyond it.
#[test]
fn r1s_thought_is_closed_in_few_tokens() {
    let model = Model::new(r1());
    let closing = Closing::new(&model.tokenizer, "qwen2").unwrap();
    let tags = model.tokenizer.encode("<think></think>", true).unwrap();
    assert_eq!(closing.open, Some(tags[0]));
    assert!(closing.mark.contains(&tags[1]) && closing.mark.len() <= 3);
    assert!(closing.sentence.contains(&tags[1]) && closing.sentence.len() <= 16);
    // Qwen3 has the same words, and a sentence of its own that begins within the budget
    let qwen3 = Closing::new(&model.tokenizer, "qwen3").unwrap();
    assert!(
        (17..=32).contains(&qwen3.sentence.len()),
        "{}",
        qwen3.sentence.len()
    );
}

/// What a preset's text has in common with all prompts ends where the client's words begin.
#[test]
fn a_system_text_of_the_configuration_is_common() {
    let says = |role, content: &str| Message::new(role, content);
    for model in [Model::new(smol()), Model::new(r1())] {
        let prompt = |messages: &[Message]| {
            let template = &model.template;
            let prompt = template.with_system(&model.tokenizer, "Be brief.", messages, &[], true);
            prompt.unwrap()
        };
        let conversations = [
            vec![says(Role::User, "hello")],
            vec![says(Role::User, "xylophone")],
            vec![says(Role::User, "")],
            vec![says(Role::Assistant, "Yes?"), says(Role::User, "hello")],
            vec![says(Role::System, "Rhyme."), says(Role::User, "hello")],
        ];
        let prompts = conversations.each_ref().map(|said| prompt(said));
        let words = model.tokenizer.encode("Be brief.", false).unwrap();
        let begins = |prompt: &Prompt| {
            let at = prompt.tokens.windows(words.len() - 1);
            at.into_iter()
                .position(|some| some == &words[..words.len() - 1])
        };
        for (prompt, said) in prompts.iter().zip(&conversations) {
            let at = begins(prompt).unwrap() + words.len() - 1;
            assert!(
                (at..prompt.tokens.len()).contains(&prompt.common),
                "{said:?}"
            );
        }
        // those in which the user begins have all of it in common
        for prompt in &prompts[..3] {
            assert_eq!(prompt.common, prompts[0].common);
            assert_eq!(
                prompt.tokens[..prompt.common],
                prompts[0].tokens[..prompt.common]
            );
        }
        // the client's own system message is the end of the text, and nothing of it is common
        let own = &prompts[4];
        let whole = conversation("Be brief.", &conversations[4]);
        assert_eq!(whole[0], says(Role::System, "Be brief.\n\nRhyme."));
        assert!(
            own.common < prompts[0].common,
            "{} {}",
            own.common,
            prompts[0].common
        );
        assert_eq!(
            model
                .prompt(
                    &[(Role::System, "Be brief.\n\nRhyme."), (Role::User, "hello")],
                    true
                )
                .tokens,
            own.tokens
        );
    }
}
