//! Makes small GGUF files of the Llama architecture, sound or with one fault.
//!
//! Used by the integration tests here, by the allocation test and (as its seed) by the fuzz target.

/// Sizes of the sample model.
pub(crate) const HIDDEN: u64 = 64;
pub(crate) const HEADS: u64 = 2;
pub(crate) const KEY_VALUE_HEADS: u64 = 1;
pub(crate) const HEAD: u64 = HIDDEN / HEADS;
pub(crate) const FEED_FORWARD: u64 = 96;
pub(crate) const LAYERS: u64 = 2;
/// Two special tokens, 256 bytes, one merge ("ab").
pub(crate) const VOCABULARY: u64 = 2 + 256 + 1;

pub(crate) const F32: u32 = 0;
pub(crate) const F16: u32 = 1;
pub(crate) const Q4_0: u32 = 2;
pub(crate) const Q4_1: u32 = 3;
pub(crate) const Q8_0: u32 = 8;

/// A GGUF file in parts that a test may change before writing it out.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    /// Key and encoded value (type code first).
    pub(crate) metadata: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Fastest dimension first, as in the file.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) encoding: u32,
    pub(crate) data: Vec<u8>,
    /// Written instead of the right offset.
    pub(crate) offset: Option<u64>,
}

impl Sample {
    pub(crate) fn llama() -> Self {
        let mut sample = Self {
            version: 3,
            alignment: 32,
            metadata: vec![],
            tensors: vec![],
        };
        for (key, value) in [
            ("general.architecture", "llama"),
            ("tokenizer.ggml.model", "gpt2"),
        ] {
            sample.set(key, string(value));
        }
        sample.set("tokenizer.ggml.pre", string("smollm"));
        sample.set("tokenizer.chat_template", string("{{ messages }}"));
        let numbers = [
            ("block_count", LAYERS),
            ("context_length", 512),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", FEED_FORWARD),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KEY_VALUE_HEADS),
        ];
        for (key, value) in numbers {
            sample.set(&format!("llama.{key}"), u32_value(value as u32));
        }
        sample.set("llama.attention.layer_norm_rms_epsilon", f32_value(1e-5));
        sample.set("tokenizer.ggml.eos_token_id", u32_value(1));
        let mut tokens = vec!["<|pad|>".to_owned(), "<|end|>".to_owned()];
        tokens.extend(byte_alphabet().map(String::from));
        tokens.push("ab".to_owned());
        let types: Vec<i32> = (0..tokens.len())
            .map(|id| if id < 2 { 3 } else { 1 })
            .collect();
        sample.set("tokenizer.ggml.tokens", strings(&tokens));
        sample.set("tokenizer.ggml.token_type", i32_array(&types));
        sample.set("tokenizer.ggml.merges", strings(&["a b".to_owned()]));
        sample.weights();
        sample
    }

    fn weights(&mut self) {
        self.tensor("token_embd.weight", &[HIDDEN, VOCABULARY], Q8_0);
        self.tensor("output_norm.weight", &[HIDDEN], F32);
        for layer in 0..LAYERS {
            let rows: [(&str, &[u64], u32); 9] = [
                ("attn_norm", &[HIDDEN], F32),
                ("ffn_norm", &[HIDDEN], F32),
                ("attn_q", &[HIDDEN, HEADS * HEAD], Q4_0),
                ("attn_k", &[HIDDEN, KEY_VALUE_HEADS * HEAD], Q4_1),
                ("attn_v", &[HIDDEN, KEY_VALUE_HEADS * HEAD], F16),
                ("attn_output", &[HEADS * HEAD, HIDDEN], Q4_1),
                ("ffn_gate", &[HIDDEN, FEED_FORWARD], Q4_1),
                ("ffn_up", &[HIDDEN, FEED_FORWARD], Q4_0),
                ("ffn_down", &[FEED_FORWARD, HIDDEN], Q8_0),
            ];
            for (name, dimensions, encoding) in rows {
                self.tensor(&format!("blk.{layer}.{name}.weight"), dimensions, encoding);
            }
        }
    }

    /// Adds a tensor with made-up content of the right length.
    pub(crate) fn tensor(&mut self, name: &str, dimensions: &[u64], encoding: u32) {
        let values: u64 = dimensions.iter().product();
        let data = content(encoding, values, self.tensors.len() as u64);
        let dimensions = dimensions.to_vec();
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dimensions,
            encoding,
            data,
            offset: None,
        });
    }

    pub(crate) fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .expect("a tensor of the sample")
    }

    /// Sets or replaces a metadata value.
    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub(crate) fn unset(&mut self, key: &str) {
        self.metadata.retain(|(known, _)| known != key);
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend_from_slice(&tensor.data);
        }
        bytes
    }

    /// The bytes before the tensor data, without the padding after them.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend_from_slice(&self.version.to_le_bytes());
        for count in [self.tensors.len(), self.metadata.len()] {
            bytes.extend_from_slice(&(count as u64).to_le_bytes());
        }
        for (key, value) in &self.metadata {
            push_string(&mut bytes, key);
            bytes.extend_from_slice(value);
        }
        let mut at = 0_usize;
        for tensor in &self.tensors {
            push_string(&mut bytes, &tensor.name);
            bytes.extend_from_slice(&(tensor.dimensions.len() as u32).to_le_bytes());
            for dimension in &tensor.dimensions {
                bytes.extend_from_slice(&dimension.to_le_bytes());
            }
            bytes.extend_from_slice(&tensor.encoding.to_le_bytes());
            at = at.next_multiple_of(self.alignment);
            bytes.extend_from_slice(&tensor.offset.unwrap_or(at as u64).to_le_bytes());
            at += tensor.data.len();
        }
        bytes
    }
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    let mut bytes = 8_u32.to_le_bytes().to_vec();
    push_string(&mut bytes, text);
    bytes
}

pub(crate) fn u32_value(number: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), number.to_le_bytes()].concat()
}

pub(crate) fn f32_value(number: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), number.to_le_bytes()].concat()
}

/// The start of an array: its type, its elements' type, their number.
pub(crate) fn array_start(element: u32, count: u64) -> Vec<u8> {
    let mut bytes = [9_u32.to_le_bytes(), element.to_le_bytes()].concat();
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes
}

pub(crate) fn strings(texts: &[String]) -> Vec<u8> {
    let mut bytes = array_start(8, texts.len() as u64);
    for text in texts {
        push_string(&mut bytes, text);
    }
    bytes
}

pub(crate) fn i32_array(numbers: &[i32]) -> Vec<u8> {
    let mut bytes = array_start(5, numbers.len() as u64);
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn push_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// GPT-2's characters for bytes, in the order of the bytes.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    (0..256_u32).map(move |byte| {
        let code = if printable(&byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).expect("a character below U+0144")
    })
}

/// Encoded values that differ from tensor to tensor: small scales, all codes.
fn content(encoding: u32, values: u64, seed: u64) -> Vec<u8> {
    let scale = half::f16::from_f32(0.01 + seed as f32 / 1024.0).to_le_bytes();
    let code = |at: u64| (at * 37 + seed * 11) as u8;
    let blocks = values / 32;
    match encoding {
        F32 => (0..values)
            .flat_map(|at| (1.0 + at as f32 / 64.0).to_le_bytes())
            .collect(),
        F16 => (0..values)
            .flat_map(|at| half::f16::from_f32(f32::from(code(at)) / 256.0).to_le_bytes())
            .collect(),
        Q4_0 => (0..blocks)
            .flat_map(|block| block_bytes(&[scale], 16, block, code))
            .collect(),
        Q4_1 => (0..blocks)
            .flat_map(|block| block_bytes(&[scale, scale], 16, block, code))
            .collect(),
        Q8_0 => (0..blocks)
            .flat_map(|block| block_bytes(&[scale], 32, block, code))
            .collect(),
        _ => Vec::new(),
    }
}

fn block_bytes(scales: &[[u8; 2]], codes: u64, block: u64, code: impl Fn(u64) -> u8) -> Vec<u8> {
    let mut bytes = scales.concat();
    bytes.extend((0..codes).map(|at| code(block * codes + at)));
    bytes
}
