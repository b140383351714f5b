//! The unmodified Python client `openai` from PyPI talks to the API. `make test` installs it and runs
//! this; elsewhere the test is left out, because not every machine reaches PyPI.

use std::path::Path;

use owm_devnet::{Devnet, Model};
use tokio::process::Command;

#[tokio::test]
#[ignore = "needs OWM_OPENAI_PYTHON, a Python with the package openai; `make test` sets it"]
async fn openai_client_completes_streams_and_lists_models() {
    let python =
        std::env::var("OWM_OPENAI_PYTHON").expect("OWM_OPENAI_PYTHON is set by `make test`");
    let net = Devnet::builder()
        .nodes(1)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("openai_client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(net.api().base())
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    net.stop().await.unwrap();
}
