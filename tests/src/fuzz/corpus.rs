//! Inputs to begin from, made of the project's own models, kernels and files when asked for.

use super::prompts::BETWEEN;
use artifact::{Manifest, Plan, WeightsPlace, Writer};
use compiler::attest::{Asked, Resource, statement};
use compiler::certificate::text;
use compiler::compile::{code, lower};
use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::Lowered;
use compiler::options::Options;
use compiler::progress::Silent;
use ir::device::DeviceSpec;
use ir::kernel::Kernel;
use ir::kernel::parse::kernels as parse_kernels;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Longer texts make mutations rare where they count.
const LONGEST_TEXT: usize = 6 << 10;
/// Models whose graphs are small.
const MODELS: [&str; 6] =
    ["rand-llama", "rand-llama-tied", "rand-qwen2", "rand-v2", "rand-v2-lite", "rand-v3-fp8"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Files of a folder, in the order of their names.
fn files(folder: &str, extension: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == extension));
    paths.sort();
    assert!(!paths.is_empty(), "{folder} has no .{extension}");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn imported(model: &str) -> Imported {
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    let path = root().join("tests/models").join(model).join("config.json");
    import(&path, &options).unwrap_or_else(|e| panic!("{model}: {e}"))
}

/// Models, rewritten and lowered.
fn lowered() -> &'static [Lowered] {
    static LOWERED: OnceLock<Vec<Lowered>> = OnceLock::new();
    LOWERED.get_or_init(|| {
        let one = |model: &&str| {
            let program = imported(model).program;
            let lowered = lower(&program, &Options::default(), &DeviceSpec::default());
            lowered.unwrap_or_else(|e| panic!("{model}: {e}"))
        };
        ["rand-llama", "rand-v2-lite"].iter().map(one).collect()
    })
}

/// Texts of a bearable length, each once.
fn texts(all: impl IntoIterator<Item = String>) -> Vec<Vec<u8>> {
    let mut kept: Vec<Vec<u8>> = all.into_iter().map(String::into_bytes).collect();
    kept.retain(|text| text.len() <= LONGEST_TEXT);
    kept.sort();
    kept.dedup();
    kept
}

fn json(values: impl IntoIterator<Item = Value>) -> Vec<Vec<u8>> {
    values.into_iter().map(|value| value.to_string().into_bytes()).collect()
}

/// Blocks as stated and as chosen.
pub fn graphs() -> Vec<Vec<u8>> {
    let stated = MODELS.iter().flat_map(|m| imported(m).program.blocks);
    let chosen = lowered().iter().flat_map(|l| &l.certificates).map(|c| c.chosen().clone());
    let mut all = texts(stated.chain(chosen).map(|graph| graph.to_string()));
    all.extend(files("compiler/tests/graphs", "graph"));
    all
}

/// Whole programs.
pub fn programs() -> Vec<Vec<u8>> {
    MODELS[..5].iter().map(|m| imported(m).program.to_string().into_bytes()).collect()
}

/// Kernels of models, and those written by hand.
pub fn kernels() -> Vec<Vec<u8>> {
    let all = lowered().iter().flat_map(|l| &l.kernels).map(ToString::to_string);
    let mut all = texts(all);
    all.extend(files("tests/files/kernel", "kernel"));
    all
}

/// Packings of weights.
pub fn packings() -> Vec<Vec<u8>> {
    let weights = lowered().iter().flat_map(|l| &l.plan.weights);
    let own = weights.map(|w| w.packing.clone()).filter(|p| !p.is_empty());
    texts(own.chain(["[0/16, 1/2, 0:16, 1:2]".to_string()]))
}

/// Certificates of rewritings.
pub fn certificates() -> Vec<Vec<u8>> {
    let all = lowered().iter().flat_map(|l| &l.certificates);
    let mut all: Vec<String> = all.map(|c| text(std::slice::from_ref(c))).collect();
    all.sort_by_key(String::len);
    all.truncate(4);
    all.into_iter().map(String::into_bytes).collect()
}

/// Built-in devices.
pub fn devices() -> Vec<Vec<u8>> {
    files("ir/devices", "json")
}

/// Every key with values that it takes.
pub fn options() -> Vec<Vec<u8>> {
    let all = Options::default().values();
    let lines: Vec<String> = all.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let others = "compute=f32\nbf16x2=all\nkv=latent\nkv-dtype=f32\nexact\nrules=-associate,-\n";
    let mut inputs: Vec<Vec<u8>> = lines.iter().map(|line| line.clone().into_bytes()).collect();
    inputs.push(lines.join("\n").into_bytes());
    inputs.extend(others.lines().take(5).map(|line| line.as_bytes().to_vec()));
    inputs.push(b"isa=x86-64-v3,x86-64-v4\ncontext=4096\npage=1024\nform-gain=0".to_vec());
    inputs
}

/// config.json of small models and of published ones.
pub fn configs() -> Vec<Vec<u8>> {
    let models = MODELS.iter().map(|m| format!("tests/models/{m}/config.json"));
    let published = ["glm5", "qwen2-1.5b", "v2", "v2-lite", "v3"];
    let published = published.iter().map(|m| format!("tests/configs/{m}/config.json"));
    models.chain(published).map(|path| read(&path)).collect()
}

/// generation_config.json.
pub fn generations() -> Vec<Vec<u8>> {
    let whole = json!({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 50,
        "eos_token_id": [1, 2], "bos_token_id": 0, "transformers_version": "4.46.3"});
    let mut all = json([whole, json!({"eos_token_id": 1}), json!({})]);
    all.push(read("examples/models/tiny-v3/generation_config.json"));
    all
}

/// The length of a header, the header, and so many bytes behind it.
fn safetensors(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + data, 0x3c);
    file
}

/// Small safetensors files.
pub fn shards() -> Vec<Vec<u8>> {
    let tensor = |dtype: &str, shape: Value, from: u64, to: u64| {
        json!({"dtype": dtype,
        "shape": shape, "data_offsets": [from, to]})
    };
    let two = json!({"__metadata__": {"format": "pt"}, "a.weight": tensor("F32", json!([2, 3]), 0,
        24),
        "b.weight": tensor("BF16", json!([4]), 24, 32)});
    let three = json!({"q": tensor("F8_E4M3", json!([16, 2]), 0, 32), "empty": tensor("F32",
        json!([0, 7]), 32, 32),
        "scale": tensor("F32", json!([]), 32, 36)});
    vec![safetensors(&two, 32), safetensors(&three, 36), safetensors(&json!({}), 0)]
}

/// Indices of shards.
pub fn indices() -> Vec<Vec<u8>> {
    let whole: Value =
        serde_json::from_slice(&read("tests/models/rand-v3-fp8/model.safetensors.index.json"))
            .unwrap();
    let map = whole["weight_map"].as_object().unwrap();
    let some: serde_json::Map<_, _> =
        map.iter().step_by(40).map(|(key, file)| (key.clone(), file.clone())).collect();
    json([
        json!({"metadata": {"total_size": 4_000_000}, "weight_map": some}),
        json!({"weight_map": {"a": "model.safetensors"}}),
    ])
}

/// The header of a small model's only shard.
pub fn headers() -> Vec<Vec<u8>> {
    let file = read("tests/models/rand-llama/model.safetensors");
    let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    vec![file[8..8 + length].to_vec()]
}

/// A plan that has one of everything.
fn small_plan() -> Value {
    let n = json!([{"symbol": 0}]);
    let bytes = json!([{"symbol": 0}, {"const": 4}, "mul"]);
    let pages = json!([{"symbol": 0}, {"const": 64}, "ceil_div", {"const": 1}, "max", {"const": 9},
        "min",
        {"const": 2}, "floor_div", {"const": 3}, "add"]);
    let tensor = |name: &str| json!({"name": name, "dtype": "i32", "dims": [n], "bytes": bytes});
    let work = json!({"bytes": bytes, "flops": [{"const": 0}]});
    let args = json!([{"input": 0}, {"weight": 0}, {"state": {"state": 0, "layer": 1}},
        {"buffer": 0}, "null"]);
    let launch = |grid: Value| {
        json!({"launch": {"kernel": 0, "place": 0, "args": args, "grid": grid,
        "origin": "%y", "work": work}})
    };
    let steps = json!([launch(json!({"dense": n})), "barrier",
        launch(json!({"list": {"list": {"buffer": 0}, "each": [{"const": 2}]}})),
        {"copy": {"from": {"buffer": 0}, "to": {"output": 0}, "bytes": bytes}}]);
    let state = |name: &str, kind: Value| {
        json!({"name": name, "kind": kind, "layers": 2,
        "bytes_per_token": 8, "page_tokens": 16, "row": "f32[2]", "place": 0})
    };
    json!({"version": [3, 1], "symbols": ["n", "b"], "places": [{"name": "cpu", "kind": "cpu"}],
        "kernels": [{"name": "k", "family": "k{}", "params": 5, "symbols": [0],
            "scratch_bytes": 64},
            {"name": "probe", "family": "probe{}", "params": 2, "symbols": [], "scratch_bytes": 0}],
        "weights": [{"name": "w", "offset": 64, "bytes": 100, "encoding": "f32", "dims": [25],
            "packing": "", "source": ["w"], "place": 0}],
        "states": [state("k", json!("rows")), state("r", json!({"ring": {"window": 4,
            "slack": 2}})),
            state("c", json!("carry"))],
        "entries": [{"name": "forward", "inputs": [tensor("ids")], "outputs": [tensor("logits")],
            "buckets": [{"name": "all", "when": [[{"expr": n, "lo": 1, "hi": 64}]],
                "arenas": [bytes], "buffers": [{"name": "x", "place": 0, "offset": [{"const": 0}],
                    "bytes": pages}],
                "steps": steps, "forms": [{"block": "layer", "graph": "00"}]}]}],
        "probes": [{"name": "read", "kernel": 1, "bytes": 4096, "flops": 0, "instances": 1,
            "out_bytes": 64}]})
}

/// A small plan, and that of a model.
pub fn plans() -> Vec<Vec<u8>> {
    let mut all = json([small_plan()]);
    all.push(serde_json::to_vec(&lowered()[0].plan).unwrap());
    all
}

/// A manifest with something of everything.
pub fn small_manifest() -> Manifest {
    let whole = json!({"format_version": artifact::format::FORMAT_VERSION,
        "compiler_version": "0.1.0",
        "model": {"family": "deepseek_v3", "name": "tiny", "vocab_size": 512, "context_length": 64,
            "bos": [0], "eos": [1, 2], "hidden_size": 8, "layers": 2, "dtype": "bf16"},
        "targets": [{"name": "cpu", "isa_levels": ["x86-64-v3"]}], "options": {"exact": "false"},
        "flags": {"emit": "exe", "target": "cpu"},
        "inputs": [{"name": "config.json", "bytes": 2, "hashed_bytes": 2, "sha256": "44136fa3"},
            {"name": "model.safetensors", "bytes": 900, "hashed_bytes": 80, "sha256": "0c7e"}],
        "generation": {"temperature": 0.6, "do_sample": true, "top_p": null, "top_k": 5,
            "eos": [1]},
        "warnings": ["a warning"]});
    serde_json::from_value(whole).unwrap()
}

/// A manifest.
pub fn manifests() -> Vec<Vec<u8>> {
    vec![serde_json::to_vec(&small_manifest()).unwrap()]
}

/// A statement about what was made of the files that the small manifest names.
pub fn statements() -> Vec<Vec<u8>> {
    let (manifest, mut imported) = (small_manifest(), imported("rand-llama"));
    imported.inputs = manifest.inputs.clone();
    let names = manifest.inputs.iter().filter(|input| !input.is_whole());
    let files = names.map(|input| Resource::of(&input.name, b"tensors")).collect();
    let asked = Asked { files, ..Asked::default() };
    let statement = statement(&imported, &manifest, &asked, 1, &mut Silent);
    vec![statement.text().into_bytes()]
}

/// Small files with every kind of section: plain, executable, with weights beside.
pub fn artifacts() -> Vec<Vec<u8>> {
    let plan: Plan = serde_json::from_value(small_plan()).unwrap();
    let write = |stub: Option<&[u8]>, place: WeightsPlace| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let mut writer = Writer::create(&path, stub, place).unwrap();
        writer.manifest(&small_manifest()).unwrap();
        writer.plan(&plan).unwrap();
        writer.code("cpu", "x86-64-v3", "llvm", &[0xc3; 50]).unwrap();
        writer.section("tokenizer", &[("source", "tokenizer.json")], b"{}").unwrap();
        writer.begin_weights().unwrap();
        writer.write(&[7; 300]).unwrap();
        writer.end_section().unwrap();
        writer.finish().unwrap();
        std::fs::read(path).unwrap()
    };
    vec![
        write(None, WeightsPlace::Inline),
        write(Some(b"\x7fELF and so on"), WeightsPlace::Inline),
        write(None, WeightsPlace::External),
    ]
}

/// Size programs in the bytes of [`super::artifacts::size`].
pub fn sizes() -> Vec<Vec<u8>> {
    let constant = |value: i64| [&[0], &value.to_le_bytes()[..]].concat();
    vec![
        vec![1, 0, 8, 4, 3],
        vec![1, 3, 8, 64, 5, 8, 1, 7, 8, 9, 6, 8, 2, 4, 8, 3, 2],
        [constant(i64::MAX), constant(i64::MIN), vec![2]].concat(),
    ]
}

/// Code images of single kernels.
pub fn images() -> Vec<Vec<u8>> {
    let target = target_cranelift::Cranelift;
    let text = String::from_utf8(read("tests/files/kernel/int4_gemv_small.kernel")).unwrap();
    let all: Vec<Kernel> = parse_kernels(&text).unwrap();
    let level = crate::native::levels(&target, crate::native::Levels::Best)[0];
    vec![code(&all, &target, level).unwrap_or_else(|e| panic!("{e}")).image]
}

/// Two files in one input.
fn both(first: &Value, second: &[u8]) -> Vec<u8> {
    [first.to_string().as_bytes(), &[BETWEEN], second].concat()
}

/// The tokenizer of the demo's model with a part of its vocabulary.
fn byte_level() -> Value {
    let whole = read("examples/models/tiny-v3/tokenizer.json");
    let mut whole: Value = serde_json::from_slice(&whole).unwrap();
    let merges: Vec<Value> =
        whole["model"]["merges"].as_array().unwrap().iter().take(12).cloned().collect();
    let merged = |m: &Value| m[0].as_str().unwrap().to_string() + m[1].as_str().unwrap();
    let merged: Vec<String> = merges.iter().map(merged).collect();
    let vocab = whole["model"]["vocab"].as_object().unwrap().clone();
    let few = vocab.into_iter().filter(|(token, _)| {
        token.chars().count() == 1 && !token.is_ascii()
            || merged.contains(token)
            || token.len() == 1
    });
    let few: serde_json::Map<_, _> = few.step_by(2).collect();
    let kept = |m: &Value| {
        [m[0].as_str().unwrap().into(), m[1].as_str().unwrap().into(), merged_text(m)]
            .iter()
            .all(|token: &String| few.contains_key(token))
    };
    let merges: Vec<Value> = merges.into_iter().filter(kept).collect();
    whole["model"]["merges"] = json!(merges);
    whole["model"]["vocab"] = Value::Object(few);
    whole
}

fn merged_text(merge: &Value) -> String {
    merge[0].as_str().unwrap().to_string() + merge[1].as_str().unwrap()
}

/// Tokenizers of every kind of model, with their configurations.
pub fn tokenizers() -> Vec<Vec<u8>> {
    let config = read("examples/models/tiny-v3/tokenizer_config.json");
    let vocab: BTreeMap<&str, u32> =
        [("<unk>", 0), ("a", 1), ("##b", 2), ("th", 3), ("e", 4), ("t", 5), ("h", 6), (" ", 7)]
            .into();
    let whole = |model: Value, before: Value, decoder: Value| {
        json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 8, "content": "<s>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"},
                {"type": "Lowercase"},
                {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
                {"type": "Prepend", "prepend": "\u{2581}"}, {"type": "Strip", "strip_left": true,
                    "strip_right": false}]},
            "pre_tokenizer": before, "post_processor": null, "decoder": decoder, "model": model})
    };
    let pieces = json!({"type": "WordPiece", "unk_token": "<unk>",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": vocab});
    let pairs = json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "byte_fallback": true,
        "fuse_unk": true, "vocab": vocab, "merges": ["t h"]});
    let unigram = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<unk>", 0.0], ["a", -1.5], ["th", -2.0], ["e", -3.0]]});
    let words = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"});
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}",
        "prepend_scheme": "always", "split": true});
    let digits = json!({"type": "Sequence", "pretokenizers": [{"type": "Digits",
        "individual_digits": true},
        {"type": "Punctuation", "behavior": "Isolated"}, {"type": "WhitespaceSplit"}]});
    vec![
        both(&byte_level(), &config),
        both(
            &whole(
                pieces,
                json!({"type": "BertPreTokenizer"}),
                json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            ),
            b"{}",
        ),
        both(
            &whole(pairs, digits, json!({"type": "ByteFallback"})),
            b"{\"add_bos_token\": true, \"bos_token\": \"<s>\"}",
        ),
        both(&whole(unigram, metaspace.clone(), metaspace), b"{}"),
        both(&whole(words, json!({"type": "Whitespace"}), json!(null)), b"{}"),
    ]
}

/// Chat templates.
pub fn templates() -> Vec<Vec<u8>> {
    let config = read("examples/models/tiny-v3/tokenizer_config.json");
    let config: Value = serde_json::from_slice(&config).unwrap();
    let small = [
        "{% for m in messages %}{{ '<' + m.role + '>' + (m.content or '') }}{% endfor %}",
        "{% for a in range(9) %}{% for b in range(9) %}{{ a * b }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}{% if \
         loop.last %}{{ m | tojson(indent=2) }}{% elif m['content'] is defined %}{% continue %}\
         {% endif %}{% endfor %}{{ ns.n ~ 'x' * 3 }}",
        "{% macro turn(m, i=1) %}{{ m.content.split(' ')[-1].strip().upper() }}{% endmacro %}\
         {{ turn(messages[0]) }}{{ strftime_now('%d %b %Y') }}{% if a %}\
         {{ raise_exception('no') }}{% endif %}",
        "{{ messages | map(attribute='role') | join(', ') | replace('u', 'v') | title }}{{ \
         '%s'|format(1) if false else messages|length }}{% generation %}x{% endgeneration %}",
    ];
    let own = config["chat_template"].as_str().unwrap();
    small.into_iter().chain([own]).map(|text| text.as_bytes().to_vec()).collect()
}

/// tokenizer_config.json with templates.
pub fn chats() -> Vec<Vec<u8>> {
    let named = json!({"chat_template": [{"name": "tool_use", "template": "t"},
        {"name": "default", "template": "d{{ bos_token }}{{ messages[0].content }}"}],
        "bos_token": {"content": "B", "lstrip": false}, "eos_token": "E", "pad_token": null});
    let one = json!({"chat_template": "{% for m in messages %}{{ m.role }}{% endfor %}"});
    let mut all = json([named, one]);
    all.push(read("examples/models/tiny-v3/tokenizer_config.json"));
    all
}

/// Goldens of one short prompt.
pub fn goldens() -> Vec<Vec<u8>> {
    let file = |margin: bool| {
        let mut tensors = json!({
            "p0.input_ids": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
            "p0.logits": {"dtype": "F32", "shape": [1, 3], "data_offsets": [16, 28]}});
        if margin {
            tensors["p0.greedy_margin"] =
                json!({"dtype": "F32", "shape": [2], "data_offsets": [28, 36]});
        }
        let mut file = safetensors(&tensors, 0);
        file.extend([1i64, 2].iter().flat_map(|id| id.to_le_bytes()));
        file.resize(file.len() + if margin { 20 } else { 12 }, 0x3c);
        file
    };
    let plain = json!({"prompts": [{"index": 0, "logit_positions": [1, 2], "greedy_ids": [1, 2]}]});
    let whole = json!({"name": "m", "prompts": [{"index": 0, "name": "first",
        "logit_positions": [1, 2],
        "greedy_ids": [1, 2], "first_small_margin_step": 1, "choice_gaps_prompt": {"layer 1": 0.5,
            "layer 2": null},
        "choice_gaps_with_greedy": {"layer 1": 0.25}}]});
    vec![both(&plain, &file(false)), both(&whole, &file(true))]
}

/// Lists of token ids.
pub fn ids() -> Vec<Vec<u8>> {
    ["[[1, 2, 3], [4, 5]]", "[[0]]"].map(|t| t.as_bytes().to_vec()).to_vec()
}
