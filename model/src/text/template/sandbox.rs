//! Runs a template of a hostile file within bounds.
//!
//! minijinja bounds the number of steps by fuel and a recursion limit. That does not bound memory: thirty times
//! `{% set x = x ~ x %}` makes a terabyte in a hundred steps. So every step is charged to a [`Budget`] of bytes before it makes
//! them, and what cannot be priced is left out: filters that pad, containers within containers, inheritance. To get between
//! the steps, the compiled instructions are rewritten. That is why minijinja is pinned to one version and its
//! `unstable_machinery` is on.

use super::budget::{Budget, refuse};
use super::calls::{ADD, CHARGE, CONCAT, SCALAR_ONLY, SCALARS_ONLY, environment};
use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, Vm, WhitespaceConfig};
use minijinja::machinery::{make_string_output, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Error};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Longest tag, in tokens, because the parser and the compiler recurse over an expression. The longest tag of known templates
/// has 45.
const MAX_TAG_TOKENS: usize = 256;
/// Most `elif`s, because each is nested in the one before.
const MAX_ELIFS: usize = 100;
/// Most loops within each other, and four times the most macro calls within each other.
const MAX_DEPTH: usize = 100;

/// What one render may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// instructions that may run
    pub(super) fuel: u64,
    /// bytes that are made on the way, the output included
    pub(super) bytes: usize,
}

/// Checks that a template compiles, and that it uses nothing that is left out.
pub(super) fn check(source: &str) -> Result<(), Error> {
    catch_unwind(|| compile(source).map(|_| ()))
        .unwrap_or_else(|_| Err(refuse("the template engine failed")))
}

/// Renders `source` with `context`.
pub(super) fn render(source: &str, context: Value, limits: Limits) -> Result<String, Error> {
    // minijinja 2.24 panics on `[][::-1]`, and a hostile file may know more of this kind; nothing of it is used afterwards
    catch_unwind(AssertUnwindSafe(|| run(source, context, limits)))
        .unwrap_or_else(|_| Err(refuse("the template engine failed")))
}

fn run(source: &str, context: Value, limits: Limits) -> Result<String, Error> {
    let instructions = compile(source)?;
    let mut env = environment(&Arc::new(Budget::new(limits.bytes)));
    env.set_fuel(Some(limits.fuel));
    env.set_recursion_limit(MAX_DEPTH);
    let (mut text, blocks) = (String::new(), BTreeMap::new());
    let mut out = make_string_output(&mut text);
    Vm::new(&env).eval(&instructions, context, &blocks, &mut out, AutoEscape::None)?;
    drop(out);
    Ok(text)
}

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
            // constants are multiplied when the template is compiled, where nothing is charged
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

/// Puts our own steps between those of the template, and moves the targets of jumps accordingly.
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
            // no other instruction has a target; `guarded` names them all
            _ => {}
        }
        new.add(instruction);
    }
    Ok(new)
}

/// The same step with the steps that charge for it or refuse it. Every instruction has an arm, so that one which a new
/// minijinja adds does not compile until somebody has decided what it is charged.
fn guarded<'s>(step: &Instruction<'s>) -> Result<Vec<Instruction<'s>>, Error> {
    use Instruction as I;
    // the third number is a slot in a cache of filters; this one means none
    let apply = |name, args| I::ApplyFilter(name, Some(args), !0);
    Ok(match step {
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::StringConcat => vec![apply(CONCAT, 2)],
        I::Add => vec![apply(ADD, 2)],
        // these look at all of their right operand
        I::Eq | I::Ne | I::Gt | I::Gte | I::Lt | I::Lte | I::In | I::CompareAndPreserve(_) => {
            vec![apply(CHARGE, 1), step.clone()]
        }
        I::PerformTest(_, Some(2..), _) => vec![apply(CHARGE, 1), step.clone()],
        I::Slice => vec![step.clone(), apply(CHARGE, 1)],
        I::BuildList(Some(_)) | I::BuildMap(_) => vec![step.clone(), apply(SCALARS_ONLY, 1)],
        // below the value lies the namespace
        I::SetAttr(_) => vec![I::Swap, apply(SCALAR_ONLY, 1), I::Swap, step.clone()],
        I::BuildList(None) | I::UnpackLists(_) => {
            return Err(refuse("unpacking with * is not supported"));
        }
        I::Include(_) | I::LoadBlocks | I::ExportLocals | I::CallBlock(_) | I::FastSuper => {
            return Err(refuse("other templates and blocks are not supported"));
        }
        // the function, filter or formatter that runs is charged itself, see `calls`
        I::ApplyFilter(..)
        | I::CallFunction(..)
        | I::CallMethod(..)
        | I::CallObject(_)
        | I::Emit => vec![step.clone()],
        // these make a number or a bool
        I::Sub
        | I::Mul
        | I::Div
        | I::IntDiv
        | I::Rem
        | I::Pow
        | I::Neg
        | I::Not
        | I::PerformTest(..)
        | I::IsUndefined
        | I::PushDidNotIterate => vec![step.clone()],
        // these move values that are there, or collect what was charged when it was made
        I::StoreLocal(_)
        | I::Lookup(_)
        | I::GetAttr(_)
        | I::GetItem
        | I::LoadConst(_)
        | I::BuildKwargs(_)
        | I::MergeKwargs(_)
        | I::UnpackList(_)
        | I::BeginCapture(_)
        | I::EndCapture
        | I::DupTop
        | I::DiscardTop
        | I::Swap
        | I::BuildMacro(..)
        | I::Enclose(_)
        | I::GetClosure => vec![step.clone()],
        // these choose the next step, which fuel and the recursion limit bound
        I::PushLoop(_)
        | I::PushWith
        | I::Iterate(_)
        | I::PopFrame
        | I::PopLoopFrame
        | I::Jump(_)
        | I::JumpIfFalse(_)
        | I::JumpIfFalseOrPop(_)
        | I::JumpIfTrueOrPop(_)
        | I::PushAutoEscape
        | I::PopAutoEscape
        | I::FastRecurse
        | I::Return => vec![step.clone()],
    })
}
