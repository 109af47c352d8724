//! Runs a template of a hostile file within bounds.
//!
//! Fuel and a recursion limit bound the steps, as minijinja has them. They do not bound memory:
//! thirty times `{% set x = x ~ x %}` is a terabyte for a hundred steps. So every byte that a step
//! makes is paid from a second budget, the ink, before it is made, and what cannot be priced is
//! left out: filters that pad, containers within containers, inheritance. To get between the steps
//! the compiled instructions are rewritten, which is why minijinja is pinned to one version and its
//! `unstable_machinery` is on.

use super::calls::environment;
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, Vm, WhitespaceConfig};
use minijinja::machinery::{make_string_output, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Error, ErrorKind};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Longest tag, in tokens: the parser and the compiler recurse over an expression. The longest of
/// known templates has 45.
const MAX_TAG_TOKENS: usize = 256;
/// Most `elif`: each is nested in the one before.
const MAX_ELIFS: usize = 100;
/// Nesting of loops and (times four) of macro calls.
const MAX_DEPTH: usize = 100;
/// What one render may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// instructions
    pub(super) fuel: u64,
    /// bytes made on the way, the output included
    pub(super) ink: usize,
}

/// Does it compile, and without what is left out?
pub(super) fn check(source: &str) -> Result<(), Error> {
    catch_unwind(|| compile(source).map(|_| ()))
        .unwrap_or_else(|_| Err(refuse("the template engine failed")))
}

/// Renders `source` with `context`.
pub(super) fn render(source: &str, context: Value, budget: Budget) -> Result<String, Error> {
    // minijinja 2.24 panics on `[][::-1]`, and a file may know of more; nothing of it is used after
    catch_unwind(AssertUnwindSafe(|| run(source, context, budget)))
        .unwrap_or_else(|_| Err(refuse("the template engine failed")))
}

fn run(source: &str, context: Value, budget: Budget) -> Result<String, Error> {
    let instructions = compile(source)?;
    let ink = Arc::new(Ink(AtomicUsize::new(budget.ink)));
    let mut env = environment(&ink);
    env.set_fuel(Some(budget.fuel));
    env.set_recursion_limit(MAX_DEPTH);
    let (mut text, blocks) = (String::new(), BTreeMap::new());
    let mut out = make_string_output(&mut text);
    Vm::new(&env).eval(&instructions, context, &blocks, &mut out, AutoEscape::None)?;
    drop(out);
    Ok(text)
}

pub(super) const TOO_MUCH: &str = "the template makes too much text";

pub(super) fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// Bytes that may still be made.
#[derive(Debug)]
pub(super) struct Ink(AtomicUsize);

impl Ink {
    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn pay(&self, bytes: usize) -> Result<(), Error> {
        let left = self
            .left()
            .checked_sub(bytes)
            .ok_or_else(|| refuse(TOO_MUCH))?;
        self.0.store(left, Ordering::Relaxed);
        Ok(())
    }
}

/// Names of our own steps. No template can say them: they are not identifiers.
pub(super) const CONCAT: &str = "~";
pub(super) const ADD: &str = "+";
pub(super) const PAY: &str = "$";
pub(super) const FLAT: &str = "[]";
pub(super) const SCALAR: &str = "=";

fn compile(source: &str) -> Result<Instructions<'_>, Error> {
    let (syntax, white) = (
        SyntaxConfig::default,
        WhitespaceConfig {
            // as Hugging Face's transformers set Jinja2 up
            keep_trailing_newline: false,
            lstrip_blocks: true,
            trim_blocks: true,
        },
    );
    let (mut length, mut elifs) = (0, 0);
    for token in tokenize(source, false, syntax(), white) {
        length = match token?.0 {
            Token::TemplateData(_) | Token::VariableEnd | Token::BlockEnd => 0,
            // constants are multiplied when the template is compiled, where nothing is paid
            Token::Mul | Token::Pow => return Err(refuse("multiplication is not supported")),
            Token::Ident("elif") => {
                elifs += 1;
                length + 1
            }
            _ => length + 1,
        };
        if length > MAX_TAG_TOKENS || elifs > MAX_ELIFS {
            return Err(refuse("a tag is too long, or there are too many elifs"));
        }
    }
    let ast = parse(source, "chat_template", syntax(), white)?;
    let mut generator = CodeGenerator::new("chat_template", source);
    generator.compile_stmt(&ast);
    let (instructions, blocks) = generator.finish();
    if blocks.is_empty() {
        rewrite(source, &instructions)
    } else {
        Err(refuse("blocks are not supported"))
    }
}

/// Puts our own steps between those of the template, and moves the jumps accordingly.
fn rewrite<'s>(source: &'s str, old: &Instructions<'s>) -> Result<Instructions<'s>, Error> {
    let steps: Vec<Vec<Instruction<'s>>> = (0..)
        .map_while(|i| old.get(i))
        .map(guarded)
        .collect::<Result<_, _>>()?;
    let mut starts = Vec::with_capacity(steps.len() + 1);
    let mut at = 0u32;
    for step in &steps {
        starts.push(at);
        at += step.len() as u32;
    }
    starts.push(at);
    let moved = |target: &mut u32| {
        *target = *starts
            .get(*target as usize)
            .ok_or_else(|| refuse("a jump leads nowhere"))?;
        Ok::<_, Error>(())
    };
    let mut new = Instructions::new("chat_template", source);
    for mut instruction in steps.into_iter().flatten() {
        match &mut instruction {
            Instruction::Iterate(target)
            | Instruction::Jump(target)
            | Instruction::JumpIfFalse(target)
            | Instruction::JumpIfFalseOrPop(target)
            | Instruction::JumpIfTrueOrPop(target)
            | Instruction::BuildMacro(_, target, _) => moved(target)?,
            _ => {}
        }
        new.add(instruction);
    }
    Ok(new)
}

/// The same step with its price.
fn guarded<'s>(step: &Instruction<'s>) -> Result<Vec<Instruction<'s>>, Error> {
    use Instruction as I;
    // the third number is a slot of a cache of filters, this one is none
    let apply = |name, args| I::ApplyFilter(name, Some(args), !0);
    Ok(match step {
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::StringConcat => vec![apply(CONCAT, 2)],
        I::Add => vec![apply(ADD, 2)],
        // these look at all of their right operand
        I::Eq | I::Ne | I::Gt | I::Gte | I::Lt | I::Lte | I::In | I::CompareAndPreserve(_) => {
            vec![apply(PAY, 1), step.clone()]
        }
        I::PerformTest(_, Some(2..), _) => vec![apply(PAY, 1), step.clone()],
        I::Slice => vec![step.clone(), apply(PAY, 1)],
        I::BuildList(Some(_)) | I::BuildMap(_) => vec![step.clone(), apply(FLAT, 1)],
        // below the value lies the namespace
        I::SetAttr(_) => vec![I::Swap, apply(SCALAR, 1), I::Swap, step.clone()],
        I::BuildList(None) | I::UnpackLists(_) => {
            return Err(refuse("unpacking with * is not supported"));
        }
        I::Include(_) | I::LoadBlocks | I::ExportLocals | I::CallBlock(_) | I::FastSuper => {
            return Err(refuse("other templates and blocks are not supported"));
        }
        _ => vec![step.clone()],
    })
}
