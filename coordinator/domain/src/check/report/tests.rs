//! One honest report; each test spoils one thing and expects that fault.

use owm_proto::{
    TaskId,
    evaluation::{ExactF64, TextSource},
    manifest::ManifestFile,
    statement::Finish,
};

use super::*;

struct Honest {
    ask: EvaluationAsk,
    report: EvaluationReport,
    statement: TaskResultStatement,
}

fn honest() -> Honest {
    let weights = ManifestFile {
        name: "model.safetensors".into(),
        size: 9,
        sha256: Sha256([1; 32]),
        piece_len: None,
        ladder_sha256: None,
    };
    let ask = EvaluationAsk {
        files: vec![weights],
        text: TextSource::Local,
        documents_max: 4,
        bytes_max: 1_000,
        tokens_min: 10,
        tokens_max: 500,
        window: 64,
        seed: 42,
        reference: None,
    };
    let (tokens, bytes, loss) = (100, 300, 2.5);
    let report = EvaluationReport {
        candidate: vec![Sha256([1; 32])],
        text: TextSource::Local,
        window: 64,
        documents: 2,
        bytes,
        tokens,
        tokens_sha256: Sha256([3; 32]),
        finding: Finding::HeldOut {
            loss: ExactF64(loss),
            bits_per_byte: ExactF64(loss * tokens as f64 / std::f64::consts::LN_2 / bytes as f64),
        },
    };
    let statement = TaskResultStatement {
        task_id: TaskId::from_random([5; 16]),
        epoch: 2,
        model_sha256: vec![Sha256([1; 32])],
        input_sha256: Sha256([2; 32]),
        output_sha256: Sha256([0; 32]),
        tokens_sha256: Sha256([3; 32]),
        prompt_tokens: 100,
        output_tokens: 0,
        finish: Finish::Stop,
        seed: 42,
        backend: "burn-flex/f32".into(),
        exec_ms: 1,
    };
    Honest {
        ask,
        report,
        statement,
    }
}

fn check(honest: &Honest) -> Result<EvaluationReport, Fault> {
    let report = honest.report.to_bytes();
    let mut statement = honest.statement.clone();
    statement.output_sha256 = Sha256::of(&report);
    check_bytes(honest, &statement, &report)
}

fn check_bytes(
    honest: &Honest,
    statement: &TaskResultStatement,
    report: &[u8],
) -> Result<EvaluationReport, Fault> {
    let expected = Expected {
        task_id: TaskId::from_random([5; 16]),
        epoch: 2,
        model_sha256: &[Sha256([1; 32])],
        input_sha256: Sha256([2; 32]),
        seed: 42,
        max_tokens: 500,
        context_tokens: None,
        share_from: 0,
        delivered_tokens: &[],
        delivered_text: "",
    };
    check_report(&expected, &honest.ask, &GivenReport { statement, report })
}

fn spoiled(spoil: impl FnOnce(&mut Honest)) -> Fault {
    let mut report = honest();
    spoil(&mut report);
    check(&report).unwrap_err()
}

#[test]
fn an_honest_report_passes() {
    assert_eq!(check(&honest()), Ok(honest().report));
}

#[test]
fn a_report_of_something_else_is_refused() {
    let other = |what| Fault::OtherReport { what };
    let sha = Sha256([9; 32]);
    assert_eq!(
        spoiled(|r| r.report.candidate = vec![sha]),
        other("candidate")
    );
    assert_eq!(spoiled(|r| r.report.candidate.clear()), other("candidate"));
    assert_eq!(spoiled(|r| r.report.window = 65), other("window"));
    let corpus = TextSource::Corpus {
        id: "owm-geo".into(),
        shards: vec![],
    };
    assert_eq!(spoiled(|r| r.report.text = corpus), other("text"));
    let update = Finding::Update {
        sha256: sha,
        size: 1,
        losses: [ExactF64(1.0); 2],
    };
    assert_eq!(spoiled(|r| r.report.finding = update), other("kind"));
    let what = "the result";
    let model = spoiled(|r| r.statement.model_sha256 = vec![sha]);
    assert_eq!(model, Fault::WrongModel { what });
    assert_eq!(
        spoiled(|r| r.statement.epoch = 1),
        Fault::WrongLease { what }
    );
    assert_eq!(spoiled(|r| r.statement.seed = 1), Fault::WrongSeed { what });
    assert_eq!(
        spoiled(|r| r.statement.input_sha256 = sha),
        Fault::WrongInput
    );
    let tokens = spoiled(|r| r.statement.tokens_sha256 = sha);
    assert_eq!(tokens, Fault::TokensHash { what: "the report" });
}

#[test]
fn what_was_not_signed_is_refused() {
    let honest = honest();
    let report = honest.report.to_bytes();
    let unsigned = check_bytes(&honest, &honest.statement, &report);
    assert_eq!(unsigned, Err(Fault::OutputHash));
    let garbage = check_bytes(&honest, &honest.statement, b"{}");
    assert_eq!(garbage, Err(Fault::NoReport));
}

#[test]
fn figures_that_cannot_be_are_refused() {
    let figures = |loss: f64, bits: f64| {
        move |r: &mut Honest| {
            r.report.finding = Finding::HeldOut {
                loss: ExactF64(loss),
                bits_per_byte: ExactF64(bits),
            }
        }
    };
    for loss in [f64::NAN, f64::INFINITY, -1.0] {
        let fault = spoiled(figures(loss, 1.0));
        assert_eq!(fault, Fault::Figure { figure: "loss" }, "{loss}");
        let figure = "bits per byte";
        assert_eq!(spoiled(figures(1.0, loss)), Fault::Figure { figure });
    }
    assert!(matches!(
        spoiled(figures(2.5, 1.0)),
        Fault::Contradiction(_)
    ));
}

#[test]
fn too_little_and_too_much_text_is_refused() {
    let few = spoiled(|r| r.report.tokens = 9);
    let (given, unit) = (9, "tokens");
    assert_eq!(
        few,
        Fault::TooLittle {
            given,
            unit,
            min: 10
        }
    );
    let (given, max) = (501, 500);
    assert_eq!(
        spoiled(|r| r.report.tokens = 501),
        Fault::TooMuch { given, unit, max }
    );
    assert!(matches!(
        spoiled(|r| r.report.documents = 0),
        Fault::TooLittle { .. }
    ));
    assert!(matches!(
        spoiled(|r| r.report.documents = 5),
        Fault::TooMuch { .. }
    ));
    assert!(matches!(
        spoiled(|r| r.report.bytes = 1_001),
        Fault::TooMuch { .. }
    ));
}
