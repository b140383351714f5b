//! A real cluster: made, used again, crashed, thrown away.

use super::*;

fn options(folder: &Path) -> PostgresOptions {
    PostgresOptions {
        dir: folder.join("postgres"),
        log: folder.join("postgres.log"),
        port: None,
        durable: false,
    }
}

async fn psql(postgres: &Postgres, sql: &str) -> String {
    let install = Install::find().unwrap();
    let output = Command::new(install.program("psql"))
        .args(["-X", "-q", "-A", "-t", postgres.url(), "-c", sql])
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A temporary folder that the server's account may pass through.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    give_to(folder.path(), install::account().unwrap()).unwrap();
    folder
}

#[tokio::test]
async fn a_cluster_is_kept_between_runs_and_survives_a_crash() {
    let folder = folder();
    let first = Postgres::start(&options(folder.path())).await.unwrap();
    psql(
        &first,
        "create table kept (n int); insert into kept values (7)",
    )
    .await;
    first.stop().await.unwrap();

    let mut second = Postgres::start(&options(folder.path())).await.unwrap();
    assert_eq!(psql(&second, "select n from kept").await, "7");
    psql(&second, "checkpoint").await;
    // A crash: the pid file stays.
    second.process().kill().await.unwrap();
    let pid_file = second.dir().join("data/postmaster.pid");
    drop(second);
    assert!(pid_file.exists());

    let third = Postgres::start(&options(folder.path())).await.unwrap();
    assert_eq!(psql(&third, "select n from kept").await, "7");
    third.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_left_running_is_ended_before_the_next_start() {
    let folder = folder();
    let first = Postgres::start(&options(folder.path())).await.unwrap();
    let second = Postgres::start(&options(folder.path())).await.unwrap();
    assert_eq!(psql(&second, "select 1").await, "1");
    drop(first);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_initdb_is_done_again() {
    let folder = folder();
    let options = options(folder.path());
    let home = reachable_home(&options.dir, install::account().unwrap()).unwrap();
    fs::create_dir_all(home.join("data.unfinished/base")).unwrap();
    let postgres = Postgres::start(&options).await.unwrap();
    assert_eq!(psql(&postgres, "select current_user").await, USER);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn strangers_need_the_password() {
    let postgres = Postgres::throwaway().await.unwrap();
    let install = Install::find().unwrap();
    let url = format!("postgres://{USER}@127.0.0.1:{}/{USER}", postgres.port());
    let output = Command::new(install.program("psql"))
        .args(["-X", "-w", &url, "-c", "select 1"])
        .env_remove("PGPASSWORD")
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
}

#[tokio::test]
async fn a_throwaway_leaves_nothing() {
    let mut postgres = Postgres::throwaway().await.unwrap();
    let (dir, pid) = (postgres.dir().to_owned(), postgres.process().pid());
    assert!(dir.exists());
    drop(postgres);
    assert!(!dir.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
