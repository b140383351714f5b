//! `up`: a network in the foreground until Ctrl-C.

use std::time::Duration;

use anyhow::Result;
use owm_service::lifecycle::Lifecycle;

use super::UpArgs;
use crate::{Devnet, Model, show};

/// The parts' grace periods together, so that an orderly stop is never cut short.
const GRACE: Duration = Duration::from_secs(80);

pub(super) async fn run(args: &UpArgs, lifecycle: &Lifecycle) -> Result<()> {
    lifecycle.set_grace(GRACE);
    let dir = args.dir.dir()?;
    let model = args.model.as_deref().map_or(Model::Tiny, Model::parse);
    say(&format!(
        "Starting a local OWM network in {} (Ctrl-C stops it)",
        dir.display()
    ));
    if model == Model::Tiny {
        say("  NOTE: the tiny stand-in model is served: its answers mean nothing");
    }
    let start = Devnet::builder()
        .nodes(args.nodes)
        .data_dir(dir)
        .model(model)
        .report(show::step);
    let mut devnet = tokio::select! {
        started = start.start() => started?,
        () = lifecycle.shutdown_requested() => {
            say("\nstopped before everything was up; nothing is left running");
            return Ok(());
        }
    };
    let versions = devnet.api().get("/v1/model/versions").await?.ok()?;
    let swarm = show::swarm(&devnet).await;
    let banner = show::banner(&mut devnet, &show::served(&versions)?, swarm);
    say(&format!("\nThe network is up.\n\n{banner}"));
    let outcome = watch(&mut devnet, lifecycle).await;
    say("\nstopping …");
    devnet.stop().await?;
    say("stopped; the state is kept, `make up` goes on with it");
    outcome
}

/// Until Ctrl-C; fails when a part dies that the rest needs.
async fn watch(devnet: &mut Devnet, lifecycle: &Lifecycle) -> Result<()> {
    loop {
        tokio::select! {
            () = lifecycle.shutdown_requested() => return Ok(()),
            (error, is_node) = devnet.death() => {
                if !is_node {
                    return Err(error.context("a part that the network needs has ended"));
                }
                say(&format!("\na node is gone, the others go on: {error:#}"));
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn say(text: &str) {
    println!("{text}");
}
