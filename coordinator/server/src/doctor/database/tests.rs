//! Judgements about the database.

use owm_service::doctor::Level;

use super::*;

fn place() -> Place {
    Place {
        host: "db".into(),
        port: 5432,
        database: "owm".into(),
        user: "owm".into(),
    }
}

fn server() -> Server {
    Server {
        version_num: 150_004,
        fsync: true,
        full_page_writes: true,
        synchronous_commit: "on".into(),
        connections_max: 97,
        connections: 5,
        now_ms: 1_000,
        data_directory: None,
        is_local: true,
    }
}

#[test]
fn postgres_is_new_enough() {
    let finding = judge_version(150_004, &place());
    assert_eq!(finding.level, Level::Ok);
    assert!(finding.what.starts_with("Postgres 15.4 at db:5432"));
    assert_eq!(judge_version(140_009, &place()).level, Level::Problem);
}

#[test]
fn each_setting_that_loses_data_is_a_warning() {
    assert_eq!(judge_durability(&server())[0].level, Level::Ok);
    let careless = Server {
        fsync: false,
        full_page_writes: false,
        synchronous_commit: "off".into(),
        ..server()
    };
    let found = judge_durability(&careless);
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|f| f.level == Level::Warning));
    assert!(found[0].fix.as_ref().unwrap().contains("SET fsync = on"));
}

#[test]
fn the_pool_must_fit_into_what_postgres_takes() {
    assert_eq!(judge_connections(&server(), 16).level, Level::Ok);
    assert_eq!(judge_connections(&server(), 98).level, Level::Problem);
    let busy = Server {
        connections: 90,
        ..server()
    };
    assert_eq!(judge_connections(&busy, 16).level, Level::Warning);
}

#[test]
fn clocks_that_differ_are_told() {
    assert_eq!(judge_clock(10_000, 10_900).level, Level::Ok);
    assert_eq!(judge_clock(10_000, 12_000).level, Level::Warning);
    assert_eq!(judge_clock(10_000, 100_000).level, Level::Problem);
}

#[test]
fn migrations_are_all_there_or_the_finding_says_what_to_run() {
    let judge = |change: fn(&mut Migrations), is_running| {
        let mut migrations = Migrations {
            applied: 5,
            ..Migrations::default()
        };
        change(&mut migrations);
        judge_migrations(&migrations, "owm-coordinator migrate", is_running)
    };
    assert_eq!(judge(|_| {}, true).level, Level::Ok);
    let missing = judge(|m| m.missing = vec![5], false);
    assert_eq!(missing.level, Level::Warning);
    assert!(missing.fix.unwrap().starts_with("owm-coordinator migrate"));
    assert_eq!(judge(|m| m.missing = vec![5], true).level, Level::Problem);
    assert_eq!(judge(|m| m.unknown = vec![9], false).level, Level::Problem);
    assert_eq!(judge(|m| m.changed = vec![1], false).level, Level::Problem);
    assert_eq!(judge(|m| m.dirty = Some(1), false).level, Level::Problem);
}

#[test]
fn a_data_key_that_opens_nothing_that_is_there_is_a_problem() {
    assert_eq!(judge_data_key(Some(true)).level, Level::Ok);
    assert_eq!(judge_data_key(None).level, Level::Ok);
    assert_eq!(judge_data_key(Some(false)).level, Level::Problem);
}

#[tokio::test]
async fn a_database_that_is_down_says_where_it_was_looked_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("postgres://owm:secret@127.0.0.1:{port}/owm");
    let error = Database::connect(&url).await.unwrap_err();
    assert!(matches!(error, ConnectError::Silent(_)), "{error:?}");
    let finding = judge_connect(&error, &owm_coordinator_store::doctor::place(&url).unwrap());
    assert_eq!(finding.level, Level::Problem);
    assert!(finding.what.contains(&port.to_string()) && !finding.what.contains("secret"));
    assert!(finding.fix.unwrap().contains("start Postgres"));
}
