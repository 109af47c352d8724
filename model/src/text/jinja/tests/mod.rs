//! What the language is bounded by, and dates. What it writes is compared with Jinja2 in `tests/tests/text/jinja.rs`.

#![allow(clippy::unwrap_used)]

use super::format::strftime;
use super::*;

/// Half of what a thread has where nobody asks for more.
const STACK: usize = 1 << 20;

#[test]
fn dates_are_written_as_strftime_does() {
    let mut meter = Meter::new(1 << 20);
    let mut date = |format: &str, seconds| strftime(format, seconds, &mut meter).unwrap();
    assert_eq!(
        date("%Y-%m-%d %H:%M:%S %A", 0),
        "1970-01-01 00:00:00 Thursday"
    );
    assert_eq!(
        date("%d %b %Y, %a %-d. %B", 951_782_399),
        "28 Feb 2000, Mon 28. February"
    );
    assert_eq!(date("%F %j %u %w", 951_782_400), "2000-02-29 060 2 2");
    assert_eq!(
        date("%c|%I %p|%y|%-H|%e|%%", 1_709_251_200),
        "Fri Mar  1 00:00:00 2024|12 AM|24|0| 1|%"
    );
    assert_eq!(
        date("%D %T %R %-m %-I", 1_798_761_599),
        "12/31/26 23:59:59 23:59 12 11"
    );
    assert!(strftime("%Q", 0, &mut meter).is_err());
}

/// What recurses ends before the stack does: reading, running, writing, comparing and dropping.
#[test]
fn what_is_deep_fits_the_stack_of_a_thread() {
    let nested = |before: &str, within: &str, after: &str, levels| {
        format!("{}{within}{}", before.repeat(levels), after.repeat(levels))
    };
    let recursive = "{% macro m(x) %}{% for i in [1] %}{% if x %}{{ [m([x|list, (x,)])]|map('upper')|list }}\
        {% endif %}{% endfor %}{% endmacro %}{{ m([1]) }}";
    let grown = "{% set ns = namespace(a=[], b=[]) %}{% for i in range(LEVELS) %}{% set ns.a = [ns.a] %}\
        {% set ns.b = [ns.b] %}{% endfor %}{{ ns.a == ns.b }}{{ ns.a < ns.b }}{{ (ns.a ~ '')|length }}{{ ns.a|tojson|length }}";
    let sources = [
        (nested("{% if 1 %}", "x", "{% endif %}", 59), Some("x")),
        (nested("{% if 1 %}", "x", "{% endif %}", 60), None),
        (nested("{{ ", "1", " }}", 1), Some("1")),
        (
            format!("{{{{ {} }}}}", nested("(", "1", ")", 57)),
            Some("1"),
        ),
        (
            format!("{{{{ {} }}}}", nested("[", "1", "][0]", 57)),
            Some("1"),
        ),
        (
            format!("{{{{ {} }}}}", nested("not ", "1", "", 58)),
            Some("True"),
        ),
        (
            format!("{{{{ {} }}}}", nested("dict(a=", "1", ")", 400)),
            None,
        ),
        (recursive.to_owned(), None),
        (grown.replace("LEVELS", "120"), Some("TrueFalse242242")),
        (grown.replace("LEVELS", "200"), None),
    ];
    let run = move || {
        for (source, text) in &sources {
            let made = Jinja::new(source).and_then(|template| template.render_json("{}", 32 << 20));
            match text {
                Some(text) => assert_eq!(made.unwrap(), *text, "{source:.60}"),
                None => {
                    let why = made.unwrap_err().to_string();
                    assert!(
                        why.contains("within each other") || why.contains("nested too deeply"),
                        "{why}"
                    );
                }
            }
        }
    };
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap();
}

/// The same work is enough or not, whatever the clock says.
#[test]
fn work_is_charged_before_it_is_done() {
    let render = |source: &str, work| Jinja::new(source).unwrap().render_json("{}", work);
    let least = |source: &str| {
        (0..1 << 20)
            .step_by(64)
            .find(|work| render(source, *work).is_ok())
            .unwrap()
    };
    assert!(least("") <= 64 && least("{{ 'a' * 1000 }}") > 2000);
    assert!(least("{{ 'a' * 2000 }}") > least("{{ 'a' * 1000 }}") + 2000);
    assert_eq!(
        render("\n{{ 'a' * 1000 }}", 1000).unwrap_err().to_string(),
        "line 2: the template takes too much work"
    );
}
