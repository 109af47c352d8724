//! Reads expressions, by how closely operators bind.

use super::lexer::Token;
use super::parser::Parser;
use crate::text::jinja::filters::FILTERS;
use crate::text::jinja::meter::Result;
use crate::text::jinja::methods::NOT_SUPPORTED;
use crate::text::jinja::predicates::TESTS;
use crate::text::jinja::syntax::{Arguments, Comparison, Expression, Operator, Step};

/// Operators between two values, those that bind least first. `~` is in the second row.
static BINARY: [&[(&str, Operator)]; 4] = [
    &[("+", Operator::Add), ("-", Operator::Subtract)],
    &[],
    &[
        ("*", Operator::Multiply),
        ("/", Operator::Divide),
        ("//", Operator::DivideDown),
        ("%", Operator::Remainder),
    ],
    &[("**", Operator::Power)],
];

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    ("<=", Comparison::LessOrEqual),
    (">", Comparison::Greater),
    (">=", Comparison::GreaterOrEqual),
];

/// Jinja2's functions that are not there.
const FUNCTIONS_NOT_SUPPORTED: [&str; 3] = ["cycler", "joiner", "lipsum"];

/// Whether this is what `safe` or `escape` made, to which Python adds other texts by escaping them.
fn is_markup(value: &Expression) -> bool {
    match value {
        Expression::Chain(_, steps) => matches!(
            steps.last(),
            Some(Step::Filter(name, _)) if ["safe", "e", "escape"].contains(&&**name)
        ),
        Expression::Arithmetic(first, rest) => {
            is_markup(first) || rest.iter().any(|(_, operand)| is_markup(operand))
        }
        _ => false,
    }
}

/// Escapes the other texts of a sum in which one is markup.
fn escape_beside(first: &mut Expression, rest: &mut [(Operator, Expression)]) {
    let mut operands: Vec<&mut Expression> = vec![first];
    operands.extend(rest.iter_mut().map(|(_, operand)| operand));
    if !operands.iter().any(|operand| is_markup(operand)) {
        return;
    }
    for operand in operands.into_iter().filter(|operand| !is_markup(operand)) {
        let text = std::mem::replace(operand, Expression::None);
        *operand = Expression::Escaped(Box::new(text));
    }
}

impl Parser {
    /// Reads an expression, or several with commas between them. The words of a loop and of a condition that stand behind
    /// it are not read where it must not be a condition itself.
    pub(super) fn tuple(&mut self, conditions: bool) -> Result<Expression> {
        let one = |parser: &mut Self| match conditions {
            true => parser.expression(),
            false => parser.nested(Self::or),
        };
        let first = one(self)?;
        if !self.is(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip(",") {
            let ends = matches!(self.peek(), None | Some(Token::TagEnd)) || self.is(")");
            if ends || self.is_word("recursive") {
                break;
            }
            all.push(one(self)?);
        }
        Ok(Expression::Tuple(all))
    }

    pub(super) fn expression(&mut self) -> Result<Expression> {
        self.nested(|parser| {
            let value = parser.or()?;
            if !parser.skip_word("if") {
                return Ok(value);
            }
            let condition = parser.or()?;
            let otherwise = parser.skip_word("else");
            let otherwise = otherwise.then(|| parser.expression()).transpose()?;
            let both = Box::new([condition, value]);
            Ok(Expression::If(both, otherwise.map(Box::new)))
        })
    }

    fn or(&mut self) -> Result<Expression> {
        self.words("or", Self::and, Expression::Or)
    }

    fn and(&mut self) -> Result<Expression> {
        self.words("and", Self::not, Expression::And)
    }

    fn words(
        &mut self,
        word: &str,
        one: fn(&mut Self) -> Result<Expression>,
        all: fn(Vec<Expression>) -> Expression,
    ) -> Result<Expression> {
        let first = one(self)?;
        if !self.is_word(word) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_word(word) {
            operands.push(one(self)?);
        }
        Ok(all(operands))
    }

    fn not(&mut self) -> Result<Expression> {
        if self.skip_word("not") {
            let operand = self.nested(Self::not)?;
            return Ok(Expression::Not(Box::new(operand)));
        }
        let first = self.binary(0)?;
        let mut rest = Vec::new();
        loop {
            let found = COMPARISONS.into_iter().find(|(text, _)| self.is(text));
            let comparison = if let Some((_, comparison)) = found {
                comparison
            } else if self.is_word("in") {
                Comparison::In
            } else if self.is_word("not") && self.follows("in") {
                self.at += 1;
                Comparison::NotIn
            } else {
                break;
            };
            self.at += 1;
            rest.push((comparison, self.binary(0)?));
        }
        Ok(match rest.is_empty() {
            true => first,
            false => Expression::Compare(Box::new(first), rest),
        })
    }

    /// Whether this word comes after the next token.
    fn follows(&self, word: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some((Token::Name(next), _)) if next == word)
    }

    fn binary(&mut self, row: usize) -> Result<Expression> {
        let Some(operators) = BINARY.get(row) else {
            return self.unary(true);
        };
        let first = self.binary(row + 1)?;
        if operators.is_empty() {
            if !self.is("~") {
                return Ok(first);
            }
            let mut all = vec![first];
            while self.skip("~") {
                all.push(self.binary(row + 1)?);
            }
            return Ok(Expression::Concat(all));
        }
        let mut rest = Vec::new();
        while let Some((_, operator)) = operators.iter().find(|(text, _)| self.is(text)) {
            self.at += 1;
            rest.push((*operator, self.binary(row + 1)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut first = first;
        if row == 0 {
            escape_beside(&mut first, &mut rest);
        }
        Ok(Expression::Arithmetic(Box::new(first), rest))
    }

    fn unary(&mut self, filters: bool) -> Result<Expression> {
        let sign = ["-", "+"].into_iter().find(|sign| self.skip(sign));
        let value = match sign {
            Some(sign) => {
                let operand = Box::new(self.nested(|parser| parser.unary(false))?);
                match sign {
                    "-" => Expression::Negative(operand),
                    _ => Expression::Positive(operand),
                }
            }
            None => self.primary()?,
        };
        self.chain(value, filters)
    }

    /// Reads what is done with a value: attributes, items, calls, and where `filters` is set, filters and tests.
    fn chain(&mut self, value: Expression, filters: bool) -> Result<Expression> {
        let mut steps = Vec::new();
        let mut postfix = true;
        loop {
            if postfix && self.skip(".") {
                steps.push(match self.peek() {
                    Some(Token::Int(at)) => {
                        let at = Expression::Int(*at);
                        self.at += 1;
                        Step::Item(at)
                    }
                    _ => Step::Attribute(self.name()?),
                });
            } else if postfix && self.skip("[") {
                steps.push(self.item()?);
                self.require("]")?;
            } else if self.is("(") {
                match (&value, steps.last()) {
                    (_, Some(Step::Attribute(name))) if NOT_SUPPORTED.contains(&&**name) => {
                        return Err(self.error(format!("the method `{name}` is not supported")));
                    }
                    (Expression::Name(name), None)
                        if FUNCTIONS_NOT_SUPPORTED.contains(&&**name) =>
                    {
                        return Err(self.error(format!("the function `{name}` is not supported")));
                    }
                    _ => {}
                }
                steps.push(Step::Call(self.arguments()?));
            } else if filters && self.skip("|") {
                postfix = false;
                steps.push(self.filter()?);
            } else if filters && self.skip_word("is") {
                postfix = false;
                steps.push(self.test()?);
            } else {
                break;
            }
        }
        Ok(match steps.is_empty() {
            true => value,
            false => Expression::Chain(Box::new(value), steps),
        })
    }

    fn item(&mut self) -> Result<Step> {
        let mut bounds = [None, None, None];
        let mut slice = false;
        for (at, bound) in bounds.iter_mut().enumerate() {
            if !self.is(":") && !self.is("]") {
                *bound = Some(self.expression()?);
            }
            if at == 2 || !self.skip(":") {
                break;
            }
            slice = true;
        }
        match bounds {
            [Some(item), None, None] if !slice => Ok(Step::Item(item)),
            _ if !slice => self.unexpected(),
            bounds => Ok(Step::Slice(Box::new(bounds))),
        }
    }

    pub(super) fn filters(&mut self) -> Result<Vec<Step>> {
        let mut filters = Vec::new();
        while self.skip("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    pub(super) fn filter(&mut self) -> Result<Step> {
        let name = self.name()?;
        if !FILTERS.contains(&&*name) && self.conditions == 0 {
            return Err(self.error(format!("the filter `{name}` is not supported")));
        }
        let given = self.is("(").then(|| self.arguments()).transpose()?;
        Ok(Step::Filter(name, given.unwrap_or_default()))
    }

    fn test(&mut self) -> Result<Step> {
        let negated = self.skip_word("not");
        let name = self.name()?;
        if !TESTS.contains(&&*name) && self.conditions == 0 {
            return Err(self.error(format!("the test `{name}` is not supported")));
        }
        let mut arguments = Arguments::default();
        if self.is("(") {
            arguments = self.arguments()?;
        } else if match self.peek() {
            Some(Token::Name(word)) => {
                !["else", "or", "and", "is"].contains(&&**word) && !self.words_follow()
            }
            Some(Token::Text(_) | Token::Int(_) | Token::Float(_)) => true,
            _ => self.is("[") || self.is("{"),
        } {
            let value = self.primary()?;
            arguments
                .positional
                .push(self.nested(|parser| parser.chain(value, false))?);
        }
        Ok(Step::Test(name, negated, arguments))
    }

    /// Whether the next word goes on with the expression around a test.
    fn words_follow(&self) -> bool {
        ["if", "in", "not", "recursive"]
            .iter()
            .any(|word| self.is_word(word))
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.require("(")?;
        let mut given = Arguments::default();
        let mut any = false;
        while !self.skip(")") {
            if any {
                self.require(",")?;
                if self.skip(")") {
                    break;
                }
            }
            any = true;
            if given.more_named.is_some() {
                return self.unexpected();
            } else if self.skip("**") {
                given.more_named = Some(Box::new(self.expression()?));
            } else if given.more_positional.is_none() && self.skip("*") {
                given.more_positional = Some(Box::new(self.expression()?));
            } else if let (Some(Token::Name(name)), Some((Token::Operator("="), _))) =
                (self.peek(), self.tokens.get(self.at + 1))
            {
                let name = name.as_str().into();
                self.at += 2;
                given.named.push((name, self.expression()?));
            } else if given.named.is_empty() && given.more_positional.is_none() {
                given.positional.push(self.expression()?);
            } else {
                return self.unexpected();
            }
        }
        Ok(given)
    }

    fn primary(&mut self) -> Result<Expression> {
        let Some(token) = self.peek().cloned() else {
            return self.unexpected();
        };
        self.at += 1;
        Ok(match token {
            Token::Name(name) => match &*name {
                "true" | "True" => Expression::Bool(true),
                "false" | "False" => Expression::Bool(false),
                "none" | "None" => Expression::None,
                _ => {
                    self.varargs |= name == "varargs";
                    self.kwargs |= name == "kwargs";
                    Expression::Name(name.into())
                }
            },
            Token::Text(mut text) => {
                while let Some(Token::Text(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                Expression::Text(text.into())
            }
            Token::Int(int) => Expression::Int(int),
            Token::Float(float) => Expression::Float(float),
            Token::Operator("(") => {
                let value = match self.is(")") {
                    true => Expression::Tuple(Vec::new()),
                    false => self.tuple(true)?,
                };
                self.require(")")?;
                value
            }
            Token::Operator("[") => {
                let mut items = Vec::new();
                while !self.skip("]") {
                    if !items.is_empty() {
                        self.require(",")?;
                        if self.skip("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                Expression::List(items)
            }
            Token::Operator("{") => {
                let mut items = Vec::new();
                while !self.skip("}") {
                    if !items.is_empty() {
                        self.require(",")?;
                        if self.skip("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.require(":")?;
                    items.push((key, self.expression()?));
                }
                Expression::Map(items)
            }
            _ => {
                self.at -= 1;
                return self.unexpected();
            }
        })
    }
}
