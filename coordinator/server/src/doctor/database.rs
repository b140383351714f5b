//! Postgres: whether it can be reached, is new enough, set so that nothing is lost, and has our schema.

use std::{path::Path, sync::Arc};

use owm_coordinator_store::{
    StoreError,
    doctor::{ConnectError, Database, Migrations, Place, Server, place},
};
use owm_service::{
    clock::{Clock as _, SystemClock},
    doctor::{Finding, disk},
    report::Chain,
};

use super::Ground;
use crate::serve;

/// The oldest Postgres that is tested (spec §15).
const VERSION_NUM_MIN: i32 = 150_000;
/// Offset between its clock and ours from which somebody should look: leases are timed by both.
const OFFSET_WARN_MS: u64 = 1_000;
/// Above this, leases end at the wrong time.
const OFFSET_PROBLEM_MS: u64 = 60_000;

/// What is known after the connection.
struct Facts {
    server: Server,
    /// Our time when it told its own.
    ours_ms: u64,
    migrations: Result<Migrations, StoreError>,
    /// Whether the data key opens what is stored.
    opens: Option<bool>,
}

pub(super) async fn check(ground: Arc<Ground>) -> Vec<Finding> {
    let url = match serve::database_url(&ground.config) {
        Ok(url) => url,
        Err(error) => {
            let fix = "write the URL (postgres://user:password@host/name) to the file that [database] url_file names, mode 0600";
            return vec![Finding::problem("database", Chain(&error).to_string(), fix)];
        }
    };
    let place = match place(&url) {
        Ok(place) => place,
        Err(error) => {
            let fix = "correct [database] url or the file of url_file: postgres://user:password@host/name";
            return vec![Finding::problem("database", Chain(&error).to_string(), fix)];
        }
    };
    let mut database = match Database::connect(&url).await {
        Ok(database) => database,
        Err(error) => return vec![judge_connect(&error, &place)],
    };
    match facts(&mut database, &ground).await {
        Ok(facts) => judge(&facts, &place, &ground),
        Err(error) => vec![Finding::problem(
            "database",
            format!("it answers, but not to questions: {}", Chain(&error)),
            "look at Postgres's log",
        )],
    }
}

async fn facts(database: &mut Database, ground: &Ground) -> Result<Facts, StoreError> {
    let server = database.server().await?;
    let ours_ms = SystemClock::new().now_ms();
    let migrations = database.migrations().await;
    let has_schema = migrations.as_ref().is_ok_and(|m| m.missing.is_empty());
    let opens = match &ground.vault {
        Ok(vault) if has_schema => database.opens(vault).await?,
        _ => None,
    };
    Ok(Facts {
        server,
        ours_ms,
        migrations,
        opens,
    })
}

fn judge_connect(error: &ConnectError, place: &Place) -> Finding {
    let Place {
        host,
        port,
        database,
        user,
    } = place;
    let what = format!("{host}:{port}, database {database}: {}", Chain(error));
    let fix = match error {
        ConnectError::Url(_) => "correct [database] url".to_owned(),
        ConnectError::Silent(_) | ConnectError::Late => format!(
            "start Postgres (systemctl start postgresql), or correct host and port in [database]; `pg_isready -h {host} -p {port}` tells when it is there"
        ),
        ConnectError::Denied(_) => format!(
            "correct user and password in [database] url_file, or let {user} in (pg_hba.conf; ALTER ROLE {user} PASSWORD …)"
        ),
        ConnectError::NoDatabase(_) => {
            format!("createdb -h {host} -p {port} -O {user} {database}")
        }
        ConnectError::Refused(_) => "look at Postgres's log".to_owned(),
    };
    Finding::problem("database", what, fix)
}

fn judge(facts: &Facts, place: &Place, ground: &Ground) -> Vec<Finding> {
    let server = &facts.server;
    let mut findings = vec![judge_version(server.version_num, place)];
    findings.extend(judge_durability(server));
    findings.push(judge_connections(
        server,
        ground.config.database.connections_max,
    ));
    findings.push(judge_clock(server.now_ms, facts.ours_ms));
    let migrate = ground.command("migrate");
    let is_running = ground.running.is_up();
    findings.push(match &facts.migrations {
        Ok(migrations) => judge_migrations(migrations, &migrate, is_running),
        Err(error) => Finding::problem("database.migrations", Chain(error).to_string(), migrate),
    });
    if let Ok(_vault) = &ground.vault {
        findings.push(judge_data_key(facts.opens));
    }
    findings.extend(data_directory(server));
    findings
}

fn judge_version(version_num: i32, place: &Place) -> Finding {
    const AREA: &str = "database";
    let version = format!("Postgres {}.{}", version_num / 10_000, version_num % 10_000);
    if version_num < VERSION_NUM_MIN {
        let what = format!("{version} is too old: 15 is the oldest that is supported");
        return Finding::problem(AREA, what, "upgrade Postgres (pg_upgradecluster)");
    }
    let Place {
        host,
        port,
        database,
        user,
    } = place;
    Finding::ok(
        AREA,
        format!("{version} at {host}:{port}, database {database} as {user}"),
    )
}

/// What a power cut would take.
fn judge_durability(server: &Server) -> Vec<Finding> {
    const AREA: &str = "database.durability";
    let mut findings = Vec::new();
    let mut off = |name: &str, loses: &str| {
        findings.push(Finding::warning(
            AREA,
            format!("{name} = off: a power cut {loses}"),
            format!("ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf(); (or correct postgresql.conf and Postgres's command line)"),
        ));
    };
    if !server.fsync {
        off("fsync", "may destroy the whole database");
    }
    if !server.full_page_writes {
        off("full_page_writes", "may tear pages");
    }
    if server.synchronous_commit == "off" {
        off(
            "synchronous_commit",
            "takes back answers and bookings that were told already",
        );
    }
    if findings.is_empty() {
        let what = format!("fsync on, synchronous_commit {}", server.synchronous_commit);
        findings.push(Finding::ok(AREA, what));
    }
    findings
}

fn judge_connections(server: &Server, pool: u32) -> Finding {
    const AREA: &str = "database.connections";
    let (max, now) = (i64::from(server.connections_max), server.connections);
    let pool = i64::from(pool);
    if max < pool {
        return Finding::problem(
            AREA,
            format!("Postgres takes {max} connections, [database] connections_max is {pool}"),
            format!(
                "ALTER SYSTEM SET max_connections = {}; and restart Postgres, or lower connections_max",
                pool + 20
            ),
        );
    }
    if now.saturating_mul(10) > max.saturating_mul(9) {
        return Finding::warning(
            AREA,
            format!("{now} of {max} connections are in use"),
            "find out by whom: SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2",
        );
    }
    Finding::ok(
        AREA,
        format!("{now} of {max} in use, the pool takes up to {pool}"),
    )
}

fn judge_clock(theirs_ms: u64, ours_ms: u64) -> Finding {
    const AREA: &str = "database.clock";
    let off_ms = theirs_ms.abs_diff(ours_ms);
    let what = format!("Postgres's clock and this machine's differ by {off_ms} ms");
    let fix = "timedatectl set-ntp true, on both machines";
    if off_ms > OFFSET_PROBLEM_MS {
        Finding::problem(AREA, what, fix)
    } else if off_ms > OFFSET_WARN_MS {
        Finding::warning(AREA, what, fix)
    } else {
        Finding::ok(AREA, "agrees with this machine's")
    }
}

fn judge_migrations(found: &Migrations, migrate: &str, is_running: bool) -> Finding {
    const AREA: &str = "database.migrations";
    let Migrations {
        applied,
        missing,
        unknown,
        changed,
        dirty,
    } = found;
    if let Some(version) = dirty {
        let what = format!("migration {version} was begun and not ended");
        return Finding::problem(
            AREA,
            what,
            "restore the database from a backup (owm-coordinator restore)",
        );
    }
    if !changed.is_empty() {
        let what =
            format!("migrations {changed:?} were applied in another form than this program has");
        return Finding::problem(
            AREA,
            what,
            "use the owm-coordinator that this database belongs to",
        );
    }
    if !unknown.is_empty() {
        let what = format!(
            "the database has migrations {unknown:?} that this program does not know: it is older than the database"
        );
        return Finding::problem(AREA, what, "update owm-coordinator");
    }
    if missing.is_empty() {
        return Finding::ok(AREA, format!("all {applied} are applied"));
    }
    let what = format!("migrations {missing:?} are missing");
    if is_running {
        let fix = format!("{migrate}, or restart the coordinator: it applies them");
        return Finding::problem(AREA, what, fix);
    }
    Finding::warning(AREA, what, format!("{migrate} (serve applies them too)"))
}

fn judge_data_key(opens: Option<bool>) -> Finding {
    const AREA: &str = "key.data";
    match opens {
        Some(true) => Finding::ok(AREA, "opens what is stored"),
        None => Finding::ok(AREA, "whole; nothing is stored yet that it could open"),
        Some(false) => Finding::problem(
            AREA,
            "does not open what is stored: it is another network's, or another backup's",
            "restore data.key and the database from the same backup (owm-coordinator restore)",
        ),
    }
}

/// Room where Postgres writes, if that is here and may be seen.
fn data_directory(server: &Server) -> Vec<Finding> {
    let Some(directory) = server.data_directory.as_ref().filter(|_| server.is_local) else {
        return Vec::new();
    };
    let folder = Path::new(directory);
    let Ok(room) = disk::probe_room(folder) else {
        return Vec::new(); // Another container's, or not for our eyes.
    };
    let fix = "move Postgres's data directory to a larger disk";
    disk::judge_room("database.disk", room, 0, "", folder, fix)
}

#[cfg(test)]
mod tests;
