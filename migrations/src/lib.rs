#![doc = include_str!("../README.md")]

/// All migrations, in order; what `owm-coordinator migrate` and the tests apply.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./sql");
