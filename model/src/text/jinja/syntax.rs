//! What a template is made of once it is read.

use std::sync::Arc;

pub(super) type Name = Arc<str>;
pub(super) type Body = Vec<Statement>;

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: u32,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Text(Box<str>),
    Print(Expression),
    /// the bodies of `if` and of each `elif`, and that of `else`
    If(Vec<(Expression, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expression),
    /// what the body writes goes through filters into the target
    SetBlock(Target, Vec<Step>, Body),
    FilterBlock(Vec<Step>, Body),
    /// values for a scope of their own; `{% generation %}` has none
    With(Vec<(Target, Expression)>, Body),
    Macro(Arc<Macro>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) iterated: Expression,
    pub(super) condition: Option<Expression>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Name,
    pub(super) parameters: Vec<(Name, Option<Expression>)>,
    pub(super) body: Body,
    /// whether the body reads `varargs`, and so takes more arguments than it has parameters
    pub(super) varargs: bool,
    /// whether the body reads `kwargs`
    pub(super) kwargs: bool,
}

#[derive(Debug)]
pub(super) enum Target {
    Name(Name),
    /// an attribute of a namespace
    Attribute(Name, Name),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) enum Expression {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Name),
    Name(Name),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Map(Vec<(Expression, Expression)>),
    /// a value and what is done with it, one after the other
    Chain(Box<Expression>, Vec<Step>),
    Not(Box<Expression>),
    Negative(Box<Expression>),
    Positive(Box<Expression>),
    /// a text to which one is added that `safe` or `escape` made
    Escaped(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Compare(Box<Expression>, Vec<(Comparison, Expression)>),
    Arithmetic(Box<Expression>, Vec<(Operator, Expression)>),
    Concat(Vec<Expression>),
    /// condition, value, and value otherwise
    If(Box<[Expression; 2]>, Option<Box<Expression>>),
    /// the body of a call block, as a macro
    Caller(Arc<Macro>),
}

#[derive(Debug)]
pub(super) enum Step {
    Attribute(Name),
    Item(Expression),
    Slice(Box<[Option<Expression>; 3]>),
    Call(Arguments),
    Filter(Name, Arguments),
    /// a test, and whether it must fail
    Test(Name, bool, Arguments),
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expression>,
    pub(super) named: Vec<(Name, Expression)>,
    pub(super) more_positional: Option<Box<Expression>>,
    pub(super) more_named: Option<Box<Expression>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    DivideDown,
    Remainder,
    Power,
}
