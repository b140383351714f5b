//! Imports a GGUF file of the Llama architecture.
//!
//! Called by the coordinator's `model import`. The same source bytes give byte-identical files: no
//! name, time or machine gets into them. Only a model that is understood completely is imported;
//! an unknown tensor or variation is an error, never left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use crate::{
    ImportError, Imported, Progress, Step,
    directory::{Model, WeightSink, write_model},
    gguf::{Gguf, GgufError, HEADER_BYTES_MAX, TensorInfo, TensorType, dequantise::dequantise},
    llama::{Llama, Part, RowOrder, SpecialIds},
    staging::file_sha256,
    tokenizer::ByteLevelBpe,
};

/// The architecture that can be imported.
const ARCHITECTURE: &str = "llama";
/// Values converted at a time (1 MiB of single precision), unless one row is longer.
const CHUNK_VALUES: u64 = 1 << 18;
/// Rotary base when the file names none (llama.cpp's default).
const ROPE_THETA_DEFAULT: f32 = 10_000.0;

/// A file's header, understood: every tensor has its place.
#[derive(Debug)]
struct Plan<'a> {
    llama: Llama,
    tokenizer: ByteLevelBpe<'a>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// Reads a GGUF file's header (its first bytes, at most [`HEADER_BYTES_MAX`]; `file_len` is the
/// length of the whole file in bytes) and says what [`import_gguf`] would make of it. Nothing is
/// written, so no files are listed.
pub fn inspect_gguf(header: &[u8], file_len: u64) -> Result<Imported, ImportError> {
    let plan = Plan::new(&Gguf::parse(header, file_len)?)?;
    let note = plan.note(None);
    Ok(plan.model(&note).imported(Vec::new()))
}

/// Imports the GGUF file `source` into the new directory `out_dir`: weights in half precision,
/// configuration and tokenizer in Hugging Face's layout.
///
/// Quantised weights are dequantised, and [`Imported::note`] says so. `out_dir` must not exist
/// or be empty; it appears whole, or not at all on an error.
pub fn import_gguf(
    source: &Path,
    out_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, ImportError> {
    let mut file = File::open(source).map_err(ImportError::io("open", source))?;
    let total = file
        .metadata()
        .map_err(ImportError::io("look at", source))?
        .len();
    let mut header = Vec::new();
    (&mut file)
        .take(HEADER_BYTES_MAX)
        .read_to_end(&mut header)
        .map_err(ImportError::io("read", source))?;
    let plan = Plan::new(&Gguf::parse(&header, total)?)?;
    let sha256 = file_sha256(source, &mut |done| {
        progress(Progress {
            step: Step::Hashing,
            done,
            total,
        });
    })?;
    let note = plan.note(Some(&sha256));
    let mut reader = WeightReader {
        file,
        path: source,
        raw: Vec::new(),
        values: Vec::new(),
    };
    write_model(out_dir, &plan.model(&note), progress, |part, sink| {
        let info = plan
            .tensors
            .get(&part.gguf_name)
            .expect("Plan::new found every part");
        reader.stream(part, info, sink)
    })
}

/// Reads and dequantises tensors piece by piece.
#[derive(Debug)]
struct WeightReader<'a> {
    file: File,
    path: &'a Path,
    raw: Vec<u8>,
    values: Vec<f32>,
}

impl WeightReader<'_> {
    fn stream(
        &mut self,
        part: &Part,
        info: &TensorInfo,
        sink: &mut WeightSink<'_>,
    ) -> Result<(), ImportError> {
        let rows_at_once = match part.rows {
            RowOrder::Same => (CHUNK_VALUES / info.columns()).max(1),
            RowOrder::Paired { .. } => 1,
        };
        let mut row = 0;
        while row < info.rows() {
            let rows = rows_at_once.min(info.rows() - row);
            let start = info.offset + part.rows.source(row) * info.row_bytes();
            self.raw.resize((rows * info.row_bytes()) as usize, 0);
            self.file
                .seek(SeekFrom::Start(start))
                .and_then(|_| self.file.read_exact(&mut self.raw))
                .map_err(ImportError::io("read", self.path))?;
            self.values.clear();
            dequantise(info.encoding, &self.raw, &mut self.values);
            sink.push(part, &self.values)?;
            row += rows;
        }
        Ok(())
    }
}

impl<'a> Plan<'a> {
    fn new(gguf: &Gguf<'a>) -> Result<Self, ImportError> {
        let architecture = gguf.str("general.architecture")?;
        if architecture != ARCHITECTURE {
            return Err(ImportError::Architecture {
                found: architecture.to_owned(),
            });
        }
        refuse_variations(gguf)?;
        let llama = read_llama(gguf)?;
        let tokenizer = ByteLevelBpe::from_gguf(gguf)?;
        if tokenizer.len() != llama.vocabulary {
            let why = format!(
                "{} tokens for {} embeddings",
                tokenizer.len(),
                llama.vocabulary
            );
            return Err(ImportError::Configuration { why });
        }
        let mut tensors = BTreeMap::new();
        for Part {
            gguf_name, shape, ..
        } in llama.parts()
        {
            let Some(info) = gguf.tensor(&gguf_name) else {
                return Err(ImportError::TensorMissing { tensor: gguf_name });
            };
            if info.shape != shape {
                let found = info.shape.clone();
                return Err(ImportError::TensorShape {
                    tensor: gguf_name,
                    found,
                    wanted: shape,
                });
            }
            tensors.insert(gguf_name, info.clone());
        }
        match gguf
            .tensors()
            .find(|(name, _)| !tensors.contains_key(*name))
        {
            Some((name, _)) => Err(ImportError::TensorUnknown {
                tensor: name.to_owned(),
            }),
            None => Ok(Self {
                llama,
                tokenizer,
                tensors,
            }),
        }
    }

    fn model<'b>(&'b self, note: &'b str) -> Model<'b> {
        Model {
            llama: &self.llama,
            tokenizer: &self.tokenizer,
            note,
        }
    }

    /// Where the weights come from, in words.
    fn note(&self, sha256: Option<&str>) -> String {
        let encodings: BTreeSet<_> = self.tensors.values().map(|info| info.encoding).collect();
        let (quantised, plain): (Vec<_>, Vec<_>) = encodings
            .into_iter()
            .partition(|encoding| encoding.is_quantised());
        let names = |encodings: &[TensorType]| {
            encodings
                .iter()
                .map(|encoding| encoding.name())
                .collect::<Vec<_>>()
                .join(" and ")
        };
        let file = match sha256 {
            Some(sha256) => format!("the GGUF file with SHA-256 {sha256}"),
            None => "the GGUF file".to_owned(),
        };
        if quantised.is_empty() {
            return format!("half precision, rounded from {} in {file}", names(&plain));
        }
        format!(
            "dequantised from {} in {file}: these are the dequantised weights in half precision, \
             not the ones the model was first published with",
            names(&quantised)
        )
    }
}

/// Refuses what would be computed differently from a plain Llama model.
fn refuse_variations(gguf: &Gguf<'_>) -> Result<(), ImportError> {
    let unsupported = |feature: &str| ImportError::Unsupported {
        feature: feature.to_owned(),
    };
    if gguf
        .u64_opt("llama.expert_count")?
        .is_some_and(|experts| experts > 0)
    {
        return Err(unsupported("a mixture of experts"));
    }
    let scaling = gguf.str_opt("llama.rope.scaling.type")?;
    if scaling.is_some_and(|kind| kind != "none") || gguf.value("llama.rope.scale_linear").is_some()
    {
        return Err(unsupported("scaled rotary positions"));
    }
    if gguf.value("llama.attention.sliding_window").is_some() {
        return Err(unsupported("a sliding attention window"));
    }
    Ok(())
}

fn read_llama(gguf: &Gguf<'_>) -> Result<Llama, ImportError> {
    let number = |key: &str| gguf.u64(&format!("{ARCHITECTURE}.{key}"));
    let number_opt = |key: &str| gguf.u64_opt(&format!("{ARCHITECTURE}.{key}"));
    let special = |key: &str| gguf.u64_opt(&format!("tokenizer.ggml.{key}_token_id"));
    let (hidden, heads) = (number("embedding_length")?, number("attention.head_count")?);
    let head = match number_opt("attention.key_length")? {
        Some(head) => head,
        None => hidden.checked_div(heads).unwrap_or_default(),
    };
    for key in ["rope.dimension_count", "attention.value_length"] {
        if number_opt(key)?.is_some_and(|dimensions| dimensions != head) {
            let feature = format!("{key} different from the head size {head}");
            return Err(ImportError::Unsupported { feature });
        }
    }
    let embeddings =
        gguf.tensor("token_embd.weight")
            .ok_or_else(|| ImportError::TensorMissing {
                tensor: "token_embd.weight".to_owned(),
            })?;
    let theta = gguf
        .f32_opt("llama.rope.freq_base")?
        .unwrap_or(ROPE_THETA_DEFAULT);
    Llama {
        layers: number("block_count")?,
        context: number("context_length")?,
        hidden,
        feed_forward: number("feed_forward_length")?,
        heads,
        key_value_heads: number_opt("attention.head_count_kv")?.unwrap_or(heads),
        head,
        vocabulary: number_opt("vocab_size")?.unwrap_or(embeddings.rows()),
        rope_theta: shortest(theta)?,
        rms_epsilon: shortest(gguf.f32("llama.attention.layer_norm_rms_epsilon")?)?,
        tied: gguf.tensor("output.weight").is_none(),
        special: SpecialIds {
            bos: special("bos")?,
            eos: special("eos")?,
            pad: special("padding")?,
            unknown: special("unknown")?,
        },
    }
    .checked()
}

/// The shortest decimal that is this single-precision number, as configurations write it (1e-5,
/// not 9.999999747378752e-6).
fn shortest(number: f32) -> Result<f64, GgufError> {
    number
        .to_string()
        .parse()
        .map_err(|_| GgufError::WrongType {
            key: "llama.rope.freq_base or layer_norm_rms_epsilon".to_owned(),
            wanted: "a number",
        })
}
