//! `owm-node start`: loads the configuration and the key, probes the machine, runs the daemon.

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::Args;
use owm_proto::{NodeKey, invite::Invite};
use owm_service::{
    Context, Program, RunError,
    dialer::{Dialer, NetworkPolicy},
    doctor,
    health::Readiness,
    supervisor,
    telemetry::{LogFormat, TelemetryOptions},
};

use super::{ConfigArg, Output, finish};
use crate::{
    config::{self, NodeConfig},
    daemon::{self, Parts},
    engine::EngineLoader,
    hardware::{Backend, Hardware},
    home::Home,
    last_exit::LastExit,
    text::Texts,
};

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  owm-node start --config ~/.owm/node/owm.toml\n\n\
    Exit codes: 0 stopped as asked, 1 failed, 2 configuration wrong, 78 another process has this \
    node's key (do not restart)."
)]
pub(super) struct StartArgs {
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &StartArgs, output: Output) -> ExitCode {
    let (path, config) = match arguments.config.load() {
        Ok(loaded) => loaded,
        Err(error) => return finish(Err(arguments.with_hint(&error)), output),
    };
    let hinting = arguments.clone();
    let format = match config.log.format {
        config::LogFormat::Auto => None,
        config::LogFormat::Human => Some(LogFormat::Human),
        config::LogFormat::Json => Some(LogFormat::Json),
    };
    let telemetry = TelemetryOptions {
        default_filter: config.log.filter.clone(),
        format,
    };
    let program = Program {
        name: "owm-node",
        version: crate::VERSION,
        telemetry,
    };
    owm_service::run(program, async move |context| {
        let run = async move {
            let home = Home::open(&config.data_folder(&path))?;
            let _lock = home.lock()?;
            let clock = Arc::clone(&context.clock);
            LastExit::begin(&home, clock.now_ms());
            let beside = path.parent().unwrap_or(Path::new("")).to_owned();
            let outcome = Box::pin(serve(context, config, home.clone(), &beside)).await;
            LastExit::of(&outcome, clock.now_ms()).store(&home);
            outcome
        };
        run.await.map_err(|error| hinting.with_hint(&error))
    })
}

impl StartArgs {
    /// The error with the way to find out more.
    fn with_hint(&self, error: &RunError) -> RunError {
        let command = match &self.config.config {
            Some(path) => format!("owm-node doctor --config {}", doctor::shell(path)),
            None => "owm-node doctor".to_owned(),
        };
        doctor::hint(error, &command)
    }
}

async fn serve(
    context: Context,
    config: NodeConfig,
    home: Home,
    beside: &Path,
) -> Result<(), RunError> {
    if config.coordinator.invite.is_empty() {
        return Err(RunError::usage(
            "[coordinator] invite is empty; run owm-node init --join <invite>",
        ));
    }
    let invite: Invite = config.coordinator.invite.parse().map_err(RunError::usage)?;
    let key = Arc::new(NodeKey::load(&home.key())?);
    let readiness = Readiness::default();
    // Known before the port answers: a node without conditions would count as ready.
    for name in ["registered", "work_link", "model"] {
        readiness.check(name);
    }
    let _health = match config.health.listen.as_str() {
        "off" => None,
        listen => {
            let addr = listen.parse().map_err(|_| {
                RunError::usage(format!(
                    "[health] listen = `{listen}` is no address; write 127.0.0.1:9091 or off"
                ))
            })?;
            let running = context.health(readiness.clone()).bind(addr).await?;
            tracing::info!(health.addr = %running.addr, "health checks");
            Some(running)
        }
    };
    let hardware = Hardware::probe(home.path()).await;
    let lines = hardware.lines();
    for line in &lines {
        tracing::info!("{line}");
    }
    let (loader, backend) = engine(&config)?;
    let texts = texts(&config, beside);
    tracing::info!(node.key = %key.public(), data = %home.path().display(), "node starts");
    supervisor::ready("running; see owm-node status");
    let parts = Parts {
        capabilities: hardware.capabilities(backend),
        hardware: lines,
        config,
        home,
        key,
        invite,
        dialer: Dialer::new(NetworkPolicy::Clearnet),
        loader,
        texts,
        readiness,
    };
    // It holds all that the daemon does: too much for the stack of who waits for it.
    Box::pin(daemon::run(context.into(), parts)).await
}

#[cfg(feature = "burn")]
pub(super) fn engine(config: &NodeConfig) -> Result<(Arc<dyn EngineLoader>, Backend), RunError> {
    use crate::engine::burn::{BurnLoader, set_threads};
    set_threads(config.model.threads).map_err(RunError::usage)?;
    let device = config.model.device;
    let can_use_gpu = cfg!(feature = "gpu") && device != config::Device::Cpu;
    let backend = if can_use_gpu {
        Backend::Gpu
    } else {
        Backend::Cpu
    };
    Ok((Arc::new(BurnLoader { device }), backend))
}

/// Text to measure with; `beside`: the configuration's folder.
#[cfg(feature = "burn")]
fn texts(config: &NodeConfig, beside: &Path) -> Arc<dyn Texts> {
    let section = &config.text;
    Arc::new(crate::text::OwnTexts {
        folder: section.folder.as_ref().map(|folder| beside.join(folder)),
        cache: section
            .cache
            .as_ref()
            .map(|cache| beside.join(cache))
            .or_else(super::train::cache_folder),
        fetch: section.fetch,
    })
}

#[cfg(not(feature = "burn"))]
fn texts(_: &NodeConfig, _: &Path) -> Arc<dyn Texts> {
    Arc::new(crate::text::NoTexts)
}

#[cfg(not(feature = "burn"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build's can fail")]
fn engine(_: &NodeConfig) -> Result<(Arc<dyn EngineLoader>, Backend), RunError> {
    Ok((Arc::new(crate::engine::NoEngine), Backend::None))
}
