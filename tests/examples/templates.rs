//! Templates of models against Jinja2, and how long hostile ones take.
//!
//! `templates FOLDER` renders each `*.jinja` of a folder with the conversations of `vectors/jinja`; `tests/templates.sh` gives it
//! llama.cpp's collection. `templates time` runs the bombs and prints the milliseconds and the memory of each.

use glowplug_model::text::{ChatTemplate, Jinja, Message, Role, Tokenizer};
use glowplug_tests::{
    Counting, conversations, messages, r1_vocabulary, render_both, template_bombs, tools,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("time") => time(),
        Some(folder) => compare(folder.as_ref()),
        None => Err("usage: templates FOLDER | templates time".into()),
    }
}

fn compare(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut templates = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jinja")
        {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            templates.push((name.into_owned(), std::fs::read_to_string(&path)?));
        }
    }
    templates.sort();
    let contexts = conversations();
    let (mut equal, mut failed) = (BTreeMap::new(), 0);
    let mut refused = 0;
    for one in render_both(&templates, &contexts) {
        if one.agrees() {
            *equal.entry(one.template).or_insert(0) += 1;
            continue;
        }
        let title = &contexts[one.context]["title"];
        let differ = match (&one.ours, &one.jinja) {
            (Ok(ours), Ok(theirs)) => {
                let same = ours
                    .chars()
                    .zip(theirs.chars())
                    .take_while(|(a, b)| a == b)
                    .count();
                let from = |text: &str| {
                    text.chars()
                        .skip(same.saturating_sub(20))
                        .take(60)
                        .collect::<String>()
                };
                format!("{:?} instead of {:?}", from(ours), from(theirs))
            }
            (Err(why), Ok(_)) => format!("fails: {why}"),
            (Ok(_), Err(why)) => format!("renders where Jinja2 fails: {why}"),
            (Err(_), Err(_)) => String::new(),
        };
        println!("{} {title}: {differ}", one.template);
    }
    for (name, source) in &templates {
        let whole = equal.get(name) == Some(&contexts.len());
        match Jinja::new(source) {
            Err(why) => {
                refused += 1;
                println!("{name} is refused: {why}");
            }
            Ok(_) => failed += usize::from(!whole),
        }
    }
    itself(&templates, &contexts)?;
    println!(
        "{} of {} templates render {} conversations as Jinja2 does, {refused} are refused, {failed} differ",
        templates.len() - refused - failed,
        templates.len(),
        contexts.len()
    );
    if failed > 0 {
        Err("templates differ".into())
    } else {
        Ok(())
    }
}

/// Prints what each template does with tools by itself: the daemon's prompt is then what Jinja2 makes of the conversation.
fn itself(templates: &[(String, String)], contexts: &[Value]) -> Result<(), Box<dyn Error>> {
    let file = r1_vocabulary();
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let named = |title: &str| {
        contexts
            .iter()
            .position(|context| context["title"] == title)
    };
    let kinds = [
        (
            "offers tools",
            ["tools offered", "tools and a system message"],
        ),
        ("writes calls", ["a call with a map", "a call with a text"]),
    ];
    let mut contexts = contexts.to_vec();
    for context in &mut contexts {
        context["bos_token"] = "<｜begin▁of▁sentence｜>".into();
        context["eos_token"] = "<｜end▁of▁sentence｜>".into();
    }
    let rendered = render_both(templates, &contexts);
    for (name, source) in templates {
        let Ok(template) = ChatTemplate::given(source, &file) else {
            continue;
        };
        let mut says = Vec::new();
        for (what, titles) in kinds {
            let same = titles.iter().filter_map(|title| named(title)).any(|at| {
                let jinja = rendered
                    .iter()
                    .find(|one| one.template == *name && one.context == at);
                let jinja = jinja.and_then(|one| one.jinja.as_ref().ok());
                let jinja = jinja.and_then(|text| tokenizer.encode(text, true).ok());
                let context = &contexts[at];
                let ours = template.prompt(&tokenizer, &messages(context), &tools(context), true);
                let ours = ours.map(|prompt| prompt.tokens);
                jinja.is_some_and(|jinja| ours.is_ok_and(|ours| ours.ends_with(&jinja)))
            });
            says.extend(same.then_some(what));
        }
        println!("{name}: {}; {:?}", says.join(", "), template.calls());
    }
    Ok(())
}

fn time() -> Result<(), Box<dyn Error>> {
    let file = r1_vocabulary();
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let hello = [
        Message::new(Role::User, "hi"),
        Message::new(Role::Assistant, "ho"),
    ];
    let mut most = (0.0, 0);
    for (source, _) in template_bombs() {
        let before = ALLOCATOR.in_use();
        ALLOCATOR.peak();
        let start = Instant::now();
        let template = ChatTemplate::given(&source, &file);
        let made = template.and_then(|template| template.prompt(&tokenizer, &hello, &[], true));
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let bytes = ALLOCATOR.peak() - before;
        most = (f64::max(most.0, ms), usize::max(most.1, bytes));
        let said = made.map_or_else(
            |e| e.to_string(),
            |prompt| format!("{} tokens", prompt.tokens.len()),
        );
        let source: String = source.chars().take(60).filter(|c| *c != '\n').collect();
        println!(
            "{ms:8.2} ms {:8.1} KB  {source}  {said:.60}",
            bytes as f64 / 1e3
        );
    }
    println!("at most {:.1} ms, {:.1} MB", most.0, most.1 as f64 / 1e6);
    Ok(())
}
