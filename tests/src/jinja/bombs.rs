//! Chat templates that would take all time and memory if they could.

/// The most bytes of a template.
const BYTES: usize = 64 << 10;

/// Templates, each with what its error says; nothing where it is only large, and may well be rendered.
pub fn template_bombs() -> Vec<(String, &'static str)> {
    let fill = |before: &str, what: &str, after: &str| {
        let count = (BYTES - before.len() - after.len()) / what.len();
        format!("{before}{}{after}", what.repeat(count))
    };
    let each = |what: &str| fill("{% set x = 'aaaa' %}", what, "{{ x|length }}");
    let often = |what: &str| {
        format!(
            "{{% set ns = namespace(x='aaaa', l=[1]) %}}{{% for i in range(9999) %}}{what}{{% endfor %}}"
        )
    };
    let deep =
        |before: &str, after: &str| format!("{}x{}", before.repeat(2000), after.repeat(2000));
    let name = "n".repeat(128);
    let name = name.as_str();
    let keys: String = (0..6000).map(|at| format!("'k{at}':1,")).collect();
    let quoted = "'a'".to_owned() + &", 'map'".repeat(9000);
    let (work, levels, within, depth, unexpected) = (
        "too much work",
        "nested too deeply",
        "within each other",
        "values within each other",
        "unexpected",
    );
    #[rustfmt::skip]
    let bombs = [
        // lists
        ("{{ range(999999999)|list|length }}".into(), "a range of more than"),
        ("{{ range(1000000000) }}".into(), "a range of more than"),
        ("{{ range(-1 * 9 ** 38, 9 ** 38) }}".into(), "a range of more than"),
        ("{{ range(99999)|join('0123456789012345678901234567890123456789' * 100) }}".into(), work),
        (often("{% set x = range(2000)|list %}"), work),
        (often("{% if 3000 in range(2000) %}{% endif %}"), work),
        (often("{{ range(2000)|last }}"), work),
        (often("{% set ns.l = ns.l + ns.l %}"), work),
        (often("{% set ns.l = ns.l * 2 %}"), work),
        (often("{% set ns.l = [ns.l, ns.l] %}"), depth),
        (often("{% set ns.l = {'a': ns.l, 'b': ns.l} %}"), depth),
        (often("{% set ns.l = ns.l[:] + ns.l[::-1] %}"), work),
        ("{{ ([1] * 999999999)|length }}{{ ([] * 999999999)|length }}".into(), work),
        ("{% set ns = namespace(l=[1]) %}{% for i in range(120) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}".into(), work),
        ("{% set ns = namespace(l=[1]) %}{% for i in range(120) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson|length }}".into(), work),
        ("{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(120) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}".into(), work),
        ("{{ range(99999)|map('string')|map('list')|map('join')|map('upper')|list|length }}".into(), work),
        ("{% set x = range(9999)|list %}{% for i in range(9999) %}{% set y = x|sort %}{% endfor %}".into(), work),
        ("{{ ([('a' * 90000)] * 9999)|sort|length }}".into(), work),
        ("{{ ([('a' * 900000)] * 9999)|unique|list|length }}".into(), work),
        ("{{ range(9999)|unique|list|length }}".into(), work),
        (format!("{{{{ 'a'|map({}) }}}}", &quoted[5..]), work),
        // maps
        (often("{% set ns.l = dict(ns.l, **{ns.x: 1}) if ns.l is mapping else {} %}{% set ns.x = ns.x ~ i %}"), work),
        ("{{ dict(range(99)|list|tojson) }}".into(), "no pairs"),
        // loops
        ("{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}".into(), work),
        ("{% for i in range(9999) %}{% for j in range(99) %}{{ j }}{% endfor %}{% endfor %}".into(), work),
        (format!("{}{}", "{% for i in 'abcdefghi' %}".repeat(50), "{% endfor %}".repeat(50)), work),
        (fill("{% for i in range(999) %}", "text", "{% endfor %}"), work),
        (fill("{% set x %}{% for i in range(999) %}", "text", "{% endfor %}{% endset %}"), work),
        (fill("", "{{ n }}", ""), ""), (fill("", "{% set a = 1 %}", ""), ""), (fill("", "a\n{#-#}", ""), ""),
        // recursion
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(), levels),
        ("{% macro m(x) %}{{ m(x[0:]) }}{{ m(x[0:]) }}{% endmacro %}{{ m(messages) }}".into(), levels),
        ("{% macro m(x) %}{% if x %}{{ m(x[1:]) }}{{ m(x[1:]) }}{% endif %}{% endmacro %}{{ m('a' * 60) }}".into(), work),
        ("{% macro a() %}{% call b() %}{{ caller() }}{% endcall %}{% endmacro %}{% macro b() %}{{ a() }}{{ caller() }}{% endmacro %}{{ a() }}".into(), levels),
        ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(), levels),
        (deep("{% if 1 %}", "{% endif %}"), within), (deep("{% for i in [1] %}", "{% endfor %}"), within),
        (fill("{% if 0 %}", "{% elif 0 %}", "{% endif %}"), ""),
        (fill("{{ ", "(", " }}"), unexpected), (fill("{{ ", "[", " }}"), unexpected), (fill("{{ ", "{1:", " }}"), "does not end"),
        (fill("{{ ", "not ", "1 }}"), within), (fill("{{ ", "-", "1 }}"), within), (fill("{{ ", "- ", "1 }}"), within),
        (fill("{{ n", "~n", " }}"), ""), (fill("{{ n", ".n", " }}"), "undefined"), (fill("{{ n", "|abs", " }}"), "abs"),
        (fill("{{ 1", " if 1 else 1", " }}"), within), (fill("{{ 1", " and 1", " }}"), ""), (fill("{{ 1", "+1", " }}"), ""),
        (fill("{{ n", "()", " }}"), "called"), (fill("{{ 'a'", "[0]", " }}"), ""), (fill("{{ 2", "**2", " }}"), "too large"),
        (fill("{{ dict(", "a=dict(", " }}"), unexpected), (fill("{% set ", "(", " %}"), unexpected), (fill("{% set a", ",a", " = 1 %}"), "iterated"),
        // doubling
        (often("{% set ns.x = ns.x ~ ns.x %}"), work), (often("{% set ns.x = ns.x + ns.x %}"), work),
        (often("{% set ns.x = ns.x * 2 %}"), work), (often("{% set ns.x = '%s%s' % (ns.x, ns.x) %}"), work),
        (often("{% set ns.x = '%s%s'|format(ns.x, ns.x) %}"), work), (often("{% set ns.x = '{}{}'.format(ns.x, ns.x) %}"), work),
        (often("{% set ns.x = '{0}{0}'.format(ns.x) %}"), work), (often("{% set ns.x = ns.x|escape ~ '<' %}"), work),
        (often("{% set ns.x = [ns.x, ns.x]|string %}"), work), (often("{% set ns.x = [ns.x, ns.x]|tojson %}"), work),
        (each("{% set x = x ~ x %}"), work), (each("{% set x %}{{ x }}{{ x }}{% endset %}"), work),
        (each("{% set x = x|join(x) %}"), work), (each("{% set x = x.join([x, x]) %}"), work),
        (each("{% set x = x|replace('a', x) %}"), work), (each("{% set x = x.replace('', x) %}"), work),
        (each("{% filter indent(x) %}{{ x }}{% endfilter %}{% set x = x ~ x %}"), work),
        (format!("{}{}{}", "{% set n = 'aaaa' %}", "{% with n = n ~ n %}".repeat(55), "{% endwith %}".repeat(55)), work),
        ("{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('aaaa') }}".into(), work),
        ("{% for x in ['a'] recursive %}{{ loop([x ~ x]) }}{% endfor %}".into(), work),
        // what holds itself
        ("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns.x }}".into(), "cannot hold"),
        ("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}".into(), "cannot hold"),
        ("{% set a = namespace() %}{% set b = namespace(a=a) %}".into(), "cannot hold"),
        ("{% macro m() %}{% endmacro %}{% set a = namespace(m=m) %}".into(), "cannot hold"),
        // numbers that are sizes
        ("{{ 'x' * 1000000000 }}".into(), work), ("{{ 1000000000 * 'x' }}".into(), work), ("{{ 2 ** 99999999 }}".into(), "too large"),
        ("{{ [1]|tojson(indent=1000000000) }}".into(), work), ("{{ [[[1]]]|tojson(indent='x' * 9000000) }}".into(), work),
        ("{{ [1, 2]|tojson(separators=('x' * 3000000, ':')) ~ [1, 2, 3, 4]|tojson(separators=('x' * 3000000, ':')) }}".into(), work),
        ("{{ 'a\nb'|indent(99999999) }}".into(), work), ("{{ 'a\nb'|indent(width=99999999) }}".into(), work),
        ("{{ '%999999999s'|format('x') }}".into(), work), ("{{ '%*d' % (999999999, 1) }}".into(), work),
        ("{{ '{:>999999999}'.format(1) }}".into(), work), ("{{ '%.999999999f' % 1 }}".into(), "digits"),
        ("{{ '{:.999999999f}'.format(1.5) }}".into(), "digits"), ("{{ '%99999999999999999999999d' % 1 }}".into(), work),
        ("{{ 'a'.center(999999999) }}{{ 'a'|center(999999999) }}".into(), work), ("{{ 'a'.zfill(999999999) }}".into(), work),
        ("{{ strftime_now('%c' * 999999)|length }}".into(), work), ("{{ 1|round(999999999) }}".into(), "round"),
        ("{{ ('a' * 900000)[::-1]|length }}{{ ('a' * 9000000)[::-1] }}".into(), work),
        ("{{ ('ab' * 99999).strip('abcdefghijklmnopqrstuvwxyz' * 9999) }}".into(), work),
        ("{% for i in range(9999) %}{{ ('a' * 90000).find('b') }}{% endfor %}".into(), work),
        ("{{ ('a ' * 900000).split()|length }}".into(), work), ("{{ ('a' * 99999).split('a')|length }}".into(), work),
        ("{{ 'a'.count('') }}{{ ('a' * 9999999).count('') }}".into(), work),
        ("{% set x = 'a' * 9999 %}{% for i in range(9999) %}{{ x[i] }}{% endfor %}".into(), work),
        // what takes long for what it makes
        (fill("{% for i in range(9999) %}{{ 1", "|abs", " }}{% endfor %}"), work),
        (fill("{% for i in range(9999) %}{{ 1", " is odd", " }}{% endfor %}"), work),
        (often(&format!("{{{{ {name}{} }}}}", format!(".{name}").repeat(100))), "undefined"),
        (format!("{{% set m = {{'{name}': 1}} %}}{}{}{}", "{% for i in 'abcdefghij' %}".repeat(50), format!("{{{{ {name} }}}}").repeat(99), "{% endfor %}".repeat(50)), work),
        (often(&format!("{{% set m = {{'{name}': 1}} %}}{}", format!("{{{{ m.{name} }}}}").repeat(200))), work),
        ("{{ ([1e300] * 9999)|map('round', 300)|list|length }}{{ ([1e300] * 9999)|map('round', 300)|list|length }}{{ ([1e300] * 9999)|map('round', 300)|list|length }}".into(), work),
        (often("{{ '%.999e' % 1e-300 }}"), work), (often("{{ '%.999g' % 5e-324 }}"), work), (often("{{ '%.0f' % 1e308 }}{{ '{:.999f}'.format(1e308) }}"), work),
        ("{{ ('%d' * 99999)|format(*range(99999))|length }}".into(), work),
        (format!("{{% set m = {{{keys}}} %}}{{{{ ('{{zz}}' * 60000).format(zz=1, **m)|length }}}}"), work),
        ("{% set x = 'é' * 500000 %}{% for i in range(9999) %}{{ x.isalnum() }}{{ x.islower() }}{{ x.istitle }}{% endfor %}".into(), work),
        ("{% set x = 'é' * 500000 %}{% for i in range(9999) %}{{ x is lower }}{% endfor %}".into(), work),
        ("{% set x = 'ab' * 500000 %}{% for i in range(9999) %}{{ x.splitlines()|length }}{{ x.split()|length }}{% endfor %}".into(), work),
        ("{% set x = 'ab' * 500000 %}{% for i in range(9999) %}{{ x.find('aab') }}{{ x.count('aab') }}{{ 'aab' in x }}{% endfor %}".into(), work),
        ("{% set x = 'ab' * 500000 %}{% for i in range(9999) %}{{ x[-1] }}{{ x[999999] }}{% endfor %}".into(), work),
        ("{% set x = 'a ' * 200000 %}{% for i in range(9999) %}{{ x|title|length }}{{ x.title()|length }}{{ x.swapcase()|length }}{% endfor %}".into(), work),
        ("{% set x = '\x01' * 100000 %}{% for i in range(9999) %}{{ [x] is lower }}{{ x|tojson|length }}{% endfor %}".into(), work),
        ("{% set x = 'é' * 100000 %}{% for i in range(9999) %}{{ x|tojson(ensure_ascii=true)|length }}{% endfor %}".into(), work),
        ("{% set x = '<' * 100000 %}{% for i in range(9999) %}{{ ('a'|safe + x)|length }}{% endfor %}".into(), work),
        ("{% set x = 'k' * 900000 %}{% set m = {x: 1} %}{% for i in range(9999) %}{{ m[x] }}{% endfor %}".into(), work),
        (often("{{ strftime_now('%c%c%c%c%c%c%c%c') }}"), work),
        (often("{{ 'a'.b.c if 0 else ns.x.upper().lower().strip().title().swapcase() }}"), work),
        // the source, and what is asked of it when it is read
        ("{{ 1 }}".repeat(150_000), "the limit is"), (deep("(", ")"), ""), (format!("{{{{ {} }}}}", deep("(", ")")), within),
        (often("{% set ns.x = ns.x ~ ns.x %}<tool_call>"), work),
        // other templates
        ("{% extends 'x' %}".into(), "not supported"), ("{% import 'x' as y %}".into(), "not supported"),
        ("{% block x %}{% endblock %}".into(), "not supported"), ("{% include 'chat_template' %}".into(), "not supported"),
    ];
    bombs.into()
}
