//! The language of the e-graph: the op list with positional axes.
//!
//! A term is `(op FORM x y ..)`. The [`Form`] is a leaf that says which axes of the operands and the
//! result are the same, by labels named in order of first appearance: two applications that differ in
//! the names of indices alone are one e-node, and transposes do not exist. Beside the ops of the
//! graph IR there are `add` and `mul` (of two operands, repeated along labels that they lack).

use egg::{FromOp, Id, Language};
use ir::attr::Attr;
use ir::dim::Dim;
use ir::dtype::DType;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Sum of two operands, repeated along labels that they lack.
pub const ADD: &str = "add";
/// Product of two operands along equal labels, each element by itself.
pub const MUL: &str = "mul";
/// A block's results: the root of its term.
pub const RETURN: &str = "return";
const OWN_OPS: [&str; 3] = [ADD, MUL, RETURN];

/// An axis within a form.
pub type Label = u16;

/// Labels of a value's axes, in order.
pub type Axes = Vec<Label>;

/// The first of the labels that laws take for axes that a match has no label for.
pub const FRESH: Label = 1 << 12;

/// An attribute: index names are labels.
#[derive(Clone, Debug)]
pub enum FormAttr {
    /// One index.
    Label(Label),
    /// Several indices.
    Labels(Vec<Label>),
    /// Anything else.
    Plain(Attr),
}

/// How an op's operands, result and attributes share axes. Equal where their texts are.
#[derive(Clone, Debug)]
pub struct Form {
    text: Box<str>,
    /// Axes of each operand, the mask last.
    pub operands: Vec<Axes>,
    /// Axes of the result.
    pub result: Axes,
    /// In the order of the op's schema.
    pub attrs: Vec<FormAttr>,
    /// Extents of labels that no operand has.
    pub extents: BTreeMap<Label, Dim>,
    /// Whether the last operand is a `where` mask.
    pub masked: bool,
}

impl Form {
    /// A form without attributes.
    pub fn new(operands: &[&[Label]], result: &[Label]) -> Form {
        Form {
            text: "".into(),
            operands: operands.iter().map(|o| o.to_vec()).collect(),
            result: result.to_vec(),
            attrs: vec![],
            extents: BTreeMap::new(),
            masked: false,
        }
    }

    /// With attributes.
    pub fn with(mut self, attrs: impl IntoIterator<Item = FormAttr>) -> Form {
        self.attrs = attrs.into_iter().collect();
        self
    }

    /// With the extent of a label that no operand has.
    pub fn extent(mut self, label: Label, extent: Dim) -> Form {
        self.extents.insert(label, extent);
        self
    }

    /// `gather`: rows of `x` along `label` that an index names.
    pub fn gather(x: &[Label], index: &[Label], label: Label, result: &[Label]) -> Form {
        Form::new(&[x, index], result).with([FormAttr::Label(label)])
    }

    /// `scatter`: what stands along `chosen`, added along `into` where an index says.
    pub fn scatter(
        [index, x]: [&[Label]; 2],
        chosen: Label,
        (into, extent): (Label, Dim),
        result: &[Label],
    ) -> Form {
        let attrs = [FormAttr::Label(chosen), FormAttr::Label(into)];
        Form::new(&[index, x], result).with(attrs).extent(into, extent)
    }

    /// `concat` of two values along `along`, as one axis `into`.
    pub fn concat(
        [x, y]: [&[Label]; 2],
        along: [Label; 2],
        (into, extent): (Label, Dim),
        result: &[Label],
    ) -> Form {
        let attrs = [FormAttr::Labels(along.to_vec()), FormAttr::Label(into)];
        Form::new(&[x, y], result).with(attrs).extent(into, extent)
    }

    /// `const`: one number along axes.
    pub fn number(value: f64, axes: &[(Label, Dim)]) -> Form {
        let labels: Axes = axes.iter().map(|(label, _)| *label).collect();
        let dtype = Attr::Encoding(DType::F32.into());
        let attrs = [FormAttr::Plain(Attr::Floats(vec![value])), FormAttr::Plain(dtype)];
        let form = Form::new(&[], &labels).with(attrs);
        axes.iter().fold(form, |form, (label, extent)| form.extent(*label, extent.clone()))
    }

    /// The same relation of other axes.
    pub fn relabelled(&self, operands: &[&[Label]], result: &[Label]) -> Form {
        let (attrs, extents) = (self.attrs.clone(), self.extents.clone());
        Form { attrs, extents, masked: self.masked, ..Form::new(operands, result) }
    }

    /// Labels renamed in order of first appearance, which makes equal forms equal.
    pub fn canonical(mut self) -> Arc<Form> {
        let mut names = BTreeMap::new();
        let mut rename = |label: &mut Label| {
            let next = names.len() as Label;
            *label = *names.entry(*label).or_insert(next);
        };
        self.operands.iter_mut().flatten().for_each(&mut rename);
        self.result.iter_mut().for_each(&mut rename);
        for attr in &mut self.attrs {
            match attr {
                FormAttr::Label(label) => rename(label),
                FormAttr::Labels(labels) => labels.iter_mut().for_each(&mut rename),
                FormAttr::Plain(_) => {}
            }
        }
        let extents = std::mem::take(&mut self.extents);
        let held = |label: &Label| self.operands.iter().flatten().any(|l| l == label);
        self.extents = extents
            .into_iter()
            .filter_map(|(label, dim)| Some((*names.get(&label)?, dim)))
            .filter(|(label, _)| !held(label))
            .collect();
        self.text = self.to_text().into();
        Arc::new(self)
    }

    /// The label that an attribute names.
    pub fn label(&self, attr: usize) -> Label {
        match self.attrs.get(attr) {
            Some(FormAttr::Label(label)) => *label,
            other => unreachable!("attribute {attr} is no index: {other:?}"),
        }
    }

    /// The labels that an attribute names.
    pub fn labels(&self, attr: usize) -> &[Label] {
        match self.attrs.get(attr) {
            Some(FormAttr::Labels(labels)) => labels,
            other => unreachable!("attribute {attr} is no list of indices: {other:?}"),
        }
    }

    /// An attribute that is no index.
    pub fn plain(&self, attr: usize) -> Option<&Attr> {
        match self.attrs.get(attr) {
            Some(FormAttr::Plain(attr)) => Some(attr),
            _ => None,
        }
    }

    /// An attribute that is an extent or an offset.
    pub fn dim(&self, attr: usize) -> &Dim {
        match self.attrs.get(attr) {
            Some(FormAttr::Plain(Attr::Dim(dim))) => dim,
            other => unreachable!("attribute {attr} is no extent: {other:?}"),
        }
    }

    /// Every label, once, in order of first appearance.
    pub fn all_labels(&self) -> Axes {
        let mut all = vec![];
        for label in self.operands.iter().flatten().chain(&self.result) {
            if !all.contains(label) {
                all.push(*label);
            }
        }
        all
    }

    fn to_text(&self) -> String {
        let axes = |axes: &Axes| axes.iter().map(|l| name(*l)).collect::<String>();
        let operands: Vec<String> = self.operands.iter().map(axes).collect();
        let mut text = format!("{}->{}", operands.join(","), axes(&self.result));
        for attr in &self.attrs {
            text += &match attr {
                FormAttr::Label(label) => format!(":{}", name(*label)),
                FormAttr::Labels(labels) => format!(":[{}]", axes(labels)),
                FormAttr::Plain(Attr::Dim(dim)) => format!(":{dim}"),
                FormAttr::Plain(attr) => format!(":{attr:?}"),
            };
        }
        for (label, dim) in &self.extents {
            text += &format!(";{}={dim}", name(*label));
        }
        text + if self.masked { "?" } else { "" }
    }
}

/// Labels that have a letter.
const LETTERS: u8 = 26;

fn name(label: Label) -> String {
    match u8::try_from(label) {
        Ok(small) if small < LETTERS => char::from(b'a' + small).to_string(),
        _ => format!("<{label}>"),
    }
}

impl PartialEq for Form {
    fn eq(&self, other: &Form) -> bool {
        self.text == other.text
    }
}

impl Eq for Form {}

impl PartialOrd for Form {
    fn partial_cmp(&self, other: &Form) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Form {
    fn cmp(&self, other: &Form) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Form {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// The graph's parameter at this position.
    Param(u32),
    /// How an application's axes hang together.
    Form(Arc<Form>),
    /// An op, applied to a form and operands.
    Apply(&'static str, Box<[Id]>),
}

impl Term {
    /// The op's name, of an application.
    pub fn op(&self) -> Option<&'static str> {
        match self {
            Term::Apply(op, _) => Some(op),
            Term::Param(_) | Term::Form(_) => None,
        }
    }

    /// The form's class, and the operands.
    pub fn parts(&self) -> Option<(Id, &[Id])> {
        match self {
            Term::Apply(_, children) => children.split_first().map(|(form, rest)| (*form, rest)),
            Term::Param(_) | Term::Form(_) => None,
        }
    }
}

impl Language for Term {
    type Discriminant = (&'static str, usize);

    fn discriminant(&self) -> Self::Discriminant {
        match self {
            Term::Param(at) => ("", *at as usize),
            Term::Form(_) => ("form", 0),
            Term::Apply(op, children) => (op, children.len()),
        }
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Term::Param(a), Term::Param(b)) => a == b,
            (Term::Form(a), Term::Form(b)) => a == b,
            (Term::Apply(a, x), Term::Apply(b, y)) => a == b && x.len() == y.len(),
            _ => false,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            Term::Apply(_, children) => children,
            Term::Param(_) | Term::Form(_) => &[],
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Term::Apply(_, children) => children,
            Term::Param(_) | Term::Form(_) => &mut [],
        }
    }
}

impl FromOp for Term {
    type Error = String;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, String> {
        let own = OWN_OPS.iter().copied().find(|name| *name == op);
        let name = own.or_else(|| ir::ops::find(op).map(|op| op.name()));
        Ok(Term::Apply(name.ok_or_else(|| format!("no op '{op}'"))?, children.into()))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Param(at) => write!(f, "${at}"),
            Term::Form(form) => write!(f, "{form}"),
            Term::Apply(op, _) => write!(f, "{op}"),
        }
    }
}
