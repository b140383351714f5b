//! Level 0 for what evaluations report: is it of what was asked for, and can its figures be true? What others found
//! on the same text is `evaluation`'s to compare.

use owm_proto::{
    Sha256,
    evaluation::{EvaluationAsk, EvaluationReport, Finding},
    statement::TaskResultStatement,
};

use super::{Expected, Fault, check_lease};

/// Share by which bits per byte may differ from what the loss makes of them: rounding.
const ROUNDING: f64 = 1e-9;

/// What came back; the envelope is verified and signed by the lease's node.
#[derive(Clone, Copy, Debug)]
pub struct GivenReport<'a> {
    /// The signed result.
    pub statement: &'a TaskResultStatement,
    /// The report's exact bytes.
    pub report: &'a [u8],
}

/// Checks an evaluation's result; the first fault found is the one told.
pub fn check_report(
    expected: &Expected<'_>,
    ask: &EvaluationAsk,
    given: &GivenReport<'_>,
) -> Result<EvaluationReport, Fault> {
    let report = EvaluationReport::from_bytes(given.report).ok_or(Fault::NoReport)?;
    let said = given.statement;
    check_lease(expected, said)?;
    if said.output_sha256 != Sha256::of(given.report) {
        return Err(Fault::OutputHash);
    }
    if said.tokens_sha256 != report.tokens_sha256 {
        return Err(Fault::TokensHash { what: "the report" });
    }
    let of_another = [
        ("candidate", report.candidate != ask.weights_sha256()),
        ("text", report.text != ask.text),
        ("window", report.window != ask.window),
        (
            "kind",
            matches!(report.finding, Finding::Update { .. }) != ask.reference.is_some(),
        ),
    ];
    if let Some((what, _)) = of_another.into_iter().find(|(_, differs)| *differs) {
        return Err(Fault::OtherReport { what });
    }
    check_bounds(ask, &report)?;
    check_figures(&report)?;
    Ok(report)
}

fn check_bounds(ask: &EvaluationAsk, report: &EvaluationReport) -> Result<(), Fault> {
    let bounds = [
        ("tokens", report.tokens, ask.tokens_min, ask.tokens_max),
        (
            "documents",
            u64::from(report.documents),
            1,
            u64::from(ask.documents_max),
        ),
        ("bytes", report.bytes, 1, ask.bytes_max),
    ];
    for (unit, given, min, max) in bounds {
        if given < min {
            return Err(Fault::TooLittle { given, unit, min });
        }
        if given > max {
            return Err(Fault::TooMuch { given, unit, max });
        }
    }
    Ok(())
}

fn check_figures(report: &EvaluationReport) -> Result<(), Fault> {
    let is_loss = |loss: f64| loss.is_finite() && loss >= 0.0;
    match &report.finding {
        Finding::HeldOut {
            loss,
            bits_per_byte,
        } => {
            if !is_loss(loss.0) {
                return Err(Fault::Figure { figure: "loss" });
            }
            if !is_loss(bits_per_byte.0) {
                let figure = "bits per byte";
                return Err(Fault::Figure { figure });
            }
            let bits = loss.0 * report.tokens as f64 / std::f64::consts::LN_2;
            let per_byte = bits / report.bytes as f64;
            if (per_byte - bits_per_byte.0).abs() > per_byte * ROUNDING {
                return Err(Fault::Contradiction(
                    "its loss makes other bits per byte than it says",
                ));
            }
        }
        Finding::Update { size, losses, .. } => {
            if !losses.iter().all(|loss| is_loss(loss.0)) {
                return Err(Fault::Figure { figure: "loss" });
            }
            if *size == 0 {
                let figure = "size of the update";
                return Err(Fault::Figure { figure });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
