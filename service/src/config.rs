//! Configuration: one TOML file, one struct per section, environment overrides, a generated sample.
//!
//! Daemons declare their sections with [`config!`](crate::config!) and call [`load()`]; `config sample`
//! prints [`sample()`]. Must stay true: an unknown key or variable is an error that names the nearest
//! known one; every key has a doc line and a default; the sample reads back as the defaults.
//!
//! ```
//! owm_service::config! {
//!     /// A node's configuration.
//!     pub struct NodeConfig {
//!         /// How it reaches the coordinator.
//!         pub coordinator: CoordinatorSection,
//!     }
//!
//!     /// How it reaches the coordinator.
//!     pub struct CoordinatorSection {
//!         /// `host:port` of the coordinator.
//!         pub address: String = "localhost:9000".to_owned(),
//!         /// Time for one call.
//!         pub timeout: owm_service::config::HumanDuration =
//!             owm_service::config::HumanDuration::from_secs(30),
//!     }
//! }
//! let config: NodeConfig = owm_service::config::load(None, "OWM")?;
//! assert_eq!(config.coordinator.timeout.get().as_secs(), 30);
//! # Ok::<(), owm_service::config::ConfigError>(())
//! ```
//!
//! The first struct has no defaults and lists the sections; the others give every key a default. A
//! section may be used by several roots. `Option<T> = None` is a key that may be absent.

mod examine;
mod human;
mod load;
mod sample;

use std::path::PathBuf;

pub use examine::{Examined, examine, examine_text};
pub use human::{HumanBytes, HumanDuration, ParseHumanError};
pub use load::{CONFIG_BYTES_MAX, load, parse};
pub use sample::sample;

/// A key of a section.
#[derive(Debug, Clone)]
pub struct KeyDoc {
    /// Its name.
    pub name: &'static str,
    /// Its doc comment, line by line, as written (each line may begin with a blank).
    pub doc: &'static [&'static str],
    /// Its default as TOML; `None` when it is absent by default.
    pub default: Option<String>,
}

/// A section of a configuration.
#[derive(Debug, Clone)]
pub struct SectionDoc {
    /// Its name.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static [&'static str],
    /// Its keys in order.
    pub keys: Vec<KeyDoc>,
}

/// A configuration that knows its sections; made by [`config!`](crate::config!).
pub trait Documented {
    /// The doc comment of the whole.
    const DOC: &'static [&'static str];

    /// The sections in order.
    fn sections() -> Vec<SectionDoc>;
}

/// One section that knows its keys; made by [`config!`](crate::config!).
pub trait Section {
    /// The keys in order.
    fn keys() -> Vec<KeyDoc>;
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is too large to be a configuration.
    #[error(
        "the configuration {} has more than {CONFIG_BYTES_MAX} bytes: is it the right file?",
        path.display()
    )]
    TooLarge {
        /// As given.
        path: PathBuf,
    },
    /// Not TOML, or a value of the wrong type; the message shows the line.
    #[error("the configuration is wrong:\n{message}")]
    Toml {
        /// The parser's message with line and column.
        message: String,
    },
    /// A section that does not exist.
    #[error("line {line}: there is no section `{section}`{}", hint(nearest.as_ref()))]
    UnknownSection {
        /// Line in the file, from 1.
        line: usize,
        /// As written.
        section: String,
        /// The known one most like it.
        nearest: Option<String>,
    },
    /// A key that does not exist.
    #[error("line {line}: section `{section}` has no key `{key}`{}", hint(nearest.as_ref()))]
    UnknownKey {
        /// Line in the file, from 1.
        line: usize,
        /// The section.
        section: String,
        /// As written.
        key: String,
        /// The known one most like it.
        nearest: Option<String>,
    },
    /// A value that does not fit its key (from [`examine()`]; [`load()`] shows the parser's message).
    #[error("line {line}: [{section}] {key}: {message}")]
    Value {
        /// Line in the file, from 1.
        line: usize,
        /// The section.
        section: String,
        /// The key; empty: the section itself.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A variable of ours that overrides nothing.
    #[error("the environment variable {variable} overrides no key{}", hint(nearest.as_ref()))]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// The known one most like it.
        nearest: Option<String>,
    },
    /// A variable whose value does not fit its key.
    #[error("the environment variable {variable} does not fit: {message}")]
    Variable {
        /// Its name.
        variable: String,
        /// What is wrong.
        message: String,
    },
}

fn hint(nearest: Option<&String>) -> String {
    nearest
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default()
}

/// Declares a configuration: see the [module](mod@crate::config).
#[macro_export]
macro_rules! config {
    () => {};
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $key_doc:literal])*
                $key_vis:vis $key:ident : $type:ty = $default:expr
            ),+ $(,)?
        }
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        #[derive(
            ::std::fmt::Debug,
            ::std::clone::Clone,
            $crate::config::macro_support::Serialize,
            $crate::config::macro_support::Deserialize,
        )]
        #[serde(crate = "owm_service::config::macro_support::serde", default, deny_unknown_fields)]
        $vis struct $name {
            $($(#[doc = $key_doc])* $key_vis $key: $type,)+
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::config::Section for $name {
            fn keys() -> ::std::vec::Vec<$crate::config::KeyDoc> {
                let defaults = <Self as ::std::default::Default>::default();
                ::std::vec![$(
                    $crate::config::KeyDoc {
                        name: ::std::stringify!($key),
                        doc: &[$($key_doc),*],
                        default: $crate::config::macro_support::inline(&defaults.$key),
                    },
                )+]
            }
        }

        $crate::config! { $($rest)* }
    };
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $section_doc:literal])*
                $section_vis:vis $section:ident : $type:ty
            ),+ $(,)?
        }
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        #[derive(
            ::std::fmt::Debug,
            ::std::clone::Clone,
            ::std::default::Default,
            $crate::config::macro_support::Serialize,
            $crate::config::macro_support::Deserialize,
        )]
        #[serde(crate = "owm_service::config::macro_support::serde", default, deny_unknown_fields)]
        $vis struct $name {
            $($(#[doc = $section_doc])* $section_vis $section: $type,)+
        }

        impl $crate::config::Documented for $name {
            const DOC: &'static [&'static str] = &[$($doc),*];

            fn sections() -> ::std::vec::Vec<$crate::config::SectionDoc> {
                ::std::vec![$(
                    $crate::config::SectionDoc {
                        name: ::std::stringify!($section),
                        doc: &[$($section_doc),*],
                        keys: <$type as $crate::config::Section>::keys(),
                    },
                )+]
            }
        }

        $crate::config! { $($rest)* }
    };
}

/// What [`config!`](crate::config!) expands to needs these; nobody else does.
#[doc(hidden)]
pub mod macro_support {
    pub use serde::{self, Deserialize, Serialize};

    pub use super::sample::inline;
}

#[cfg(test)]
mod tests;
