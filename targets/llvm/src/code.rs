//! A thin layer over LLVM's builder: values of any shape, short names, structured loops.
//!
//! Callers give operands of matching types (loop IR's are checked before), so that the builder
//! itself has nothing to complain of.

use crate::isa::Isa;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::basic_block::BasicBlock;
use inkwell::builder::Builder;
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::module::{Linkage, Module};
use inkwell::types::{BasicMetadataTypeEnum, BasicTypeEnum, VectorType};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValue, BasicValueEnum, FastMathFlags, FunctionValue,
    InstructionOpcode, ValueKind,
};
use inkwell::{AddressSpace, FloatPredicate, IntPredicate};

/// A value.
pub(crate) type Val<'c> = BasicValueEnum<'c>;
/// A type.
pub(crate) type Ty<'c> = BasicTypeEnum<'c>;

const POSITIONED: &str = "the builder stands in a block, and operands fit by construction";

/// A module under construction, at a place in it.
pub(crate) struct Code<'c> {
    pub cx: &'c Context,
    pub module: Module<'c>,
    pub isa: &'static Isa,
    builder: Builder<'c>,
}

impl<'c> Code<'c> {
    pub fn new(cx: &'c Context, name: &str, isa: &'static Isa) -> Self {
        Code { cx, module: cx.create_module(name), isa, builder: cx.create_builder() }
    }

    // ---- types ----

    pub fn i1(&self) -> Ty<'c> {
        self.cx.bool_type().into()
    }
    pub fn i8(&self) -> Ty<'c> {
        self.cx.i8_type().into()
    }
    pub fn i16(&self) -> Ty<'c> {
        self.cx.i16_type().into()
    }
    pub fn i32(&self) -> Ty<'c> {
        self.cx.i32_type().into()
    }
    pub fn i64(&self) -> Ty<'c> {
        self.cx.i64_type().into()
    }
    pub fn f32(&self) -> Ty<'c> {
        self.cx.f32_type().into()
    }
    pub fn f64(&self) -> Ty<'c> {
        self.cx.f64_type().into()
    }
    pub fn ptr(&self) -> Ty<'c> {
        self.cx.ptr_type(AddressSpace::default()).into()
    }

    /// `n` of a scalar type; the type itself if `n` is 1.
    pub fn vec(&self, scalar: Ty<'c>, n: u32) -> Ty<'c> {
        match scalar {
            _ if n == 1 => scalar,
            BasicTypeEnum::IntType(t) => t.vec_type(n).into(),
            BasicTypeEnum::FloatType(t) => t.vec_type(n).into(),
            other => other,
        }
    }

    /// A type of the same lanes as `v`.
    pub fn like(&self, v: Val<'c>, scalar: Ty<'c>) -> Ty<'c> {
        match v.get_type() {
            BasicTypeEnum::VectorType(t) => self.vec(scalar, t.get_size()),
            _ => scalar,
        }
    }

    // ---- constants ----

    pub fn int(&self, ty: Ty<'c>, v: i64) -> Val<'c> {
        match ty {
            BasicTypeEnum::VectorType(t) => {
                let one = t.get_element_type().into_int_type().const_int(v as u64, true);
                VectorType::const_vector(&vec![one; t.get_size() as usize]).into()
            }
            t => t.into_int_type().const_int(v as u64, true).into(),
        }
    }
    pub fn c64(&self, v: i64) -> Val<'c> {
        self.int(self.i64(), v)
    }
    pub fn c32(&self, v: i64) -> Val<'c> {
        self.int(self.i32(), v)
    }
    pub fn float(&self, ty: Ty<'c>, v: f64) -> Val<'c> {
        match ty {
            BasicTypeEnum::VectorType(t) => {
                let one = t.get_element_type().into_float_type().const_float(v);
                VectorType::const_vector(&vec![one; t.get_size() as usize]).into()
            }
            t => t.into_float_type().const_float(v).into(),
        }
    }
    /// A vector of integers.
    pub fn ints(&self, scalar: Ty<'c>, values: &[i64]) -> Val<'c> {
        let t = scalar.into_int_type();
        let v: Vec<_> = values.iter().map(|v| t.const_int(*v as u64, true)).collect();
        VectorType::const_vector(&v).into()
    }
    pub fn zero(&self, ty: Ty<'c>) -> Val<'c> {
        ty.const_zero()
    }

    // ---- arithmetic ----

    pub fn op(&self, op: InstructionOpcode, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.builder.build_binop(op, a, b, "").expect(POSITIONED)
    }
    pub fn add(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op(InstructionOpcode::Add, a, b)
    }
    pub fn sub(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op(InstructionOpcode::Sub, a, b)
    }
    pub fn mul(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op(InstructionOpcode::Mul, a, b)
    }
    pub fn and(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op(InstructionOpcode::And, a, b)
    }
    pub fn or(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.op(InstructionOpcode::Or, a, b)
    }
    pub fn shl(&self, a: Val<'c>, by: u32) -> Val<'c> {
        self.op(InstructionOpcode::Shl, a, self.int(a.get_type(), by.into()))
    }
    pub fn lshr(&self, a: Val<'c>, by: u32) -> Val<'c> {
        self.op(InstructionOpcode::LShr, a, self.int(a.get_type(), by.into()))
    }
    pub fn ashr(&self, a: Val<'c>, by: u32) -> Val<'c> {
        self.op(InstructionOpcode::AShr, a, self.int(a.get_type(), by.into()))
    }
    pub fn andc(&self, a: Val<'c>, mask: i64) -> Val<'c> {
        self.and(a, self.int(a.get_type(), mask))
    }
    /// Sum, difference, product or quotient of floats; products and sums may be contracted.
    pub fn float_op(&self, op: InstructionOpcode, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.flagged(self.op(op, a, b), FastMathFlags::AllowContract)
    }
    pub fn fadd(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.float_op(InstructionOpcode::FAdd, a, b)
    }
    pub fn fmul(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.float_op(InstructionOpcode::FMul, a, b)
    }
    /// `a * b + c`, rounded once where the level can: elsewhere LLVM would call a library.
    pub fn fma(&self, a: Val<'c>, b: Val<'c>, c: Val<'c>) -> Val<'c> {
        if !self.isa.fma {
            return self.fadd(self.fmul(a, b), c);
        }
        self.call("llvm.fma", &[c.get_type()], &[a, b, c])
    }
    /// Sets flags on an instruction (a folded constant has none).
    pub fn flagged(&self, v: Val<'c>, flags: FastMathFlags) -> Val<'c> {
        if let Some(i) = v.as_instruction_value() {
            // Instructions that cannot carry the flags keep none; nothing depends on them.
            let _ = i.set_fast_math_flags(flags);
        }
        v
    }
    pub fn cast(&self, op: InstructionOpcode, v: Val<'c>, to: Ty<'c>) -> Val<'c> {
        self.builder.build_cast(op, v, to, "").expect(POSITIONED)
    }
    pub fn zext(&self, v: Val<'c>, to: Ty<'c>) -> Val<'c> {
        self.cast(InstructionOpcode::ZExt, v, to)
    }
    pub fn sext(&self, v: Val<'c>, to: Ty<'c>) -> Val<'c> {
        self.cast(InstructionOpcode::SExt, v, to)
    }
    pub fn trunc(&self, v: Val<'c>, to: Ty<'c>) -> Val<'c> {
        self.cast(InstructionOpcode::Trunc, v, to)
    }
    pub fn bits(&self, v: Val<'c>, to: Ty<'c>) -> Val<'c> {
        if v.get_type() == to {
            return v;
        }
        self.builder.build_bit_cast(v, to, "").expect(POSITIONED)
    }
    /// f16 as f32, of the bits in 16-bit integers. LLVM would call a library where no instruction
    /// does it.
    pub fn f16_to_f32(&self, v: Val<'c>) -> Val<'c> {
        let floats = self.like(v, self.f32());
        if self.isa.f16 {
            let halves = self.like(v, self.cx.f16_type().into());
            return self.cast(InstructionOpcode::FPExt, self.bits(v, halves), floats);
        }
        let top = self.shl(self.zext(v, self.like(v, self.i32())), 16);
        // As the sign, exponent and mantissa of an f32 the value is too small by 2^112, also where
        // the f16, and then the f32, is subnormal.
        let small = self.andc(self.ashr(top, 3), 0x8fff_e000);
        let finite = self.fmul(self.bits(small, floats), self.float(floats, 2f64.powi(112)));
        let other = self.bits(self.or(small, self.int(small.get_type(), 0x7f80_0000)), floats);
        let infinite = self.int(top.get_type(), 0x7c00_0000);
        let is_finite = self.less(self.andc(top, 0x7fff_0000), infinite);
        self.select(is_finite, finite, other)
    }
    pub fn icmp(&self, p: IntPredicate, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        match (a, b) {
            (BasicValueEnum::VectorValue(a), BasicValueEnum::VectorValue(b)) => {
                self.builder.build_int_compare(p, a, b, "").expect(POSITIONED).into()
            }
            (a, b) => self
                .builder
                .build_int_compare(p, a.into_int_value(), b.into_int_value(), "")
                .expect(POSITIONED)
                .into(),
        }
    }
    pub fn fcmp(&self, p: FloatPredicate, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        match (a, b) {
            (BasicValueEnum::VectorValue(a), BasicValueEnum::VectorValue(b)) => {
                self.builder.build_float_compare(p, a, b, "").expect(POSITIONED).into()
            }
            (a, b) => self
                .builder
                .build_float_compare(p, a.into_float_value(), b.into_float_value(), "")
                .expect(POSITIONED)
                .into(),
        }
    }
    pub fn select(&self, c: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        match c {
            BasicValueEnum::VectorValue(c) => self.builder.build_select(c, a, b, ""),
            c => self.builder.build_select(c.into_int_value(), a, b, ""),
        }
        .expect(POSITIONED)
    }
    /// Lesser of two signed integers.
    pub fn smin(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.call("llvm.smin", &[a.get_type()], &[a, b])
    }
    /// Greater of two signed integers.
    pub fn smax(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.call("llvm.smax", &[a.get_type()], &[a, b])
    }

    // ---- vectors ----

    pub fn splat(&self, s: Val<'c>, n: u32) -> Val<'c> {
        let ty = self.vec(s.get_type(), n);
        let first = self.insert(self.undef(ty), s, 0);
        self.shuffle(first, first, &vec![0; n as usize])
    }
    pub fn undef(&self, ty: Ty<'c>) -> Val<'c> {
        ty.into_vector_type().get_poison().into()
    }
    pub fn insert(&self, v: Val<'c>, s: Val<'c>, lane: u32) -> Val<'c> {
        let at = self.cx.i32_type().const_int(lane.into(), false);
        self.builder
            .build_insert_element(v.into_vector_value(), s, at, "")
            .expect(POSITIONED)
            .into()
    }
    pub fn extract(&self, v: Val<'c>, lane: u32) -> Val<'c> {
        let at = self.cx.i32_type().const_int(lane.into(), false);
        self.builder.build_extract_element(v.into_vector_value(), at, "").expect(POSITIONED)
    }
    /// Lanes of `a` and `b` one after another, by position.
    pub fn shuffle(&self, a: Val<'c>, b: Val<'c>, lanes: &[u32]) -> Val<'c> {
        let m: Vec<i64> = lanes.iter().map(|l| i64::from(*l)).collect();
        let mask = self.ints(self.i32(), &m).into_vector_value();
        self.builder
            .build_shuffle_vector(a.into_vector_value(), b.into_vector_value(), mask, "")
            .expect(POSITIONED)
            .into()
    }
    /// `0, 1, 2, ..` in an integer type.
    pub fn iota(&self, scalar: Ty<'c>, n: u32) -> Val<'c> {
        self.ints(scalar, &(0..i64::from(n)).collect::<Vec<_>>())
    }

    // ---- memory ----

    /// `p` plus bytes.
    pub fn at(&self, p: Val<'c>, bytes: Val<'c>) -> Val<'c> {
        let (p, i) = (p.into_pointer_value(), bytes.into_int_value());
        // SAFETY: only computes an address; what is read there is the caller's concern.
        unsafe { self.builder.build_gep(self.cx.i8_type(), p, &[i], "") }.expect(POSITIONED).into()
    }
    /// `p` plus constant bytes.
    pub fn off(&self, p: Val<'c>, bytes: i64) -> Val<'c> {
        if bytes == 0 { p } else { self.at(p, self.c64(bytes)) }
    }
    /// `p` plus `i * bytes`.
    pub fn index(&self, p: Val<'c>, i: Val<'c>, bytes: i64) -> Val<'c> {
        self.at(p, self.mul(i, self.c64(bytes)))
    }
    pub fn pointer(&self, address: Val<'c>) -> Val<'c> {
        let p = self.cx.ptr_type(AddressSpace::default());
        self.builder.build_int_to_ptr(address.into_int_value(), p, "").expect(POSITIONED).into()
    }
    pub fn address(&self, p: Val<'c>) -> Val<'c> {
        let (p, t) = (p.into_pointer_value(), self.cx.i64_type());
        self.builder.build_ptr_to_int(p, t, "").expect(POSITIONED).into()
    }
    pub fn load(&self, ty: Ty<'c>, p: Val<'c>, align: u32) -> Val<'c> {
        let v = self.builder.build_load(ty, p.into_pointer_value(), "").expect(POSITIONED);
        if let Some(i) = v.as_instruction_value() {
            i.set_alignment(align).expect("a power of two");
        }
        v
    }
    /// A load of what no kernel writes.
    pub fn load_invariant(&self, ty: Ty<'c>, p: Val<'c>, align: u32) -> Val<'c> {
        let v = self.load(ty, p, align);
        if let Some(i) = v.as_instruction_value() {
            let none = self.cx.metadata_node(&[]);
            i.set_metadata(none, self.cx.get_kind_id("invariant.load")).expect("a node");
        }
        v
    }
    pub fn store(&self, v: Val<'c>, p: Val<'c>, align: u32) {
        let i = self.builder.build_store(p.into_pointer_value(), v).expect(POSITIONED);
        i.set_alignment(align).expect("a power of two");
    }
    /// Load where `mask`, 0 elsewhere.
    pub fn load_masked(&self, ty: Ty<'c>, p: Val<'c>, mask: Val<'c>) -> Val<'c> {
        self.call("llvm.masked.load", &[ty, self.ptr()], &[p, mask, self.zero(ty)])
    }
    pub fn store_masked(&self, v: Val<'c>, p: Val<'c>, mask: Val<'c>) {
        self.call_void("llvm.masked.store", &[v.get_type(), self.ptr()], &[v, p, mask]);
    }
    /// Hint that the line at `p` will be read, into the second-level cache.
    pub fn prefetch(&self, p: Val<'c>) {
        let c = |v| self.c32(v);
        self.call_void("llvm.prefetch", &[self.ptr()], &[p, c(0), c(2), c(1)]);
    }
    /// Hint that the line at `p` will be read and written, into the first-level cache.
    pub fn prefetch_near(&self, p: Val<'c>) {
        let c = |v| self.c32(v);
        self.call_void("llvm.prefetch", &[self.ptr()], &[p, c(0), c(3), c(1)]);
    }

    // ---- calls ----

    fn intrinsic(&self, name: &str, over: &[Ty<'c>]) -> FunctionValue<'c> {
        Intrinsic::find(name)
            .and_then(|i| i.get_declaration(&self.module, over))
            .expect("an intrinsic of LLVM 22")
    }
    /// An intrinsic with a result.
    pub fn call(&self, name: &str, over: &[Ty<'c>], args: &[Val<'c>]) -> Val<'c> {
        match self.call_fn(self.intrinsic(name, over), args) {
            Some(v) => v,
            None => unreachable!("callers name intrinsics with results"),
        }
    }
    /// An intrinsic of one type, its operands' bits taken as it declares them.
    pub fn call_as_declared(&self, name: &str, args: &[Val<'c>]) -> Val<'c> {
        let f = self.intrinsic(name, &[]);
        let types = f.get_type().get_param_types();
        let cast = |(v, t): (&Val<'c>, &BasicMetadataTypeEnum<'c>)| match *t {
            BasicMetadataTypeEnum::VectorType(t) => self.bits(*v, t.into()),
            _ => *v,
        };
        let args: Vec<Val> = args.iter().zip(&types).map(cast).collect();
        self.call(name, &[], &args)
    }
    /// An intrinsic without a result.
    pub fn call_void(&self, name: &str, over: &[Ty<'c>], args: &[Val<'c>]) {
        self.call_fn(self.intrinsic(name, over), args);
    }
    pub fn call_fn(&self, f: FunctionValue<'c>, args: &[Val<'c>]) -> Option<Val<'c>> {
        let args: Vec<BasicMetadataValueEnum> = args.iter().map(|v| (*v).into()).collect();
        let c = self.builder.build_call(f, &args, "").expect(POSITIONED);
        match c.try_as_basic_value() {
            ValueKind::Basic(v) => Some(v),
            ValueKind::Instruction(_) => None,
        }
    }

    // ---- functions and control ----

    /// A function without result, with the level's attributes; the builder moves into it.
    pub fn function(&self, name: &str, params: &[Ty<'c>], public: bool) -> FunctionValue<'c> {
        let params: Vec<_> = params.iter().map(|t| (*t).into()).collect();
        let linkage = if public { Linkage::External } else { Linkage::Internal };
        let ty = self.cx.void_type().fn_type(&params, false);
        let f = self.module.add_function(name, ty, Some(linkage));
        let width = (self.isa.lanes * 32).to_string();
        let strings = [
            ("target-cpu", self.isa.cpu),
            ("target-features", self.isa.features),
            ("prefer-vector-width", width.as_str()),
            ("no-builtins", ""),
        ];
        for (key, value) in strings {
            f.add_attribute(AttributeLoc::Function, self.cx.create_string_attribute(key, value));
        }
        self.mark(f, AttributeLoc::Function, "nounwind");
        // Vectors are ours to choose. Scalar loops are edges, and vectorised they would only be
        // larger; this attribute is what the vectorisers heed (the options of the passes they
        // do not).
        self.mark(f, AttributeLoc::Function, "noimplicitfloat");
        self.position(self.cx.append_basic_block(f, "entry"));
        f
    }
    /// Adds an attribute without value.
    pub fn mark(&self, f: FunctionValue<'c>, at: AttributeLoc, name: &str) {
        let kind = Attribute::get_named_enum_kind_id(name);
        f.add_attribute(at, self.cx.create_enum_attribute(kind, 0));
    }
    pub fn position(&self, b: BasicBlock<'c>) {
        self.builder.position_at_end(b);
    }
    pub fn here(&self) -> BasicBlock<'c> {
        self.builder.get_insert_block().expect(POSITIONED)
    }
    pub fn block(&self, name: &str) -> BasicBlock<'c> {
        let f = self.here().get_parent().expect("blocks stand in functions");
        self.cx.append_basic_block(f, name)
    }
    pub fn branch(&self, to: BasicBlock<'c>) {
        self.builder.build_unconditional_branch(to).expect(POSITIONED);
    }
    pub fn branch_if(&self, c: Val<'c>, yes: BasicBlock<'c>, no: BasicBlock<'c>) {
        self.builder.build_conditional_branch(c.into_int_value(), yes, no).expect(POSITIONED);
    }
    pub fn ret(&self) {
        self.builder.build_return(None).expect(POSITIONED);
    }

    /// `for i in lo..hi step step` (signed 64 bits) with carried values; gives them after the
    /// loop.
    pub fn for_loop(
        &self,
        (lo, hi, step): (Val<'c>, Val<'c>, i64),
        init: &[Val<'c>],
        body: impl FnOnce(Val<'c>, &[Val<'c>]) -> Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let (before, head) = (self.here(), self.block("head"));
        let (inside, after) = (self.block("body"), self.block("after"));
        self.branch(head);
        self.position(head);
        let phi = |ty: Ty<'c>| self.builder.build_phi(ty, "").expect(POSITIONED);
        let var = phi(self.i64());
        var.add_incoming(&[(&lo, before)]);
        let carried: Vec<_> = init
            .iter()
            .map(|v| {
                let p = phi(v.get_type());
                p.add_incoming(&[(v, before)]);
                p
            })
            .collect();
        let i = var.as_basic_value();
        self.branch_if(self.icmp(IntPredicate::SLT, i, hi), inside, after);
        self.position(inside);
        let now: Vec<Val> = carried.iter().map(|p| p.as_basic_value()).collect();
        let next = body(i, &now);
        let last = self.here();
        var.add_incoming(&[(&self.add(i, self.c64(step)), last)]);
        for (p, v) in carried.iter().zip(&next) {
            p.add_incoming(&[(v, last)]);
        }
        self.branch(head);
        self.position(after);
        now
    }

    /// `body` if `c`.
    pub fn when(&self, c: Val<'c>, body: impl FnOnce()) {
        let (yes, after) = (self.block("then"), self.block("after"));
        self.branch_if(c, yes, after);
        self.position(yes);
        body();
        self.branch(after);
        self.position(after);
    }

    /// `a < b`, signed.
    pub fn less(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.icmp(IntPredicate::SLT, a, b)
    }
}
