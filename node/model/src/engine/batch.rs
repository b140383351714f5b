//! Several answers in shared forward passes. Called by [`super::Engine::generate_batch`].
//! Prompts are padded on the left; padding is masked and does not move a token's position, so a
//! row computes what it would compute alone, up to the rounding of the matrix products.

use std::time::Instant;

use super::{GenerateJob, Generation, Loaded, forward::Sequences, generate};
use crate::GenerateError;

/// Most rows of one forward pass: bounds the caches held at once.
const ROWS_MAX: usize = 8;

/// Generates every job's answer, in the jobs' order.
pub(super) fn run(loaded: &Loaded, jobs: &[GenerateJob]) -> Vec<Result<Generation, GenerateError>> {
    // A forced prefix has to be replayed step by step: such jobs run alone.
    let shared: Vec<usize> = (0..jobs.len())
        .filter(|index| jobs[*index].forced_prefix.is_empty())
        .collect();
    let mut results: Vec<Option<Result<Generation, GenerateError>>> =
        jobs.iter().map(|_| None).collect();
    for indices in shared.chunks(ROWS_MAX) {
        let group: Vec<&GenerateJob> = indices.iter().map(|index| &jobs[*index]).collect();
        for (index, result) in indices.iter().zip(run_group(loaded, &group)) {
            results[*index] = Some(result);
        }
    }
    let alone = |job| generate::run(loaded, job, &mut |_| std::ops::ControlFlow::Continue(()));
    jobs.iter()
        .zip(results)
        .map(|(job, result)| result.unwrap_or_else(|| alone(job)))
        .collect()
}

/// A row of the batch, or the reason why there is none.
type Row<'a> = Result<generate::Progress<'a>, GenerateError>;

fn run_group(loaded: &Loaded, jobs: &[&GenerateJob]) -> Vec<Result<Generation, GenerateError>> {
    let started = Instant::now();
    let mut rows: Vec<Row<'_>> = jobs
        .iter()
        .map(|job| generate::Progress::new(loaded, job))
        .collect();
    let mut prompt_done = started;
    let live = live_rows(&rows);
    if !live.is_empty()
        && let Err(error) = decode(loaded, jobs, &mut rows, &live, &mut prompt_done)
    {
        let text = error.to_string();
        for index in live_rows(&rows) {
            rows[index] = Err(GenerateError::Device(text.clone()));
        }
    }
    rows.into_iter()
        .map(|row| row.map(|progress| progress.into_generation(started, prompt_done)))
        .collect()
}

fn live_rows(rows: &[Row<'_>]) -> Vec<usize> {
    let is_live = |row: &Row<'_>| row.as_ref().is_ok_and(|progress| progress.finish.is_none());
    (0..rows.len())
        .filter(|index| is_live(&rows[*index]))
        .collect()
}

fn decode(
    loaded: &Loaded,
    jobs: &[&GenerateJob],
    rows: &mut [Row<'_>],
    live: &[usize],
    prompt_done: &mut Instant,
) -> Result<(), GenerateError> {
    let longest = live
        .iter()
        .map(|index| jobs[*index].prompt.len())
        .max()
        .unwrap_or(0);
    let padding: Vec<usize> = live
        .iter()
        .map(|index| longest - jobs[*index].prompt.len())
        .collect();
    let prompts: Vec<Vec<u32>> = live
        .iter()
        .zip(&padding)
        .map(|(index, pad)| {
            let padded = std::iter::repeat_n(0, *pad);
            padded.chain(jobs[*index].prompt.iter().copied()).collect()
        })
        .collect();
    let answer = live.iter().filter_map(|index| rows[*index].as_ref().ok());
    let answer = answer
        .map(|progress| progress.tokens_max)
        .max()
        .unwrap_or(0);
    let mut sequences = Sequences::new(loaded, padding, longest + answer);
    let mut scores = sequences.prompt(&prompts)?;
    *prompt_done = Instant::now();
    loop {
        // A row that has ended goes on with token 0, unread, until the last one has.
        let mut next = vec![0; live.len()];
        let mut any_live = false;
        for ((index, scores), next) in live.iter().zip(&scores).zip(&mut next) {
            let row = &mut rows[*index];
            let Ok(progress) = row else { continue };
            if progress.finish.is_some() {
                continue;
            }
            match progress
                .accept(scores)
                .map(|event| event.map(|event| event.token))
            {
                Ok(Some(token)) => *next = token,
                Ok(None) => {}
                Err(error) => *row = Err(error),
            }
            any_live |= row.as_ref().is_ok_and(|progress| progress.finish.is_none());
        }
        if !any_live {
            return Ok(());
        }
        scores = sequences.step(&next)?;
    }
}
