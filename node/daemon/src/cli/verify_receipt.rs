//! `owm-node verify-receipt`: checks every signature of a receipt against the network's documents on this
//! disk, and, if given, that a weights file and an answer are the ones it names. Asks nobody.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;
use owm_proto::{
    Sha256,
    hash::Hasher,
    invite::Invite,
    receipt::{SignedReceipt, VerifiedReceipt},
};
use owm_service::RunError;
use serde_json::json;

use super::{ConfigArg, Output};
use crate::{home::Home, network::Network};

/// A receipt: bounded by its segments, far below this.
const RECEIPT_BYTES_MAX: u64 = 4 << 20;
/// An answer as a file.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Read at once of a weights file.
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  curl -s http://127.0.0.1:8080/v1/receipts/req_… | owm-node verify-receipt -\n  owm-node verify-receipt receipt.json --weights model.safetensors --answer \"Paris.\""
)]
pub(super) struct VerifyArgs {
    /// The receipt's JSON file, or - for standard input.
    receipt: PathBuf,
    #[command(flatten)]
    config: ConfigArg,
    /// A folder with genesis.json and documents.pb, instead of a node's own.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    genesis_dir: Option<PathBuf>,
    /// A weights file to compare with the receipt.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// The answer to compare with the receipt: a file's path, or the text itself.
    #[arg(long, value_name = "TEXT|FILE")]
    answer: Option<String>,
}

pub(super) fn run(arguments: &VerifyArgs, output: Output) -> Result<(), RunError> {
    let network = network(arguments)?;
    let text = read(&arguments.receipt, RECEIPT_BYTES_MAX)?;
    let signed: SignedReceipt = serde_json::from_slice(&text)
        .map_err(|error| RunError::failed(format!("this is no receipt: {error}")))?;
    let verified = signed.verify(&network.trust)?;
    let weights = arguments
        .weights
        .as_deref()
        .map(|path| check_weights(path, &verified));
    let weights = weights.transpose()?;
    let answer = arguments
        .answer
        .as_deref()
        .map(|text| check_answer(text, &verified));
    let answer = answer.transpose()?;
    show(
        &network,
        &verified,
        weights.as_deref(),
        answer.is_some(),
        output,
    );
    Ok(())
}

fn network(arguments: &VerifyArgs) -> Result<Network, RunError> {
    if let Some(folder) = &arguments.genesis_dir {
        return Ok(Network::load(folder, None)?);
    }
    let (path, config) = arguments.config.load()?;
    let invite: Invite = config.coordinator.invite.parse().map_err(RunError::usage)?;
    let home = Home::open(&config.data_folder(&path))?;
    Ok(Network::load(&home.network(), Some(invite.genesis))?)
}

fn show(
    network: &Network,
    verified: &VerifiedReceipt,
    weights: Option<&str>,
    answer: bool,
    output: Output,
) {
    let receipt = &verified.receipt;
    let nodes: Vec<_> = receipt
        .segments
        .iter()
        .map(|s| s.node.to_string())
        .collect();
    let mut lines = vec![
        "good: every signature holds and the shares add up to the answer".to_owned(),
        format!(
            "network:     {} ({})",
            network.trust.genesis().name,
            network.trust.id()
        ),
        format!(
            "model:       {} {}",
            receipt.model_version, receipt.sub_model
        ),
    ];
    lines.extend(
        receipt
            .files
            .iter()
            .map(|f| format!("weights:     {} {}", f.sha256, f.name)),
    );
    lines.extend(
        receipt
            .segments
            .iter()
            .map(|s| format!("computed by: {} tokens {}..{}", s.node, s.from, s.to)),
    );
    lines.push(format!(
        "signed by:   coordinator {}",
        verified.countersigned_by
    ));
    lines.push(format!(
        "seed:        {}, output sha256 {}",
        receipt.seed, receipt.output_sha256
    ));
    lines.extend(weights.map(|name| format!("your file is {name} of the receipt")));
    if answer {
        lines.push("your answer is the receipt's".to_owned());
    }
    let value = json!({
        "good": true,
        "network_id": network.trust.id(),
        "model_version": receipt.model_version,
        "sub_model": receipt.sub_model,
        "files": receipt.files,
        "nodes": nodes,
        "countersigned_by": verified.countersigned_by,
        "seed": receipt.seed,
        "input_sha256": receipt.input_sha256,
        "output_sha256": receipt.output_sha256,
        "finish": verified.result.finish,
        "weights_match": weights,
        "answer_matches": answer.then_some(true),
    });
    output.answer(&value, &lines);
}

fn check_weights(path: &Path, verified: &VerifiedReceipt) -> Result<String, RunError> {
    let mut file = std::fs::File::open(path)
        .map_err(|error| RunError::failed(format!("{}: {error}", path.display())))?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let found = hasher.finish();
    let named = verified
        .receipt
        .files
        .iter()
        .find(|file| file.sha256 == found);
    named.map(|file| file.name.clone()).ok_or_else(|| {
        RunError::failed(format!(
            "{} has SHA-256 {found}: the receipt names no such file",
            path.display()
        ))
    })
}

fn check_answer(answer: &str, verified: &VerifiedReceipt) -> Result<(), RunError> {
    let path = Path::new(answer);
    let bytes = if path.is_file() {
        read(path, ANSWER_BYTES_MAX)?
    } else {
        answer.into()
    };
    let wanted = verified.receipt.output_sha256;
    if Sha256::of(&bytes) == wanted {
        return Ok(());
    }
    let text = format!(
        "the answer's SHA-256 is {}, the receipt says {wanted} (every blank counts)",
        Sha256::of(&bytes)
    );
    Err(RunError::failed(text))
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    let failed = |error| RunError::failed(format!("{}: {error}", path.display()));
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    }
    if bytes.len() as u64 > limit {
        return Err(RunError::failed(format!(
            "{} has more than {limit} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
