//! What can go wrong with the database, as the caller can act on it.

/// A database operation that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres can't be reached or gave up; trying again later may work.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// A statement failed for another reason.
    #[error("the database refused: {0}")]
    Refused(#[source] sqlx::Error),
    /// A constraint held something back, such as a second booking.
    #[error("constraint {constraint} held this back: {message}")]
    Constraint {
        /// Its name.
        constraint: String,
        /// What Postgres says.
        message: String,
    },
    /// A row that no code of ours can have written.
    #[error("{table}.{column} of row {row} is inconsistent: {reason}")]
    Inconsistent {
        /// Where.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// Which row.
        row: String,
        /// What is wrong.
        reason: String,
    },
    /// Ciphertext that the data key does not open.
    #[error("stored ciphertext of {what} does not open: was the data key changed?")]
    Vault {
        /// Of what.
        what: &'static str,
    },
    /// Migrations could not be applied.
    #[error("migrations: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            sqlx::Error::Database(inner) => {
                let code = inner.code().unwrap_or_default();
                // 40xxx: deadlock, serialization; 57014: took too long; 57P0x: shutting down or starting up; 53xxx: out of resources; 08xxx: connection.
                if code.starts_with("40")
                    || code == "57014"
                    || code.starts_with("57P")
                    || code.starts_with("53")
                    || code.starts_with("08")
                {
                    return Self::Unavailable(error);
                }
                if code.starts_with("23") {
                    return Self::Constraint {
                        constraint: inner.constraint().unwrap_or_default().to_owned(),
                        message: inner.message().to_owned(),
                    };
                }
                Self::Refused(error)
            }
            _ => Self::Refused(error),
        }
    }
}

impl StoreError {
    /// Whoever was to do it ended before it was done; trying again is right.
    pub fn interrupted() -> Self {
        Self::Unavailable(sqlx::Error::WorkerCrashed)
    }

    /// The same again for another caller of the same batch, if it is nobody's own fault: the database is
    /// away for all of them. A deadlock or a conflict is none of that: each alone may well succeed.
    pub fn unavailable_again(&self) -> Option<Self> {
        match self {
            Self::Unavailable(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| code.starts_with("40")) =>
            {
                None
            }
            Self::Unavailable(error) => {
                let told = std::io::Error::other(error.to_string());
                Some(Self::Unavailable(sqlx::Error::Io(told)))
            }
            _ => None,
        }
    }

    /// A row that can't be.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass what they have at hand"
    )]
    pub(crate) fn inconsistent(
        table: &'static str,
        column: &'static str,
        row: impl ToString,
        reason: impl ToString,
    ) -> Self {
        Self::Inconsistent {
            table,
            column,
            row: row.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// Asserts that exactly one row was written.
pub(crate) fn one_row(
    rows: u64,
    table: &'static str,
    row: impl ToString,
) -> Result<(), StoreError> {
    if rows == 1 {
        Ok(())
    } else {
        Err(StoreError::inconsistent(
            table,
            "*",
            row,
            format!("{rows} rows written, not one"),
        ))
    }
}
