//! The language of templates against Jinja2, construct by construct. `tests/templates.sh` does the same with the templates of
//! models, which are not ours to keep here.

use glowplug_model::text::Jinja;
use glowplug_tests::{conversations, render_both};

/// Templates, with a line of `=====` between them.
const CONSTRUCTS: &str = include_str!("../../vectors/jinja/constructs.txt");

#[test]
fn constructs_render_as_in_jinja() {
    let sources = CONSTRUCTS.split("\n=====\n");
    let named = sources.map(|source| (source.to_owned(), source.to_owned()));
    let templates: Vec<(String, String)> = named.collect();
    let contexts: Vec<_> = conversations()
        .into_iter()
        .filter(|context| {
            ["one question", "a call with a map"]
                .iter()
                .any(|title| context["title"] == *title)
        })
        .collect();
    assert_eq!(contexts.len(), 2);
    let rendered = render_both(&templates, &contexts);
    let wrong = rendered.iter().filter(|one| !one.agrees());
    let wrong: Vec<String> = wrong
        .map(|one| {
            format!(
                "{}\n-- ours {:?}\n-- Jinja2 {:?}\n",
                one.template, one.ours, one.jinja
            )
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        rendered.len(),
        wrong.join("\n")
    );
    // all but the last ones, which are there for their errors, say something
    let silent = rendered.iter().filter(|one| one.jinja.is_err());
    assert_eq!(
        silent.count(),
        2 * CONSTRUCTS.matches("{# fails #}").count()
    );
}

/// Conversations of all kinds through the templates that the other tests have.
#[test]
fn conversations_render_as_in_jinja() {
    let templates =
        super::tools::TEMPLATES.map(|(name, source)| (name.to_owned(), source.to_owned()));
    let rendered = render_both(&templates, &conversations());
    assert_eq!(rendered.len(), 48);
    for one in rendered {
        assert!(
            one.agrees(),
            "{} {}: {:?}\n{:?}",
            one.template,
            one.context,
            one.ours,
            one.jinja
        );
    }
}

#[test]
fn what_is_not_supported_is_named_with_its_line() {
    for (source, says) in [
        (
            "\n{% block x %}{% endblock %}",
            "line 2: the tag `block` is not supported",
        ),
        (
            "{{ 1 }}\n\n{{ 'a'|urlize }}",
            "line 3: the filter `urlize` is not supported",
        ),
        (
            "{{ 1 is escaped }}",
            "line 1: the test `escaped` is not supported",
        ),
        (
            "{{ 'a'.encode() }}",
            "line 1: the method `encode` is not supported",
        ),
        (
            "{{ lipsum() }}",
            "line 1: the function `lipsum` is not supported",
        ),
        ("{{ 1", "line 1: a tag does not end"),
        ("{% if 1 %}\n", "line 1: unexpected end of the template"),
        ("{% break %}", "line 1: `break` outside of a loop"),
    ] {
        assert_eq!(
            Jinja::new(source).unwrap_err().to_string(),
            says,
            "{source}"
        );
    }
    // as in Jinja2, it may be where it never runs
    let dormant = Jinja::new("a{% if 0 %}\n{{ 1|from_json }}{% endif %}").unwrap();
    assert_eq!(dormant.render_json("{}", 10_000).unwrap(), "a");
    let runs = Jinja::new("a{% if 1 %}\n{{ 1|from_json }}{% endif %}").unwrap();
    let error = runs.render_json("{}", 10_000).unwrap_err().to_string();
    assert_eq!(error, "line 2: the filter `from_json` is not supported");
}
