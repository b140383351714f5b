//! The door between `UnixMillis` and Postgres' TIMESTAMPTZ.

use owm_proto::UnixMillis;
use time::OffsetDateTime;

const NANOS_PER_MS: i128 = 1_000_000;

/// To Postgres. A time beyond year 9999 becomes the last one that can be stored.
pub(crate) fn to_pg(at: UnixMillis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * NANOS_PER_MS)
        .unwrap_or(time::macros::datetime!(9999-12-31 23:59:59 UTC))
}

/// From Postgres. A time before 1970 becomes 0.
pub(crate) fn from_pg(at: OffsetDateTime) -> UnixMillis {
    UnixMillis(u64::try_from(at.unix_timestamp_nanos() / NANOS_PER_MS).unwrap_or(0))
}
